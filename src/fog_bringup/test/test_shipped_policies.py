"""The policies in ``policies/``, and every command that takes one of them by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fog_bringup import launch_arguments
from fog_bringup.benchmarks.benchmark_policy import make_policy, write_untrained
from fog_bringup.cli import main
from fog_bringup.closed_loop_plan import contenders_of
from fog_bringup.tasks import find_task
from fog_policy.bundle import load_bundle
from fog_policy.shipped_policies import policy_folders, policy_names
from fog_world_model.errors import FogError
from fog_world_model.training.export import LARGEST_FILE

ROOM = Path(__file__).resolve().parents[1] / "policies"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained policy of pusht_easy that ships under the name ``nudge``."""
    folder = tmp_path / "share" / "fog_bringup" / "policies" / "nudge"
    write_untrained(find_task("pusht_easy"), folder, "tiny")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    return folder


def test_what_ships_is_whole_small_and_documented() -> None:
    """Of nothing, as long as nothing ships; the rows of the table are the folders."""
    assert policy_folders()[0] == ROOM
    folders = sorted(p for p in ROOM.iterdir() if p.is_dir())
    table = [line.split("|") for line in (ROOM / "README.md").read_text().splitlines()]
    rows = [[cell.strip(" `") for cell in line[1:-1]] for line in table if len(line) > 2]
    assert rows[0] == ["name", "task", "method", "trained how (command)",
                       "evaluated by (command)", "figure"]  # fmt: skip
    assert sorted(row[0] for row in rows[2:]) == [p.name for p in folders]
    for row in rows[2:]:
        bundle = load_bundle(ROOM / row[0], find_task(row[1]))
        bundle.networks()  # their hash, and that they fit
        assert sum(f.stat().st_size for f in (ROOM / row[0]).iterdir()) <= LARGEST_FILE
        assert row[2] == bundle.manifest["method"] and all(row)


def test_doors_without_nodes_take_a_name(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nudge" in policy_names()
    assert launch_arguments.check_bundle("nudge", "pusht_easy") == shipped
    assert launch_arguments.bundle_task("nudge") == find_task("pusht_easy")
    with pytest.raises(FogError, match=r"nugde: no such folder, .* known are .*nudge"):
        launch_arguments.check_bundle("nugde", "")
    task, contenders = contenders_of([Path("nudge")], driver=False)
    assert task == find_task("pusht_easy")
    assert (contenders[0].name, contenders[0].bundle) == ("nudge", shipped)
    _, contenders = contenders_of([Path("nudge")], driver=True, operator=True)
    kinds = ["bundle", "driver", "operator", "random", "standing"]
    assert [contender.kind for contender in contenders] == kinds
    made = make_policy(Path("nudge"), tmp_path / "unused")
    assert made.path == shipped and made.about == "bundle nudge"
    assert main(["evaluate", "zero-shot", "nudge", "--episodes", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"]["episodes"] == 1


def test_one_is_put_there_by_export(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shipped.with_name("shove")
    assert main(["train", "export", str(shipped), str(output)]) == 0
    assert f"{output}: 0." in (printed := capsys.readouterr().out) and "'pusht_easy'" in printed
    assert load_bundle(output).manifest == load_bundle(shipped).manifest
    assert "shove" in policy_names()
    assert main(["train", "export", str(shipped), str(tmp_path / "h"), "--precision=float16"]) == 0
    assert load_bundle(tmp_path / "h").manifest["exported"] == {"precision": "float16"}

    # Of a task that has changed since.
    manifest = json.loads((shipped / "manifest.json").read_text())
    manifest["task"]["control_hz"] *= 2
    (shipped / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["train", "export", str(shipped), str(tmp_path / "other")]) == 2
    assert "differ in control_hz" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
