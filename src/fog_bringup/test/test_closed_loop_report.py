"""What a closed-loop report makes of records, and which records it goes on with. No nodes here."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fog_bringup import closed_loop_records
from fog_bringup.closed_loop import Record, make_record
from fog_bringup.closed_loop_page import PAGE, write_page
from fog_bringup.closed_loop_plan import NOMINAL, Contender, Plan, Row, contenders_of
from fog_bringup.closed_loop_records import ClosedLoopRecords
from fog_bringup.closed_loop_report import figures_of, films_of, line, summarise
from fog_bringup.closed_loop_takes import Take
from fog_bringup.success import criterion_of
from fog_bringup.tasks import find_task
from fog_policy.evaluation import paired_difference, wilson
from fog_world_model.errors import FogError
from fog_world_model.task import EpisodeConfig

TASK = find_task("push_cube")
STANDING, DRIVER = Contender("standing", "standing"), Contender("driver", "driver")
PLAN = Plan(episodes=4, first_seed=100, limit_s=2.0)


def episode(seed: int, *distances: float, **more: Any) -> dict[str, Any]:
    """A push whose cube lies so far from the post, step by step."""
    rewards = [0.5] * (len(distances) - 1)
    return {
        "seed": seed,
        "rewards": rewards + [0.0] * (10 - len(rewards)),
        "return": float(sum(rewards)),
        "end": distances[-1] < 0.4,
        "base": [[-1.0, 0.1 * k, 0.0] for k in range(len(distances))],
        "cube": [[2.0 - d, 0.0, 0.0] for d in distances],
        "goal": [2.0, 0.0, 0.0],
        "commands": len(rewards),
        "missed": 0,
        **more,
    }


def record(*episodes: dict[str, Any]) -> Record:
    return make_record(TASK, "driver", list(episodes), 10)


def test_figures_of_a_row_by_hand() -> None:
    nominal = record(
        episode(1, 1.0, 0.6, 0.3), episode(2, 1.0, 0.3), episode(3, 1.0, 0.9), episode(4, 2.0, 2.0)
    )
    varied = record(
        episode(1, 1.0, 0.6, 0.3, conditions={"cube_mass_factor": 0.7}, images=95, pictures=100),
        episode(2, 1.0, 0.8, images=19, pictures=20),
        episode(3, 1.0, 0.9, 0.8, 0.3, images=90, pictures=90),
        episode(9, 1.0, 0.9, end=True, images=10, pictures=10),
    )
    criterion = criterion_of(TASK)
    base = summarise(nominal, criterion)
    assert base["success"] == pytest.approx(
        {"count": 2, "share": 0.5, "low": wilson(2, 4).low, "high": wilson(2, 4).high}
    )
    assert base["time_to_success_s"]["median"] == pytest.approx(0.3)
    assert base["final_distance_m"]["mean"] == pytest.approx((0.3 + 0.3 + 0.9 + 2.0) / 4)
    assert base["final_distance_m"]["median"] == pytest.approx(0.6)
    assert base["difference"] is None
    assert base["mean"] == pytest.approx((1.0 + 0.5 + 0.5 + 0.5) / 4)
    found = summarise(varied, criterion, base)
    # Of the seeds that both have: 1 twice a success, 2 lost, 3 won.
    pairs = paired_difference([True, False, True], [True, True, False])
    assert found["difference"] == pytest.approx(
        {"episodes": 3, "share": 0.0, "low": pairs.low, "high": pairs.high}
    )
    assert found["fell"] == 1
    assert found["images"] == pytest.approx(
        {"pictures": 220, "arrived": 214, "lost_share": 6 / 220}
    )
    assert found["per_episode"][0]["conditions"] == {"cube_mass_factor": 0.7}
    assert [r["success"] for r in found["per_episode"]] == [True, False, True, False]
    assert "stopped" not in found, "nothing is known about it"
    held = [
        {"steps": 2, "causes": {"tilt": 2, "image": 1}},
        {"steps": 1, "causes": {"out_of_distribution": 1}},
    ]
    driven = record(*(episode(s, 1.0, 0.9, 0.8, 0.7, stopped=h) for s, h in enumerate(held)))
    assert summarise(driven, criterion)["stopped"] == {
        "steps": 3, "share": 0.5, "causes": {"image": 1, "out_of_distribution": 1, "tilt": 2},
    }  # fmt: skip
    empty = summarise(record(), criterion, base)
    assert (empty["episodes"], empty["success"], empty["difference"]) == (0, None, None)
    other = summarise(nominal, None)
    assert (other["success"], other["episodes"]) == (None, 4)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """What was measured over ROS: the variation, and the seeds, in place of doing so."""
    calls: list[tuple[str, list[int]]] = []

    def measure(task: Any, bundle: Any, seeds: Any, *, output: Path, vary: Any, **_: Any) -> None:
        calls.append((",".join(vary), list(seeds)))
        done = [episode(s, 1.0, 0.3) for s in seeds]
        output.write_text(json.dumps(record(*done[:2])))
        if len(done) > 2:
            raise KeyboardInterrupt
        output.write_text(json.dumps(record(*done)))

    monkeypatch.setattr(closed_loop_records, "evaluate_over_ros", measure)
    return calls


def report(folder: Path, plan: Plan = PLAN) -> ClosedLoopRecords:
    folder.mkdir(exist_ok=True)
    return ClosedLoopRecords(folder, TASK, [DRIVER], plan)


def nothing(text: str, done: int, total: int) -> None:
    pass


def test_an_interruption_costs_no_finished_episode(
    tmp_path: Path, nodes: list[tuple[str, list[int]]]
) -> None:
    plan = dataclasses.replace(PLAN, vary=("latency",))
    first = report(tmp_path, plan)
    with pytest.raises(KeyboardInterrupt):
        first.measure(nothing)
    assert nodes == [("", [100, 101, 102, 103])]
    figures = figures_of(first)
    assert figures["episodes"] == {"done": 2, "planned": 8}
    write_page(tmp_path, figures, first.records())
    page = (tmp_path / "evaluation.html").read_text()
    assert "Not complete: 2 of 8 episodes are finished." in page
    assert json.loads((tmp_path / "evaluation.json").read_text()) == figures
    assert (tmp_path / "paths_driver.png").read_bytes().startswith(b"\x89PNG")

    rows: list[Row] = []
    second = report(tmp_path, plan)
    with pytest.raises(KeyboardInterrupt):
        second.measure(nothing, rows.append)
    assert nodes[1:] == [("", [102, 103]), ("latency", [100, 101, 102, 103])]
    (row,) = rows
    told_of = figures_of(second)["rows"][row.key]
    assert line(row, told_of) == (
        "driver: success 100% [51%, 100%], return 0.50 [0.50, 0.50], 4 episodes"
    )

    third = report(tmp_path, plan)
    told: list[tuple[str, int, int]] = []
    third.measure(lambda *a: told.append(a))
    assert nodes[3:] == [("latency", [102, 103])]
    assert told[0] == ("driver.latency", 0, 2), "what was done before is not to do"
    figures = figures_of(third)
    assert figures["episodes"] == {"done": 8, "planned": 8}
    assert figures["rows"]["driver.latency"]["difference"]["episodes"] == 4
    write_page(tmp_path, figures, third.records())
    page = (tmp_path / "evaluation.html").read_text()
    assert "Not complete" not in page
    assert "image latency: driver" in page
    assert "+0 [" in page

    third = report(tmp_path, plan)
    third.measure(nothing)
    assert len(nodes) == 4, "nothing is left to do"
    more = report(tmp_path, dataclasses.replace(plan, episodes=5))
    more.measure(nothing)
    assert nodes[4:] == [("", [104]), ("latency", [104])]
    fewer = report(tmp_path, dataclasses.replace(plan, episodes=3))
    assert figures_of(fewer)["rows"]["driver"]["episodes"] == 3


def test_what_a_killed_run_left_is_taken(tmp_path: Path) -> None:
    made = report(tmp_path)
    row = Row(DRIVER, NOMINAL)
    made._save(row)
    part = tmp_path / "driver.now.json"
    part.write_text(json.dumps(record(episode(101, 1.0, 0.3))))
    again = report(tmp_path)
    assert [e["seed"] for e in again.records()["driver"]["episodes"]] == [101]
    assert not part.exists()
    assert json.loads((tmp_path / "driver.json").read_text())["episodes"]


def test_a_record_of_another_setting_is_refused(
    tmp_path: Path, nodes: list[tuple[str, list[int]]]
) -> None:
    report(tmp_path, dataclasses.replace(PLAN, episodes=2)).measure(nothing)
    with pytest.raises(FogError, match=r"driver.json was measured in another way \(speed 4.0, now"):
        report(tmp_path, dataclasses.replace(PLAN, speed=8.0))
    with pytest.raises(FogError, match=r"max_steps 10, now 200.*another --output"):
        report(tmp_path, dataclasses.replace(PLAN, limit_s=0.0))
    (tmp_path / "driver.json").write_text("{")
    with pytest.raises(FogError, match="not a record of episodes"):
        report(tmp_path)


def test_impossible_plans(tmp_path: Path) -> None:
    with pytest.raises(FogError, match="--episodes 0"):
        report(tmp_path, dataclasses.replace(PLAN, episodes=0))
    with pytest.raises(FogError, match="--vary mass: the scene of the simulated pusht"):
        ClosedLoopRecords(tmp_path, find_task("pusht"), [STANDING], Plan(vary=("mass", "latency")))
    with pytest.raises(FogError, match="give at least one bundle"):
        contenders_of([], driver=True)
    with pytest.raises(FogError, match="no such folder"):
        contenders_of([tmp_path / "nowhere"], driver=True)


def test_drivers_are_measured_without_any_policy() -> None:
    task, contenders = contenders_of([], TASK, driver=True, operator=True)
    assert task is TASK
    assert [c.name for c in contenders] == ["driver", "operator", "random", "standing"]


def test_variations_are_of_those_that_act_on_what_they_see(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, vary=("mass",))
    made = ClosedLoopRecords(tmp_path, TASK, [DRIVER, STANDING], plan)
    assert [row.key for row in made.rows] == ["driver", "standing", "driver.mass"]
    assert list(tmp_path.iterdir()) == [], "nothing is written before something is measured"


def test_the_operator_is_measured_beside_them(tmp_path: Path) -> None:
    operator = Contender("operator", "operator")
    plan = Plan(episodes=2, first_seed=100, limit_s=1.0, vary=("mass",))
    measured = ClosedLoopRecords(tmp_path, TASK, [operator, STANDING], plan)
    assert [row.key for row in measured.rows] == ["operator", "standing"], "it is not varied"
    measured.measure(nothing)
    turned, stood = (measured.records()[name]["episodes"][0] for name in ("operator", "standing"))
    assert turned["base"][0] == pytest.approx(stood["base"][0], abs=1e-6)
    assert turned["base"][-1] != pytest.approx(stood["base"][-1], abs=0.1)
    films = films_of(measured, figures_of(measured))
    write_page(tmp_path, figures_of(measured), measured.records(), films)
    assert "operator, which knows what the camera has shown" in (tmp_path / PAGE).read_text()
    with pytest.raises(FogError, match=r"task 'juggle': no scripted driver"):
        ClosedLoopRecords(tmp_path, dataclasses.replace(TASK, name="juggle"), [operator], plan)


def test_the_first_episodes_are_filmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[int]]] = []

    def measure(
        task: Any, bundle: Any, seeds: Any, *, output: Path, films: Path, filmed: Any, **_: Any
    ) -> None:
        asked.append((output.name, list(filmed)))
        for seed in filmed:
            frames = np.full((3, 64, 64, 3), seed % 256, np.uint8)
            Take(frames, np.zeros((3, 3), np.float32)).save(films / f"{seed}.npz")
        # Every other one ends at the post.
        done = [episode(s, 1.0, 0.8, 0.3 if s % 2 else 0.7) for s in seeds]
        output.write_text(json.dumps(record(*done)))

    monkeypatch.setattr(closed_loop_records, "evaluate_over_ros", measure)
    plan = dataclasses.replace(PLAN, films=2, episodes=3, vary=("latency",))
    measured = report(tmp_path, plan)
    measured.measure(nothing)
    assert asked == [("driver.now.json", [100, 101]), ("driver.latency.now.json", [])]
    figures = figures_of(measured)
    films = films_of(measured, figures)
    assert {name: list(seeds) for name, seeds in films.items()} == {"driver": [100, 101]}
    write_page(tmp_path, figures, measured.records(), films)
    page = (tmp_path / "evaluation.html").read_text()
    assert page.count("data:image/webp;base64,UklGR") == 2  # RIFF
    assert "linear.x, linear.y, angular.z, from the top" in page
    lost, won = re.findall(r'<figure class="(\w+)"><img src="data:image/webp.*?</figure>', page)
    assert (lost, won) == ("no", "yes")
    assert "✗ </span>seed 100: no success, 0.70 m off." in page
    assert "✓ </span>seed 101: success after 0.4 s." in page

    # Without films, and where some pictures are gone.
    asked.clear()
    other = report(tmp_path / "other", dataclasses.replace(plan, films=0))
    other.measure(nothing)
    assert [filmed for _, filmed in asked] == [[], []]
    write_page(tmp_path, figures, other.records(), films_of(other, figures_of(other)))
    assert "image/webp" not in (tmp_path / "evaluation.html").read_text()
    assert 'href="#films"' not in (tmp_path / "evaluation.html").read_text()
    (tmp_path / "driver_films" / "100.npz").unlink()
    assert list(films_of(measured, figures)["driver"]) == [101]
    with pytest.raises(FogError, match="--films -1"):
        report(tmp_path, dataclasses.replace(plan, films=-1))


def contender(name: str, folder: Path) -> Contender:
    (folder / name).mkdir(parents=True)
    (folder / name / "manifest.json").write_text(name)
    return Contender(name, "bundle", folder / name)


def test_side_by_side_gives_what_one_after_the_other_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait for each other here, so that they can only end if they run at the same time."""
    together = threading.Barrier(2, timeout=60.0)
    domains: list[int] = []
    waits = False

    def measure(
        task: Any, bundle: Any, seeds: Any, *, output: Path, progress: Any, domain_id: int, **_: Any
    ) -> None:
        domains.append(domain_id)
        if waits:
            together.wait()
        done = [episode(s, 1.0, 0.1 * (s % 5) + 0.1 * (bundle.name == "a")) for s in seeds]
        progress("", len(done), len(done))
        output.write_text(json.dumps(record(*done)))
        if waits:
            together.wait()

    monkeypatch.setattr(closed_loop_records, "evaluate_over_ros", measure)
    task = dataclasses.replace(TASK, episode=EpisodeConfig(max_steps=3))
    contenders = [*(contender(n, tmp_path / "bundles") for n in "ab"), STANDING]
    plan = dataclasses.replace(PLAN, episodes=2, vary=("latency",), limit_s=0.0)
    found = []
    told: list[tuple[str, int, int]] = []
    finished: list[Row] = []
    for jobs in (1, 2):
        waits = jobs == 2
        folder = tmp_path / str(jobs)
        folder.mkdir()
        measured = ClosedLoopRecords(folder, task, contenders, plan)
        told.clear()
        finished.clear()
        measured.measure(lambda *a: told.append(a), finished.append, jobs=jobs)
        assert sorted(r.key for r in finished) == sorted(row.key for row in measured.rows)
        assert told[-1] == ("all episodes", 10, 10)
        found.append((figures_of(measured), measured.records()))
    assert found[0] == found[1]
    assert domains[4] != domains[5] and domains[6] != domains[7]
    with pytest.raises(FogError, match="--jobs 0"):
        measured.measure(nothing, jobs=0)


def test_a_row_that_fails_ends_the_others_and_costs_no_finished_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def measure(
        task: Any, bundle: Any, seeds: Any, *, output: Path, stopped: Any, **_: Any
    ) -> None:
        if bundle.name == "a":
            assert begun.wait(60.0)
            raise FogError("policy_node has ended")
        output.write_text(json.dumps(record(episode(seeds[0], 1.0, 0.3))))
        begun.set()
        deadline = time.monotonic() + 60.0
        while not stopped():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(closed_loop_records, "evaluate_over_ros", measure)
    contenders = [contender(n, tmp_path / "bundles") for n in "abc"]
    measured = ClosedLoopRecords(tmp_path, TASK, contenders, PLAN)
    with pytest.raises(FogError, match="policy_node has ended"):
        measured.measure(nothing, jobs=2)
    done = {key: len(kept["episodes"]) for key, kept in measured.records().items()}
    assert done == {"a": 0, "b": 1, "c": 0}
