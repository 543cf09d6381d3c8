"""A bag is played to a policy's node, and what it commands is compared with what was recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from processes import REPOSITORY, NodeProcess
from toy_bundle import write_toy_bundle

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.task import TaskConfig

BAG = REPOSITORY / "datasets" / "reach_cube"
REPLAY = [sys.executable, "-m", "fog_bringup.replay_node", "--ros-args"]


def test_a_policy_beside_a_recording(task: TaskConfig, env: dict[str, str], tmp_path: Path) -> None:
    bundle = write_toy_bundle(task, tmp_path / "bundle", (0.5, 0.0, 0.25))
    output = tmp_path / "comparison.json"
    topic = task.action.topic
    policy = [sys.executable, "-m", "fog_policy.policy_node", "--ros-args"]
    policy += ["-p", f"bundle:={bundle}", "-p", "autostart:=true", "-p", "use_sim_time:=true"]
    with NodeProcess([*policy, "-r", f"{topic}:=/policy{topic}"], env) as node:
        node.wait_for("at 5 Hz", timeout_s=60.0)
        given = {"bag": BAG, "bundle": bundle, "speed": 4.0, "output": output}
        parameters = [x for key, value in given.items() for x in ("-p", f"{key}:={value}")]
        with NodeProcess([*REPLAY, *parameters], env) as replay:
            assert replay.wait(90.0) == 0, replay.output()
            assert "same sign" in replay.output()
        assert node.running()
    found = json.loads(output.read_text())
    with BagReader(BAG) as reader:
        recorded = [
            read_fields(deserialise(m.data, m.type), task.action.fields)
            for m in reader.messages([topic])
        ]
    assert found["recorded_commands"] == len(recorded)
    assert found["task_hash"] == task.hash
    assert 0 < found["pairs"] <= found["policy_commands"]
    # This policy says the same whatever it sees: half of the bound forward, nothing sideways.
    driven = 1 - found["policy_zero"] / found["policy_commands"]
    assert driven > 0.3, "the policy drives for a good part of the recording"
    forward = found["fields"]["linear.x"]
    assert 0 < forward["policy_mean"] <= 0.5 * task.action.high[0] + 1e-6
    assert found["fields"]["linear.y"]["policy_mean"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"task": "reach_cube", "bag": "/no/bag"}, "bag /no/bag: no such file or folder"),
        ({"bag": str(BAG)}, "give -p bundle:=FOLDER, or -p task:=NAME"),
        (
            {"task": "reach_cube", "bag": str(BAG), "wait_s": "0.2"},
            "nobody has subscribed to /camera/image_raw within 0.2 s",
        ),
    ],
)
def test_what_cannot_be_replayed(given: dict[str, str], expected: str, env: dict[str, str]) -> None:
    parameters = [x for key, value in given.items() for x in ("-p", f"{key}:={value}")]
    with NodeProcess([*REPLAY, *parameters], env) as replay:
        replay.wait_for(expected)
        assert replay.wait() == 2
