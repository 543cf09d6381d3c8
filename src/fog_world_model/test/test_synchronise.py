"""The synchroniser on streams made by hand, and its invariants on any streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_world_model.data.clock_epochs import epochs, synchronise_epochs
from fog_world_model.data.synchronise import Stream, Synchronised, settle, synchronise

MS = 1_000_000
PERIOD = 200 * MS


def times(*milliseconds: float) -> Any:
    return np.asarray([round(t * MS) for t in milliseconds], np.int64)


def stream(*milliseconds: float, max_age: float = 100, **options: Any) -> Stream:
    if "slack" in options:
        options["slack_ns"] = round(options.pop("slack") * MS)
    return Stream(times(*milliseconds), round(max_age * MS), **options)


def run(images: Any, streams: dict[str, Stream], **options: Any) -> Synchronised:
    arrivals = options.pop("arrivals", images)
    return synchronise(images, arrivals, streams, period_ns=PERIOD, **options)


def steps(result: Synchronised) -> list[list[int]]:
    return [s.images.tolist() for s in result.segments]


def test_a_camera_at_the_control_rate() -> None:
    result = run(times(0, 200, 400), {"a": stream(0, 200, 400)})
    assert steps(result) == [[0, 1, 2]]
    assert result.segments[0].messages["a"].tolist() == [0, 1, 2]
    assert result.breaks == Counter()
    assert vars(result.account["image"]) == {
        "received": 3, "used": 3, "superseded": 0, "reordered": 0, "dropped": 0, "staleness_ns": [],
    }  # fmt: skip


def test_a_faster_camera_is_thinned_out() -> None:
    """15 Hz for 5 Hz: every third frame, 66.7 ms apart."""
    result = run(times(*(i * 200 / 3 for i in range(10))), {})
    assert steps(result) == [[0, 3, 6, 9]]
    assert (result.account["image"].used, result.account["image"].superseded) == (4, 6)


def test_jitter_within_the_tolerance_is_followed() -> None:
    """A quarter of the period is tolerated: 50 ms. The grid goes on from each frame found."""
    assert steps(run(times(0, 240, 395, 645), {})) == [[0, 1, 2, 3]]
    result = run(times(0, 200, 451, 651), {})  # 51 ms too late
    assert steps(result) == [[0, 1], [2, 3]]
    assert result.breaks == Counter({"camera gap": 1})
    assert steps(run(times(0, 200, 349, 400), {})) == [[0, 1, 3]]  # the nearest, not the first


def test_newest_message_not_later_than_the_anchor() -> None:
    """One exactly at the anchor counts, one a nanosecond later does not."""
    late = Stream(np.asarray([0, 150 * MS, 200 * MS + 1, 400 * MS], np.int64), 100 * MS)
    result = run(times(0, 200, 400), {"a": late})
    assert result.segments[0].messages["a"].tolist() == [0, 1, 3]
    account = result.account["a"]
    assert (account.received, account.used, account.superseded) == (4, 3, 1)
    assert account.staleness_ns == [0, 50 * MS, 0]


def test_stale_breaks_and_a_step_later_an_episode_begins() -> None:
    """The stream pauses from 350 to 1000 ms; its bound is 100 ms."""
    images = times(*range(0, 1500, 200))
    result = run(images, {"a": stream(0, 200, 350, 1000, 1200, 1400)})
    assert steps(result) == [[0, 1, 2], [5, 6, 7]]
    assert result.breaks == Counter({"a: stale": 1, "no start, a: stale": 2})
    assert result.segments[1].messages["a"].tolist() == [3, 4, 5]


def test_exactly_as_old_as_the_bound_is_not_stale() -> None:
    assert steps(run(times(0, 200), {"a": stream(0, 100)})) == [[0, 1]]
    assert steps(run(times(0, 200), {"a": stream(0, 99.999)})) == []


def test_nothing_before_the_first_message() -> None:
    result = run(times(0, 200, 400, 600), {"a": stream(350, 550)})
    assert steps(result) == [[2, 3]]
    assert result.breaks == Counter({"no start, a: no message yet": 2})


def test_a_stream_without_messages() -> None:
    result = run(times(0, 200), {"a": stream()})
    assert steps(result) == []
    assert result.breaks == Counter({"no start, a: no message yet": 2})
    assert result.account["a"].received == 0


def test_a_dropped_frame_is_a_gap_and_is_counted() -> None:
    result = run(times(0, 200, 400, 800, 1000, 1200), {})
    assert steps(result) == [[0, 1, 2], [3, 4, 5]]
    assert result.breaks == Counter({"camera gap": 1})
    assert result.account["image"].dropped == 1


def test_a_camera_that_stops_between_two_steps_is_no_gap() -> None:
    """At 10 Hz the last image comes half a step after the last anchor."""
    result = run(times(0, 100, 200, 300, 400, 500), {})
    assert steps(result) == [[0, 2, 4]]
    assert result.breaks == Counter()
    late = run(times(0, 100, 200, 300, 400, 540, 700), {})  # none at 600
    assert late.breaks == Counter({"camera gap": 1})


def test_a_pause_is_no_loss() -> None:
    result = run(times(*range(0, 1000, 200), *range(60_000, 61_000, 200)), {})
    assert len(result.segments) == 2
    assert result.account["image"].dropped == 0


def test_a_reset_between_two_episodes_is_no_loss() -> None:
    """Four frames fit into each pause; at the first the episode changes, at the second not."""
    images = times(0, 200, 400, 1400, 1600, 1800, 2800, 3000)
    numbers = np.array([1, 1, 1, 2, 2, 2, 2, 2])
    marked = run(images, {"m": Stream(images, 50 * MS)}, markers=("m", numbers))
    assert marked.account["image"].dropped == 4
    assert run(images, {}).account["image"].dropped == 8


def test_a_gap_is_counted_once_however_fast_the_camera() -> None:
    """At 20 Hz four frames without a successor lie before the gap, but one episode ends there."""
    before, after = range(0, 450, 50), range(2000, 2450, 50)
    result = run(times(*before, *after), {})
    assert steps(result) == [[0, 4, 8], [9, 13, 17]]
    assert result.breaks == Counter({"camera gap": 1})


def test_a_camera_slower_than_the_control_says_why_there_is_nothing() -> None:
    result = run(times(0, 300, 600, 900), {})
    assert steps(result) == []
    assert result.breaks == Counter({"no start, camera gap": 3})


def test_images_that_arrive_out_of_order_are_sorted_by_stamp() -> None:
    result = run(times(0, 400, 200, 600), {"a": stream(0, 200, 400, 600)})
    assert steps(result) == [[0, 2, 1, 3]]  # indices in the order of arrival
    assert result.segments[0].messages["a"].tolist() == [0, 1, 2, 3]
    assert result.account["image"].reordered == 1


def test_messages_with_reordered_stamps_are_found_by_stamp() -> None:
    """The third message was made before the second, but came after it."""
    result = run(times(0, 200, 400), {"a": stream(0, 390, 190)})
    assert result.segments[0].messages["a"].tolist() == [0, 2, 1]
    assert result.account["a"].reordered == 1
    assert result.account["a"].used == 3


def test_a_message_that_arrives_late_is_used_where_it_belongs() -> None:
    """Bags are read afterwards: the arrival of a stamped message does not matter."""
    shifted = times(5000, 5200, 5400)
    result = run(times(0, 200, 400), {"a": stream(0, 200, 400)}, arrivals=shifted)
    assert result.segments[0].messages["a"].tolist() == [0, 1, 2]


def test_a_stream_without_stamps_is_compared_with_the_arrival_of_the_image() -> None:
    """The recorder's clock is 5 s ahead of the camera's."""
    arrivals = times(5010, 5230, 5410)
    options = {"max_age": 500, "by_arrival": True}
    result = run(
        times(0, 200, 400), {"a": stream(5000, 5220, 5225, 5415, **options)}, arrivals=arrivals
    )
    assert result.segments[0].messages["a"].tolist() == [0, 2, 2]
    assert result.account["a"].staleness_ns == [10 * MS, 5 * MS, 185 * MS]


def test_slack_lets_in_what_was_published_with_the_image() -> None:
    """The messages come 5, 20 and 31 ms after their images; 30 ms are allowed."""
    result = run(
        times(0, 200, 400),
        {"a": stream(5, 220, 431, max_age=300, by_arrival=True, slack=30)},
    )
    assert result.segments[0].messages["a"].tolist() == [0, 1, 1]
    assert result.account["a"].staleness_ns == [-5 * MS, -20 * MS, 180 * MS]


def test_slack_does_not_make_a_stale_message_fresh() -> None:
    """100 ms old at the image is the bound, slack or not."""
    kept = stream(0, 100, max_age=100, by_arrival=True, slack=30)
    assert steps(run(times(0, 200), {"a": kept})) == [[0, 1]]
    stale = stream(0, 99, max_age=100, by_arrival=True, slack=30)
    assert steps(run(times(0, 200), {"a": stale})) == []


def test_what_leads_to_an_anchor_is_not_needed_at_the_first() -> None:
    """Commands follow their image by 10 ms; that before the first image belongs to nothing."""
    result = run(
        times(0, 200, 400),
        {"command": stream(-190, 10, 210, max_age=500, needed_at_start=False)},
    )
    assert result.segments[0].messages["command"].tolist() == [-1, 1, 2]
    account = result.account["command"]
    assert (account.used, account.superseded) == (2, 1)
    late = {"command": stream(10, 210, max_age=500, needed_at_start=False)}
    assert run(times(0, 200, 400), late).segments[0].messages["command"].tolist() == [-1, 0, 1]


def test_a_marker_is_a_border() -> None:
    images = times(*range(0, 1200, 200))
    marker = stream(*range(0, 1200, 200))
    values = np.asarray([7, 7, 7, 3, 3, 3])
    result = run(images, {"m": marker}, markers=("m", values))
    assert steps(result) == [[0, 1, 2], [3, 4, 5]]
    assert result.breaks == Counter({"episode marker": 1})


def test_an_end_is_the_last_step_and_none_begins_before_it_is_over() -> None:
    images = times(*range(0, 1600, 200))
    end = stream(*range(0, 1600, 200), needed_at_start=False)
    values = np.asarray([0, 0, 1, 1, 1, 0, 0, 0])
    result = run(images, {"e": end}, ends=("e", values))
    assert steps(result) == [[0, 1, 2], [5, 6, 7]]
    assert result.breaks == Counter({"end": 1, "no start, after the end": 2})


def test_an_old_end_does_not_hold_up_the_next_episode() -> None:
    """After a pause the last message still says 1, but it is stale."""
    end = stream(0, 200, 10_210, max_age=200, needed_at_start=False)
    result = run(
        times(0, 200, 10_000, 10_200, 10_400), {"e": end}, ends=("e", np.asarray([0, 1, 0]))
    )
    assert steps(result)[0] == [0, 1]
    assert [2, 3] not in steps(result)  # at 10,200 ms there was no end topic yet
    assert steps(result)[1] == [3, 4]


def test_cut_at_the_maximal_length_hands_on_the_last_frame() -> None:
    result = run(times(*range(0, 1600, 200)), {"a": stream(*range(0, 1600, 200))}, max_steps=3)
    assert steps(result) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert result.breaks == Counter({"maximal length": 2})
    assert result.account["image"].used == 8  # shared frames are counted once
    assert result.account["a"].used == 8


def test_a_cut_that_meets_the_border_is_one_border() -> None:
    images = times(*range(0, 1600, 200))
    values = np.asarray([0, 0, 0, 0, 1, 1, 1, 1])
    marker = {"m": stream(*range(0, 1600, 200))}
    result = run(images, marker, markers=("m", values), max_steps=3)
    assert steps(result) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert result.breaks == Counter({"maximal length": 2})


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images(count: int) -> None:
    result = run(times(*range(count)), {"a": stream(0)})
    assert result.segments == []
    assert result.account["image"].received == count


jitter = st.integers(-60, 60)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Any, Any, dict[str, Stream], dict[str, Any]]:
    """Images at about 10 Hz with jitter, drops and reordering, and three streams of all kinds."""
    count = draw(st.integers(0, 30))
    stamps = np.asarray([i * 100 + draw(jitter) for i in range(count)], np.int64) * MS
    kept = np.asarray(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    order = np.asarray(draw(st.permutations(range(count))) if draw(st.booleans()) else range(count))
    stamps = stamps[order.astype(int)][kept[order.astype(int)] | draw(st.booleans())]
    arrivals = stamps + 5000 * MS + np.asarray([draw(jitter) for _ in stamps], np.int64) * MS
    streams = {}
    for name in "abc":
        messages = draw(st.lists(st.integers(-100, 3100), max_size=40))
        by_arrival = draw(st.booleans())
        streams[name] = Stream(
            (np.asarray(messages, np.int64) + 5000 * by_arrival) * MS,
            max_age_ns=draw(st.integers(0, 400)) * MS,
            by_arrival=by_arrival,
            slack_ns=draw(st.integers(0, 50)) * MS,
            needed_at_start=draw(st.booleans()),
        )
    options: dict[str, Any] = {"max_steps": draw(st.none() | st.integers(1, 5))}
    if draw(st.booleans()):
        options["markers"] = ("a", np.arange(len(streams["a"].stamp_ns)) // 7)
        streams["a"] = Stream(streams["a"].stamp_ns, 400 * MS)
    return stamps, arrivals, streams, options


@settings(max_examples=150, deadline=None)
@given(recordings())
def test_invariants(recording: tuple[Any, Any, dict[str, Stream], dict[str, Any]]) -> None:
    stamps, arrivals, streams, options = recording
    before = stamps.copy()
    result = synchronise(stamps, arrivals, streams, period_ns=PERIOD, **options)
    np.testing.assert_array_equal(stamps, before)
    used_images: Counter[int] = Counter()
    used: dict[str, set[int]] = {name: set() for name in streams}
    for segment in result.segments:
        assert len(segment.images) >= 2
        if options["max_steps"] is not None:
            assert len(segment.images) <= options["max_steps"] + 1
        # Steps lie on the grid, within a quarter of the period.
        gaps = np.diff(stamps[segment.images])
        assert (np.abs(gaps - PERIOD) <= PERIOD / 4).all()
        used_images.update(segment.images[:-1].tolist())
        for name, s in streams.items():
            index = segment.messages[name]
            assert len(index) == len(segment.images)
            assert (index[1:] >= 0).all()
            assert (index[0] >= 0) == s.needed_at_start
            there = index >= 0
            anchors = (arrivals if s.by_arrival else stamps)[segment.images][there]
            chosen = s.stamp_ns[index[there]]
            # Never from the future (but for the slack), never too old, and none newer fits.
            assert (chosen <= anchors + s.slack_ns).all()
            assert (anchors - chosen <= s.max_age_ns).all()
            for anchor, stamp in zip(anchors, chosen, strict=True):
                assert not ((s.stamp_ns > stamp) & (s.stamp_ns <= anchor + s.slack_ns)).any()
            used[name].update(index[there].tolist())
        if "markers" in options:
            name, values = options["markers"]
            assert len(set(values[segment.messages[name]].tolist())) == 1
    # No frame begins two transitions.
    assert not used_images or max(used_images.values()) == 1
    # Every message is accounted for.
    assert result.account["image"].received == len(stamps)
    images = {int(i) for s in result.segments for i in s.images}
    assert result.account["image"].used == len(images)
    for name, account in result.account.items():
        assert account.received == account.used + account.superseded
        assert min(account.used, account.superseded, account.reordered, account.dropped) >= 0
        if name != "image":
            assert account.received == len(streams[name].stamp_ns)
            assert account.used == len(used[name])


@settings(max_examples=150, deadline=None)
@given(recordings(), st.data())
def test_kinds_of_images_never_meet(
    recording: tuple[Any, Any, dict[str, Stream], dict[str, Any]], data: st.DataObject
) -> None:
    """Neither does a part of a segment hold what the segment does not."""
    stamps, arrivals, streams, options = recording
    count = len(stamps)
    kinds = np.asarray(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), int)
    result = synchronise(
        stamps, arrivals, streams, period_ns=PERIOD, image_kinds=kinds.astype(np.int64), **options
    )
    parts = []
    for segment in result.segments:
        assert len(set(kinds[segment.images].tolist())) == 1
        first = data.draw(st.integers(0, len(segment.images) - 2))
        last = data.draw(st.integers(first + 2, len(segment.images)))
        part = segment.part(first, last, streams)
        np.testing.assert_array_equal(part.images, segment.images[first:last])
        for name, s in streams.items():
            np.testing.assert_array_equal(part.messages[name][1:],
                                          segment.messages[name][first + 1 : last])  # fmt: skip
            assert (part.messages[name][0] >= 0) == s.needed_at_start
            there = part.messages[name] >= 0
            anchors = (arrivals if s.by_arrival else stamps)[part.images]
            ages = (anchors - s.stamp_ns[part.messages[name]])[there] if there.any() else []
            np.testing.assert_array_equal(part.ages_ns[name][there], ages)
        parts.append(part)
    settle(result.account, parts, "image")
    for account in result.account.values():
        assert account.received == account.used + account.superseded
        assert min(account.used, account.superseded) >= 0
    assert result.account["image"].used == len({int(i) for p in parts for i in p.images})


@settings(max_examples=150, deadline=None)
@given(recordings(), st.integers(8, 30), st.floats(0, 1), st.integers(460, 2500))
def test_clocks_that_jump_back(
    recording: tuple[Any, Any, dict[str, Stream], dict[str, Any]],
    count: int,
    jump: float,
    back_ms: int,
) -> None:
    """From some image on all stamps are older: no step joins what was before with what came after.

    Arrivals go on, as the recorder's clock did.
    """
    _, _, streams, options = recording
    stamps = np.arange(count, dtype=np.int64) * 100 * MS  # so that there is much to be joined
    arrivals = stamps + 5000 * MS
    jump_at = 1 + round(jump * (count - 1))
    border = arrivals[jump_at] if jump_at < count else 2**62
    streams = dict(list(streams.items())[: count % 4])
    moved = stamps - back_ms * MS * (np.arange(len(stamps)) >= jump_at)
    moved_streams, log = {}, {}
    for name, s in streams.items():
        log[name] = np.sort(s.stamp_ns) + (0 if s.by_arrival else 5000 * MS)
        shifted = np.sort(s.stamp_ns)
        if not s.by_arrival:
            shifted = shifted - back_ms * MS * (log[name] >= border)
        moved_streams[name] = replace(s, stamp_ns=shifted)
    result = synchronise_epochs(
        moved,
        arrivals,
        moved_streams,
        log,
        image_topic="image",
        image_kinds=np.zeros(len(moved), np.int64),
        markers=options.pop("markers", None) if "a" in streams else None,
        ends=None,
        period_ns=PERIOD,
        max_steps=options["max_steps"],
    )
    for segment in result.segments:
        late = arrivals[segment.images] >= border
        assert late.all() or not late.any()
        for name, s in moved_streams.items():
            index = segment.messages[name]
            there = index >= 0
            assert (index[1:] >= 0).all()
            anchors = (arrivals if s.by_arrival else moved)[segment.images][there]
            assert (s.stamp_ns[index[there]] <= anchors + s.slack_ns).all()
            assert (anchors - s.stamp_ns[index[there]] <= s.max_age_ns).all()
            if not s.by_arrival:
                assert ((log[name][index[there]] >= border) == late[0]).all()
    for name, account in result.account.items():
        assert account.received == account.used + account.superseded
        assert account.received == len(moved if name == "image" else moved_streams[name].stamp_ns)


def test_epochs_by_hand() -> None:
    """More than a second back is a jump; less is out of order; forwards is none."""
    found = epochs(times(0, 100, 5000, 4100, 3000, 3100, 0, 900), 1000 * MS)
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert epochs(times(), 0.0).tolist() == []
