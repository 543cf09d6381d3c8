"""The safety filter's promises on any input."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safety_situations import FINE, TASK, UPRIGHT, WATCHED, WATCHED_FINE, causes, make_task

from fog_policy.safety import (
    EmergencyStop,
    Situation,
    filter_command,
)
from fog_world_model.task import TaskConfig

ANYTHING = st.floats(width=64, allow_nan=True, allow_infinity=True)


ORDINARY = st.floats(-3.0, 3.0)


AGES = st.one_of(st.none(), ANYTHING, st.floats(0.0, 0.6))


SITUATIONS = st.builds(
    Situation,
    image_age_s=AGES,
    proprioception_age_s=st.fixed_dictionaries({"/joint_states": AGES}),
    orientation=st.one_of(st.none(), st.tuples(*[ANYTHING] * 4), st.just(UPRIGHT)),
    orientation_age_s=AGES,
    deadman_age_s=AGES,
    emergency_stop=st.one_of(st.none(), st.just("test")),
    temperature_c=st.one_of(st.none(), st.tuples(ANYTHING, ANYTHING)),
    temperature_age_s=AGES,
    battery_v=st.one_of(st.none(), ANYTHING),
    battery_age_s=AGES,
    position_m=st.one_of(st.none(), st.tuples(ANYTHING, ANYTHING)),
    position_age_s=AGES,
)


VECTORS = st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3)


JERKY = make_task(jerk_per_s2=[2.5, 8.0, 0.0])


# No deadline: a busy machine is no failure.
@settings(deadline=None)
@given(
    situation=st.one_of(SITUATIONS, st.just(FINE)),
    proposed=st.one_of(st.none(), st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3)),
    previous=st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3),
    dt_s=st.one_of(st.floats(0.0, 0.5), ANYTHING),
)
def test_every_command_is_finite_and_within_the_bounds(
    situation: Situation, proposed: list[float] | None, previous: list[float], dt_s: float
) -> None:
    verdict = filter_command(TASK, situation, proposed, previous, dt_s)
    assert np.isfinite(verdict.command).all()
    assert (verdict.command >= TASK.action.low).all()
    assert (verdict.command <= TASK.action.high).all()
    if verdict.stops:
        np.testing.assert_array_equal(verdict.command, np.zeros(3))


@settings(deadline=None)
@given(
    situation=st.one_of(SITUATIONS, st.just(FINE)),
    proposals=st.lists(
        st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3), min_size=1, max_size=20
    ),
    dt_s=st.floats(0.0, 5.0),
)
def test_no_sequence_of_proposals_exceeds_the_slew_rate(
    situation: Situation, proposals: list[list[float]], dt_s: float
) -> None:
    previous = np.zeros(3)
    largest = np.asarray(TASK.safety.slew_per_s) * min(dt_s, 0.2)
    for proposed in proposals:
        verdict = filter_command(TASK, situation, proposed, previous, dt_s)
        if not verdict.stops:
            assert (np.abs(verdict.command - previous) <= largest + 1e-12).all()
        previous = verdict.command


@settings(deadline=None)
@given(age_s=st.one_of(ANYTHING, st.none()))
@example(math.nan)
def test_no_age_but_a_small_one_lets_the_robot_move(age_s: float | None) -> None:
    situation = dataclasses.replace(FINE, image_age_s=age_s)
    assert (causes(situation) == []) is (age_s is not None and -0.5 <= age_s <= 0.5)
    task = make_task(deadman_topic="/joy", deadman_timeout_s=0.5)
    situation = dataclasses.replace(FINE, deadman_age_s=age_s)
    assert (causes(situation, task) == []) is (age_s is not None and age_s <= 0.5)


@settings(deadline=None)
@given(
    task=st.sampled_from([TASK, JERKY]),
    steps=st.lists(
        st.tuples(
            st.one_of(st.just(FINE), st.just(FINE), SITUATIONS),
            VECTORS,
            st.one_of(st.floats(0.0, 0.3), st.just(0.2), st.just(0.02)),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_bounds_slew_and_jerk_hold_from_step_to_step(
    task: TaskConfig, steps: list[tuple[Situation, list[float], float]]
) -> None:
    """However the steps are cut; no limit is kept at another's cost."""
    slew, jerk = np.asarray(task.safety.slew_per_s), np.asarray(task.safety.jerk(5.0))
    jerk = np.where(jerk > 0, jerk, np.inf)
    previous, rate = np.zeros(3), np.zeros(3)
    for situation, proposed, dt_s in steps:
        verdict = filter_command(task, situation, proposed, previous, dt_s, rate)
        assert np.isfinite(verdict.command).all()
        assert np.isfinite(verdict.rate).all()
        assert (verdict.command >= task.action.low).all()
        assert (verdict.command <= task.action.high).all()
        if verdict.stops:
            np.testing.assert_array_equal(verdict.command, np.zeros(3))
            np.testing.assert_array_equal(verdict.rate, np.zeros(3))
        else:
            step_s = min(dt_s, 0.2)
            moved = verdict.command - previous
            assert (np.abs(moved) <= slew * step_s + 1e-9).all()
            np.testing.assert_allclose(moved, verdict.rate * step_s, atol=1e-9)
            with np.errstate(invalid="ignore"):
                largest = np.nan_to_num(jerk * step_s, nan=0.0, posinf=np.inf)
            unbounded = np.isinf(jerk)
            assert ((np.abs(verdict.rate - rate) <= largest + 1e-7) | unbounded).all()
        previous, rate = verdict.command, verdict.rate


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.just(WATCHED_FINE), SITUATIONS),
            VECTORS,
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_latched_stop_holds_until_the_reset(
    steps: list[tuple[Situation, list[float], bool]],
) -> None:
    stop, latched = EmergencyStop(), False
    previous, rate = np.zeros(3), np.zeros(3)
    for situation, proposed, reset in steps:
        if reset:
            stop.reset()
            latched = False
        now = dataclasses.replace(situation, emergency_stop=stop.reason)
        verdict = filter_command(WATCHED, now, proposed, previous, 0.2, rate)
        stop.obey(verdict)
        if latched:
            assert verdict.stops
        latched = latched or any(reason.latching for reason in verdict.stops)
        assert (stop.reason is not None) is latched
        if verdict.stops:
            np.testing.assert_array_equal(verdict.command, np.zeros(3))
        previous, rate = verdict.command, verdict.rate


@settings(deadline=None)
@given(proposed=VECTORS.filter(lambda v: bool(np.isfinite(v).all())))
def test_jerk_bounded_commands_reach_a_constant_target(proposed: list[float]) -> None:
    """Braking in time does not mean never arriving, and there is no overshoot on the way."""
    task = make_task(jerk_per_s2=[2.5, 8.0, 0.0], out_of_range=0.0)
    target = np.clip(proposed, task.action.low, task.action.high)
    previous, rate = np.zeros(3), np.zeros(3)
    for _ in range(30):
        verdict = filter_command(task, FINE, proposed, previous, 0.2, rate)
        assert (np.abs(verdict.command) <= np.abs(target) + 1e-9).all()
        previous, rate = verdict.command, verdict.rate
    np.testing.assert_allclose(previous, target, atol=1e-6)
