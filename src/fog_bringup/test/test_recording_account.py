"""The account of a recording: counts worked out by hand, and gaps that random streams must give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_bringup.recording_account import (
    LISTED,
    TopicAccount,
    irregularities,
    needed_rates,
    shortcomings,
)
from fog_bringup.recording_intake import LogClock
from fog_bringup.tasks import find_task
from fog_world_model.data.messages import make, serialise
from fog_world_model.data.messages import stamp as time_of

START_NS = 1_700_000_000 * 10**9
PERIOD_NS = 33_333_333


def feed(account: TopicAccount, stamps: list[int], *, delay_ns: int = 2_000_000) -> None:
    for stamp in stamps:
        account.arrive(stamp + delay_ns, 100, stamp)


def camera() -> TopicAccount:
    return TopicAccount("/camera/image_raw", "sensor_msgs/msg/Image")


def test_counts_and_rate() -> None:
    account = camera()
    feed(account, [START_NS + k * PERIOD_NS for k in range(31)])
    assert (account.received, account.size) == (31, 3100)
    assert account.rate_hz == pytest.approx(30.0, rel=1e-3), "30 periods in a second"
    assert account.last_stamp_ns == START_NS + 30 * PERIOD_NS
    assert (account.gaps_total, account.missing, account.lost) == (0, 0, 0)
    entry = account.to_dict()
    assert entry["first_ns"] == START_NS + 2_000_000
    assert set(entry) == {
        *("type", "received", "written", "bytes", "lost", "rate_hz"),
        *("first_ns", "last_ns", "gaps", "gaps_total"),
    }, "what is zero beyond these is left out"


@given(
    dropped=st.sets(st.integers(1, 298), max_size=60),
    jitter=st.integers(0, 2**32 - 1),
    period_ns=st.sampled_from([2_000_000, 5_000_000, PERIOD_NS, 100_000_000]),
)
@settings(max_examples=60, deadline=None)
def test_missing_messages_are_found_by_their_stamps(
    dropped: set[int], jitter: int, period_ns: int
) -> None:
    shifts = np.random.default_rng(jitter).uniform(-0.06, 0.06, 300) * period_ns
    stamps = [START_NS + k * period_ns + round(shifts[k]) for k in range(300) if k not in dropped]
    account = camera()
    feed(account, stamps)
    assert account.missing == len(dropped)
    borders = [k for k in sorted(dropped) if k - 1 not in dropped]
    assert account.gaps_total == len(borders)
    assert sum(g["missing"] for g in account.gaps) == len(dropped)
    for gap, first in zip(account.gaps, borders, strict=True):
        after = next(k for k in range(first, 300) if k not in dropped)
        assert gap["at_ns"] == START_NS + after * period_ns + round(shifts[after]) + 2_000_000


def test_a_late_message_is_not_a_missing_one() -> None:
    account = camera()
    stamps = [START_NS + k * 2_000_000 for k in range(200)]
    stamps[100] += 3_500_000  # with the next two right behind it
    stamps[101] = stamps[100] + 100_000
    stamps[102] = stamps[100] + 600_000
    for k in range(150, 170):  # a publisher that was held up, and sends all that was due
        stamps[k] = START_NS + 170 * 2_000_000 - (170 - k) * 50_000
    feed(account, stamps)
    assert (account.gaps_total, account.missing, account.gaps) == (0, 0, [])


def test_a_topic_without_a_period_has_no_gaps() -> None:
    rng = np.random.default_rng(1)
    account = TopicAccount("/cmd_vel", "geometry_msgs/msg/TwistStamped")
    feed(account, list(START_NS + np.cumsum(rng.exponential(50_000_000, 200)).astype(int)))
    assert account.period_ns is None
    assert account.missing == 0


def test_a_clock_that_jumps_is_no_gap_and_a_silence_is_one() -> None:
    account = camera()
    feed(account, [START_NS + k * PERIOD_NS for k in range(30)])
    log_ns = account.last_ns
    for k in range(1, 11):  # the camera's clock is an hour ahead now
        account.arrive(log_ns + k * PERIOD_NS, 100, START_NS + 3600 * 10**9 + k * PERIOD_NS)
    assert account.missing == 0
    assert [j["by_ns"] // 10**9 for j in account.jumps] == [3599]
    log_ns, stamp = account.last_ns, account.last_stamp_ns or 0
    for k in range(1, 6):  # and back
        account.arrive(log_ns + k * PERIOD_NS, 100, START_NS + (50 + k) * PERIOD_NS)
    assert len(account.jumps) == 2
    assert account.jumps[1]["by_ns"] < -3_590 * 10**9
    assert account.reordered == 0
    assert stamp > (account.last_stamp_ns or 0)
    # Both clocks go on for five seconds without a message: 150 are missing.
    log_ns, stamp = account.last_ns, account.last_stamp_ns or 0
    account.arrive(log_ns + 150 * PERIOD_NS, 100, stamp + 150 * PERIOD_NS)
    assert account.missing == 149


def test_stamps_that_repeat_or_run_backwards_are_counted() -> None:
    account = camera()
    stamps = [START_NS + k * PERIOD_NS for k in range(40)]
    stamps[20], stamps[21] = stamps[21], stamps[20]
    stamps[30] = stamps[29]
    for k, stamp in enumerate(stamps):
        account.arrive(START_NS + k * PERIOD_NS, 100, stamp)
    assert (account.repeated, account.reordered) == (1, 1)
    assert account.missing == 1, "the stamp of the repeated one; swapped ones are both there"


def test_numbers_of_the_middleware_tell_what_is_lost() -> None:
    account = camera()
    for number in (1, 2, 3, 7, 8):
        account.arrive(START_NS + number * PERIOD_NS, 100, None, b"a", number)
    account.arrive(START_NS + 9 * PERIOD_NS, 100, None, b"b", 40)
    account.arrive(START_NS + 10 * PERIOD_NS, 100, None, b"b", 42)
    account.arrive(START_NS + 10 * PERIOD_NS, 100, None, b"a", 9)
    assert account.numbered
    assert account.lost == 4, "4, 5, 6 of the first publisher and 41 of the second"
    assert account.losses == [
        {"at_ns": START_NS + 7 * PERIOD_NS, "count": 4, "reason": "dropped by the middleware"}
    ], "what is lost within a second is one entry"


def test_another_publisher_is_not_a_gap() -> None:
    account = camera()
    for k in range(30):
        account.arrive(START_NS + k * PERIOD_NS, 100, START_NS + k * PERIOD_NS, b"first", k)
    for k in range(100, 130):
        account.arrive(START_NS + k * PERIOD_NS, 100, START_NS + k * PERIOD_NS, b"second", k)
    assert (account.missing, account.lost) == (0, 0)
    assert account.publishers == [
        {"at_ns": START_NS + 100 * PERIOD_NS, "silent_ns": 71 * PERIOD_NS}
    ]


def test_the_graph_tells_of_another_publisher_where_messages_do_not() -> None:
    account = camera()
    feed(account, [START_NS + k * PERIOD_NS for k in range(30)])
    account.another_publisher()
    feed(account, [START_NS + k * PERIOD_NS for k in range(50, 60)])
    assert account.missing == 0
    assert [p["silent_ns"] for p in account.publishers] == [21 * PERIOD_NS]


def test_a_new_account_knows_the_period_already() -> None:
    before = camera()
    feed(before, [START_NS + k * PERIOD_NS for k in range(30)])
    account = before.successor()
    assert (account.received, account.size, account.gaps_total) == (0, 0, 0)
    feed(account, [START_NS + k * PERIOD_NS for k in (40, 43)])
    assert account.missing == 2, "what was not there before the recording is not missing in it"


def test_lists_are_bounded_and_counts_are_not() -> None:
    account = camera()
    for k in range(LISTED + 50):
        account.lose(START_NS + k * 2 * 10**9, 1, "the disk was too slow")
    assert (account.lost, len(account.losses)) == (LISTED + 50, LISTED)


def test_image_sizes() -> None:
    account = camera()
    assert not account.resize(1, 640, 480)
    assert not account.resize(2, 640, 480)
    assert account.resize(3, 320, 240)
    assert irregularities({"/c": account}) == ["/c: the image changed its size, 640x480 -> 320x240"]


def test_what_the_task_needs() -> None:
    task = find_task("reach_cube")
    needed = needed_rates(task)
    assert needed["/camera/image_raw"] == 5.0, "control_hz"
    assert needed["/joint_states"] == pytest.approx(10.0), "1 / max_age_s"
    assert set(needed) == set(task.topics())
    rates = {topic: hz * 1.5 for topic, hz in needed.items()}
    heard = dict.fromkeys(needed, 100)
    assert shortcomings(rates, heard, {}, task) == {}
    rates["/camera/image_raw"] = 4.95
    assert shortcomings(rates, heard, {}, task) == {}, "within measuring accuracy"
    rates["/camera/image_raw"], rates["/odom"], heard["/odom"] = 4.0, 0.0, 7
    del heard["/camera/camera_info"]
    found = shortcomings(rates, heard, {"/imu/data": "sensor_msgs/msg/Joy"}, task)
    assert set(found) == {"/camera/image_raw", "/odom", "/camera/camera_info", "/imu/data"}
    assert "4.0 Hz, and the task needs 5.0 Hz" in found["/camera/image_raw"].text
    assert found["/odom"].kind == found["/camera/camera_info"].kind == "silent"
    assert "published as sensor_msgs/msg/Joy" in found["/imu/data"].text


@pytest.mark.parametrize("clock_first", [True, False])
def test_time_that_a_simulation_skips_is_no_gap(clock_first: bool) -> None:
    """A reset advances simulated time by a second, in which nobody publishes."""
    account = camera()
    before = [START_NS + k * PERIOD_NS for k in range(40)]
    feed(account, before, delay_ns=0)
    end_ns = before[-1] + 1_000_000_000
    if clock_first:
        account.skip(before[-1], end_ns)
    feed(account, [end_ns], delay_ns=0)
    assert account.missing == (0 if clock_first else 29)
    if not clock_first:
        account.skip(before[-1], end_ns)
    feed(account, [end_ns + k * PERIOD_NS for k in range(1, 40) if k != 20], delay_ns=0)
    assert account.missing == account.gaps_total == len(account.gaps) == 1, "a real one counts"
    assert account.to_dict()["skips"] == [{"at_ns": end_ns, "by_ns": 1_000_000_000}]


def clock_message(at_ns: int) -> bytes:
    return serialise(make("rosgraph_msgs/msg/Clock", clock=time_of(at_ns)))


def test_simulated_clock_skips_only_between_two_neighbouring_messages() -> None:
    clock = LogClock(simulated=True)
    assert not clock.begun
    assert clock.set(clock_message(START_NS), 7) is None
    assert clock.set(clock_message(START_NS + 20_000_000), 8) is None
    later = START_NS + 1_020_000_000
    assert clock.set(clock_message(later), 9) == (START_NS + 20_000_000, later)
    assert clock.set(clock_message(later + 10**9), 11) is None, "number 10 was lost"
    assert clock.set(clock_message(later + 2 * 10**9), None) is None, "numbers are not known"
    assert clock.log_ns(5) == later + 2 * 10**9 and clock.begun
