"""Which ticks count as missed, by hand and against a count over the whole schedule."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fog_policy.deadlines import Deadlines

MS = 1_000_000
PERIOD_MS = 50


def missed(*events: tuple[str, int] | tuple[str, int, int], end_ms: int) -> int:
    """Ticks by their deadline, decisions by their tick's deadline and their own time, in ms."""
    deadlines = Deadlines(PERIOD_MS * MS)
    for name, due_ms, *now_ms in events:
        if name == "tick":
            deadlines.tick(due_ms * MS)
        else:
            deadlines.decided(due_ms * MS, now_ms[0] * MS)
    deadlines.end(end_ms * MS)
    return deadlines.missed


def test_every_decision_within_its_own_period() -> None:
    """One at the beginning of its period, the next at the end: 95 ms apart, and both in time."""
    early_late = (("tick", 50), ("decided", 50, 2), ("tick", 100), ("decided", 100, 97))
    assert missed(*early_late, end_ms=100) == 0


def test_a_decision_after_its_deadline_is_missed_though_the_intervals_are_even() -> None:
    assert missed(("tick", 50), ("decided", 50, 51), end_ms=60) == 1
    # The policy takes 60 ms: the second tick finds it busy and is asked about at 60 ms.
    late = (("tick", 50), ("tick", 100), ("decided", 50, 60), ("decided", 100, 99))
    assert missed(*late, end_ms=110) == 1
    # Were it not asked then, both would be missed: an answer to the first is none to the second.
    assert missed(("tick", 50), ("tick", 100), ("decided", 50, 60), end_ms=110) == 2


def test_ticks_that_never_came_are_missed() -> None:
    # The process was kept waiting from 10 ms to 190 ms: ticks at 50, 100 and 150 ms.
    events = (("tick", 50), ("decided", 50, 5), ("tick", 250), ("decided", 250, 205))
    assert missed(*events, end_ms=210) == 3


def test_a_late_tick_has_what_is_left_of_its_period() -> None:
    """Due at 50 ms, it comes at 90 ms, and its deadline stays at 100 ms."""
    first = (("tick", 50), ("decided", 50, 5), ("tick", 100))
    assert missed(*first, ("decided", 100, 99), end_ms=100) == 0
    assert missed(*first, ("decided", 100, 101), end_ms=101) == 1


TICKS = st.lists(
    st.tuples(st.booleans(), st.one_of(st.none(), st.integers(0, 150))), min_size=1, max_size=20
)


@settings(deadline=None)
@given(ticks=TICKS)
def test_as_counted_over_the_whole_schedule(ticks: list[tuple[bool, int | None]]) -> None:
    """Of each slot: whether its tick comes, and when after it its decision, if ever."""
    ticks = [(True, 0), *ticks]
    events: list[tuple[int, int, int]] = []
    expected = 0
    for slot, (comes, after_ms) in enumerate(ticks):
        begin_ms = slot * PERIOD_MS
        due_ms = begin_ms + PERIOD_MS
        in_time = comes and after_ms is not None and after_ms <= PERIOD_MS
        expected += not in_time
        if comes:
            events.append((begin_ms, 1, due_ms))
            if after_ms is not None:
                events.append((begin_ms + after_ms, 0 if after_ms else 2, due_ms))
    deadlines = Deadlines(PERIOD_MS * MS)
    for now_ms, kind, due_ms in sorted(events):
        if kind == 1:
            deadlines.tick(due_ms * MS)
        else:
            deadlines.decided(due_ms * MS, now_ms * MS)
    deadlines.end(len(ticks) * PERIOD_MS * MS)
    assert deadlines.missed == expected
