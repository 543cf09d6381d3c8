"""What faults do to messages, which ones are drawn, and how they are counted."""

from __future__ import annotations

import math
import subprocess
import time
from typing import Any

import numpy as np
import pytest

from fog_bringup.benchmarks.fault_chain import processes_with
from fog_bringup.benchmarks.fault_conductor import ALLOWANCE_S
from fog_bringup.benchmarks.fault_kinds import KINDS, draw, limit_s, plan, possible, watched
from fog_bringup.benchmarks.faults import measure, summary
from fog_bringup.benchmarks.faults_picture import draw_faults
from fog_bringup.benchmarks.faults_table import table
from fog_bringup.benchmarks.stream_faults import CORRUPTIONS, make_fault
from fog_bringup.report_theme import LIGHT, png
from fog_bringup.tasks import find_task
from fog_policy.observation_buffer import ObservationBuffer
from fog_policy.safety import Reason
from fog_world_model.data import messages
from fog_world_model.errors import FogError

TASK = find_task("reach_cube")
IMAGE, JOINTS = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"
SECOND = 10**9


def image(stamp_ns: int, shade: int) -> bytes:
    header = messages.header(stamp_ns, "camera")
    data = np.full(48, shade, np.uint8)
    made = messages.make(
        IMAGE, header=header, height=4, width=4, encoding="rgb8", step=12, data=data
    )
    return messages.serialise(made)


def joints(stamp_ns: int) -> bytes:
    names = [f.partition(".")[2] for f in TASK.proprioception[0].fields]
    made = messages.make(
        JOINTS,
        header=messages.header(stamp_ns, "base"),
        name=names[::-1],
        position=np.arange(12.0),
        velocity=np.zeros(12),
        effort=np.zeros(12),
    )
    return messages.serialise(made)


def test_frozen_keeps_the_picture_and_not_the_stamp() -> None:
    fault = make_fault({"kind": "frozen"}, IMAGE)
    (first,) = fault.apply(image(SECOND, 10), SECOND)
    (second,) = fault.apply(image(2 * SECOND, 20), 2 * SECOND)
    assert first == image(SECOND, 10)
    assert second == image(2 * SECOND, 10)


def test_delayed_goes_on_late_with_its_own_stamp_and_in_order() -> None:
    fault = make_fault({"kind": "delayed", "seconds": 0.25}, IMAGE)
    sent = {k: image(k * SECOND // 10, k) for k in range(1, 8)}
    got = [fault.apply(sent[k], k * SECOND // 10) for k in range(1, 8)]
    # At 0.4 s that of 0.1 s has waited for 0.3 s: the first multiple of 0.1 s above 0.25 s.
    assert got == [[], [], [], [sent[1]], [sent[2]], [sent[3]], [sent[4]]]


def test_shifted_moves_the_stamp_by_whole_nanoseconds() -> None:
    (moved,) = make_fault({"kind": "shifted", "seconds": -1.25}, IMAGE).apply(
        image(3 * SECOND, 7), 0
    )
    assert moved == image(3 * SECOND - 1_250_000_000, 7)
    number = messages.serialise(messages.make("std_msgs/msg/Int32", data=3))
    assert make_fault({"kind": "shifted", "seconds": 1.0}, "std_msgs/msg/Int32").apply(
        number, 0
    ) == [number]


def test_not_finite_finds_joints_by_name() -> None:
    field = TASK.proprioception[0].fields[2]
    spec = {"kind": "not_finite", "fields": [field], "value": "nan"}
    (spoilt,) = make_fault(spec, JOINTS).apply(joints(SECOND), SECOND)
    values = messages.read_fields(
        messages.deserialise(spoilt, JOINTS), TASK.proprioception[0].fields
    )
    # The driver lists its joints backwards: the third of the task is the tenth there.
    assert math.isnan(values[2])
    assert np.delete(values, 2).tolist() == [float(11 - k) for k in range(12) if k != 2]


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_every_corruption_is_one_for_the_policy_s_eyes(how: str) -> None:
    buffer = ObservationBuffer(TASK)
    for data in make_fault({"kind": "corrupted", "how": how}, IMAGE).apply(
        image(SECOND, 1), SECOND
    ):
        buffer.receive(TASK.image.topic, data, SECOND)
    assert not buffer.has_image()
    found = buffer.newest(SECOND)
    assert isinstance(found, Reason) and found.cause == "image"
    buffer.receive(TASK.image.topic, image(SECOND, 1), SECOND)
    assert buffer.has_image(), "the sound one is seen"


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(FogError, match="no such fault"):
        make_fault({"kind": "rust"}, IMAGE)
    with pytest.raises(FogError, match="expected one of cut"):
        make_fault({"kind": "corrupted", "how": "rust"}, IMAGE)
    with pytest.raises(FogError, match="--kinds rust: expected some of killed_camera"):
        plan(("rust",), 3, np.random.default_rng(0))


def test_kinds_come_equally_often_and_equal_seeds_are_equal() -> None:
    kinds = possible(TASK)
    assert kinds == KINDS
    order = plan(kinds, 200, np.random.default_rng(7))
    assert {kind: order.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 25)
    assert order == plan(kinds, 200, np.random.default_rng(7))
    assert order != plan(kinds, 200, np.random.default_rng(8))
    one, other = (
        [draw(kind, TASK, 0.5, 10.0, random) for kind in order]
        for random in (np.random.default_rng(1), np.random.default_rng(1))
    )
    assert one == other


def test_faults_are_worse_than_what_the_task_allows() -> None:
    """A fault that the task tolerates would be no fault."""
    random = np.random.default_rng(0)
    for _ in range(200):
        late = draw("delayed_stream", TASK, 0.5, 10.0, random)
        ((topic, spec),) = late.topics.items()
        assert spec["seconds"] > 1.4 * limit_s(TASK, topic) == 1.4 * late.limit_s
        jump = draw("clock_jump", TASK, 0.5, 10.0, random)
        assert all(1.0 <= abs(s["seconds"]) <= 5.0 for s in jump.topics.values())
        assert jump.limit_s == min(limit_s(TASK, topic) for topic in jump.topics)
        assert set(jump.topics) <= set(watched(TASK))


def test_limits_are_those_of_the_task() -> None:
    random = np.random.default_rng(0)
    limits = {kind: draw(kind, TASK, 0.4, 10.0, random).limit_s for kind in KINDS}
    assert limits["killed_camera"] == limits["corrupt_image"] == 0.5
    assert limits["restarted_robot"] == limits["nan_joints"] == 0.3
    assert limits["killed_policy"] == 0.4


def one(kind: str, after_s: float | None, *, safe: bool, late: bool = False) -> dict[str, Any]:
    return {
        "kind": kind,
        "detail": "made up",
        "limit_s": 0.5,
        "stopped_after_s": after_s,
        "reason": "image: made up",
        "stayed": True,
        "safe": safe,
        "late": late,
        "recovered": True,
        "recovered_by": "itself",
        "recovery_s": 0.1,
        "unasked_stops": [] if safe else ["image: is old"],
        "falls": 0,
        "finding": "" if safe else f"{kind}: something",
    }


def test_what_is_not_safe_is_counted_and_shown() -> None:
    each = [
        one("corrupt_image", 0.42, safe=True),
        one("killed_camera", 0.45, safe=True),
        one("killed_camera", 0.75, safe=False, late=True),
        one("frozen_camera", None, safe=False),
    ]
    found = summary(each, {"out_of_bounds": 2, "commands": 900, "unseen": 3})
    assert (found["injected"], found["safe_stops"], found["late"]) == (4, 2, 1)
    assert found["out_of_bounds"] == 2
    assert list(found["kinds"]) == ["killed_camera", "frozen_camera", "corrupt_image"]
    assert found["kinds"]["killed_camera"]["worst_s"] == 0.75
    assert found["kinds"]["frozen_camera"]["worst_s"] is None
    assert len(found["findings"]) == 2
    result = {
        "policy": "none", "robot": "none", "faults": found, "each": each, "interrupted": True,
        "error": "",
    }  # fmt: skip
    text = table(result)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "killed_camera 2 1 0.500 0.600 0.750 itself 2x" in rows
    assert "frozen_camera 1 0 0.500 never never itself 1x" in rows
    assert "2 of 900 commands outside bounds" in text
    assert "finding: frozen_camera: something" in text and "interrupted" in text
    assert "besides: 2 stops that no fault had asked for, 0 falls" in text
    assert text.count("no fault had asked for: image: is old") == 2
    drawn = png(lambda theme: draw_faults(result, theme), LIGHT, background="white")
    assert drawn.startswith(b"\x89PNG")


def test_the_allowance_is_a_few_command_periods() -> None:
    assert ALLOWANCE_S <= 0.06


def test_impossible_options_are_refused() -> None:
    with pytest.raises(FogError, match="--faults 0"):
        measure(None, faults=0, seed=0)
    with pytest.raises(FogError, match="--kinds rust"):
        measure(None, faults=1, seed=0, kinds=("rust",))
    with pytest.raises(FogError, match="--robot rust"):
        measure(None, faults=1, seed=0, robot="rust")


def test_what_is_left_behind_is_found_by_its_mark() -> None:
    sleeper = ["sleep", "60"]
    with (
        subprocess.Popen(sleeper, env={"MARK_OF_THIS_TEST": "one"}) as marked,
        subprocess.Popen(sleeper, env={"MARK_OF_THIS_TEST": "other"}) as other,
    ):
        try:
            deadline = time.monotonic() + 10
            while processes_with("MARK_OF_THIS_TEST", "one") != [marked.pid]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            marked.kill()
            other.kill()
    assert processes_with("MARK_OF_THIS_TEST", "one") == []
