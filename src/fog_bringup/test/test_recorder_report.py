"""What the recorder says of its topics while they come and go."""

from __future__ import annotations

import pytest

from fog_bringup import recorder_report
from fog_bringup.recorder_report import RecorderReport
from fog_bringup.recording_account import needed_rates
from fog_bringup.recording_intake import Intake
from fog_bringup.recording_stream import Stream
from fog_bringup.tasks import find_task
from fog_world_model.data import messages

START_S = 100.0


@pytest.fixture
def intake() -> Intake:
    """Counts the topics of the task reach_cube, in simulated time."""
    intake = Intake(simulated=True, on_jump=lambda session: None)
    for topic, typename in find_task("reach_cube").topics().items():
        intake.add(Stream(topic, typename))
    return intake


@pytest.fixture
def report(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> RecorderReport:
    """One whose topics have had their time to appear."""
    monkeypatch.setattr(recorder_report, "_SETTLED_S", 0.0)
    task = find_task("reach_cube")
    return RecorderReport(task, task.topics(), intake)


def assess(report: RecorderReport, intake: Intake, at_s: float, **heard: int) -> list[str]:
    """Assess at a time, when so many more messages have come of topics; of others plenty."""
    clock = messages.make("rosgraph_msgs/msg/Clock", clock=messages.stamp(round(at_s * 1e9)))
    intake.clock.set(messages.serialise(clock))
    intake.clock.log_ns(0)
    names = {topic.strip("/").replace("/", "_"): s for topic, s in intake.streams.items()}
    for name, stream in names.items():
        stream.heard += heard.get(name, 1000)
    return report.assess()


def test_a_topic_that_has_just_begun_is_not_slow(report: RecorderReport, intake: Intake) -> None:
    assert needed_rates(find_task("reach_cube"))["/odom"] == pytest.approx(10.0)
    said = [assess(report, intake, START_S + k, odom=0) for k in range(3)]
    assert said == [["/odom is silent: nothing comes from it"], [], []]
    # 50 Hz, but for the last 40 ms of this second only: 2 messages in 4 s are not its rate.
    assert assess(report, intake, START_S + 3, odom=2) == []
    assert "/odom" not in report.rates()
    assert assess(report, intake, START_S + 4, odom=50) == []
    assert report.rates()["/odom"] == pytest.approx(50.0)
    assert report.shortcomings == {}


def test_a_topic_that_is_slow_from_its_beginning_is_found(
    report: RecorderReport, intake: Intake
) -> None:
    assess(report, intake, START_S, odom=0)
    assess(report, intake, START_S + 1, odom=3)
    assert assess(report, intake, START_S + 2, odom=5) == [
        "/odom is slow: it comes at 5.0 Hz, and the task needs 10.0 Hz"
    ]
    # 5 in three seconds, and nothing in the next three.
    for k in range(3, 5):
        assert assess(report, intake, START_S + k, odom=0) == []
    assert assess(report, intake, START_S + 5, odom=0) == ["/odom is silent: nothing comes from it"]
