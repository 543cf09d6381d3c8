"""What a closed-loop report makes of records, and which records it goes on with. No nodes here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fog_bringup import closed_loop_report
from fog_bringup.closed_loop import Record, make_record
from fog_bringup.closed_loop_page import write_page
from fog_bringup.closed_loop_report import (
    NOMINAL,
    ClosedLoopReport,
    Contender,
    Plan,
    Row,
    contenders_of,
    summarise,
)
from fog_bringup.success import criterion_of
from fog_bringup.tasks import find_task
from fog_policy.evaluation import paired_difference, wilson
from fog_world_model.errors import FogError

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

    monkeypatch.setattr(closed_loop_report, "evaluate_over_ros", measure)
    return calls


def report(folder: Path, plan: Plan = PLAN) -> ClosedLoopReport:
    folder.mkdir(exist_ok=True)
    return ClosedLoopReport(folder, TASK, [DRIVER], plan)


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
    figures = first.figures()
    assert figures["episodes"] == {"done": 2, "planned": 8}
    write_page(tmp_path, figures, first.records())
    page = (tmp_path / "evaluation.html").read_text()
    assert "Not complete: 2 of 8 episodes are finished." in page
    assert json.loads((tmp_path / "evaluation.json").read_text()) == figures
    assert (tmp_path / "paths_driver.png").read_bytes().startswith(b"\x89PNG")

    lines: list[str] = []
    second = report(tmp_path, plan)
    with pytest.raises(KeyboardInterrupt):
        second.measure(nothing, lines.append)
    assert nodes[1:] == [("", [102, 103]), ("latency", [100, 101, 102, 103])]
    assert lines == ["driver: success 100% [51%, 100%], return 0.50 [0.50, 0.50], 4 episodes"]

    third = report(tmp_path, plan)
    told: list[tuple[str, int, int]] = []
    third.measure(lambda *a: told.append(a))
    assert nodes[3:] == [("latency", [102, 103])]
    assert told[0] == ("driver.latency", 0, 2), "what was done before is not to do"
    figures = third.figures()
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
    assert fewer.figures()["rows"]["driver"]["episodes"] == 3


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
        ClosedLoopReport(tmp_path, find_task("pusht"), [STANDING], Plan(vary=("mass", "latency")))
    with pytest.raises(FogError, match="give at least one bundle"):
        contenders_of([], driver=True)
    with pytest.raises(FogError, match="no such folder"):
        contenders_of([tmp_path / "nowhere"], driver=True)


def test_variations_are_of_those_that_act_on_what_they_see(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, vary=("mass",))
    made = ClosedLoopReport(tmp_path, TASK, [DRIVER, STANDING], plan)
    assert [row.key for row in made.rows] == ["driver", "standing", "driver.mass"]
    assert list(tmp_path.iterdir()) == [], "nothing is written before something is measured"
