"""Two commands that follow one another, out of the node's own decisions, hold and stops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from driving_rig import SLEW, Rig
from hypothesis import given, settings
from hypothesis import strategies as st


def check(rig: Rig) -> None:
    """Whatever two commands followed one another, and however soon."""
    for (then_ns, before), (now_ns, command) in itertools.pairwise(rig.machine.sent):
        allowed = SLEW * max(0.0, (now_ns - then_ns) / 1e9) + 1e-9
        assert not command.any() or (np.abs(command - before) <= allowed).all(), (
            f"{before} -> {command} within {(now_ns - then_ns) / 1e6:.3f} ms"
        )


@pytest.mark.parametrize("simulated", [False, True])
def test_the_rig_drives(monkeypatch: pytest.MonkeyPatch, simulated: bool) -> None:
    rig = Rig(monkeypatch, [10], simulated=simulated)
    for _ in range(20):
        for what in ("image", "tick", "answer", *["held"] * 9):
            rig.do(what)
            rig.machine.pass_by(18_000)
    assert rig.machine.sent[-1][1] == pytest.approx([1.0, -2.0])
    check(rig)
    rig.do("back")
    rig.do("tick")
    assert rig.machine.sent[-1][1].tolist() == [0.0, 0.0]


def test_a_decision_right_after_a_message_of_the_hold_that_was_kept_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hold computes for 20 ms and is kept waiting for 30 ms; the decision comes at once."""
    rig = Rig(monkeypatch, [0])
    for what in ("image", "tick", "answer", "held"):
        rig.do(what)
        rig.machine.pass_by(20_000)
    rig.do("image")
    rig.do("tick")
    rig.machine.answer()
    rig.machine._delays = itertools.chain([0, 0, 0, 0, 30_000], itertools.repeat(0))
    rig.do("held")
    rig.do("answer")
    (then_ns, before), (now_ns, _) = rig.machine.sent[-2:]
    assert before.any()
    assert now_ns - then_ns < 1_000_000
    check(rig)


WHAT = st.sampled_from(
    [
        "decision",
        "decision",
        "image",
        "tick",
        "answer",
        *["held"] * 4,
        "stop",
        "marker",
        "back",
        "broken",
        "patience",
    ]
)
DELAYS_US = st.lists(
    st.one_of(st.integers(0, 300), st.integers(0, 60_000)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=150)
@given(
    delays_us=DELAYS_US,
    events=st.lists(
        st.tuples(
            WHAT,
            st.one_of(st.just(0), st.just(20_000), st.integers(0, 250_000)),
            st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
        ),
        max_size=60,
    ),
    simulated=st.booleans(),
)
def test_the_slew_rate_holds_between_any_two_commands(
    delays_us: list[int],
    events: list[tuple[str, int, tuple[float, float]]],
    simulated: bool,
) -> None:
    """By the time at which the middleware took them; a stop is exempt, what follows it is not."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        rig = Rig(monkeypatch, delays_us, simulated=simulated)
        for what in ("image", "tick", "answer", "held"):
            rig.do(what)
        for what, wait_us, wish in events:
            if what in ("tick", "decision"):
                rig.policy.action = wish
            rig.do(what)
            rig.machine.pass_by(wait_us)
        check(rig)
