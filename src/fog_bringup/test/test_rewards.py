"""Rewards against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from fog_bringup.robots import rewards


@pytest.mark.parametrize(
    ("base", "cube", "expected"),
    [
        ((0.0, 0.0, 0.0), (1.5, 0.0), 0.367879),  # 1 m beyond 0.5 m, straight ahead: e^-1
        ((0.0, 0.0, 0.0), (0.0, 1.5), 0.183940),  # to the left: half of it
        ((0.0, 0.0, math.pi), (1.5, 0.0), 0.0),  # behind the back
        ((0.0, 0.0, 0.0), (0.4, 0.0), 1.0),  # nearer than 0.5 m counts as there
        ((1.0, 1.0, math.pi / 4), (2.0, 2.0), 0.400832),  # e^-(sqrt 2 - 0.5)
        # d = sqrt(2.29) = 1.513275; its direction -pi + 0.132552 lies 0.274144 to the left of 3 rad
        # once the bearing is wrapped; e^-1.013275 (1 + 0.962658) / 2 = 0.363028 * 0.981329
        ((0.0, 0.0, 3.0), (-1.5, -0.2), 0.356250),
    ],
)
def test_reach_cube(
    base: tuple[float, float, float], cube: tuple[float, float], expected: float
) -> None:
    assert rewards.reach_cube(base, cube) == pytest.approx(expected, abs=2e-6)


def test_push_cube_potential_measures_both_ways() -> None:
    # The cube is 2 m from the goal; the spot behind it is (1 - 0.55, 0) = (0.45, 0).
    value = rewards.push_cube_potential((0.0, 0.0), (1.0, 0.0), (3.0, 0.0))
    assert value == pytest.approx(-2.0 - 0.5 * 0.45)
    # To the side of that spot by 0.3 m and past it by 0.4 m: 0.5 m away.
    value = rewards.push_cube_potential((0.85, 0.3), (1.0, 0.0), (3.0, 0.0))
    assert value == pytest.approx(-2.0 - 0.5 * 0.5)


def test_push_cube_pays_for_progress_only() -> None:
    before = rewards.push_cube_potential((0.45, 0.0), (1.0, 0.0), (3.0, 0.0))
    after = rewards.push_cube_potential((0.55, 0.0), (1.1, 0.0), (3.0, 0.0))
    assert rewards.push_cube(before, after, False) == pytest.approx(5.0 * 0.1)
    assert rewards.push_cube(before, after, True) == pytest.approx(5.0 * 0.1 + 5.0)
    there_and_back = rewards.push_cube(before, after, False) + rewards.push_cube(
        after, before, False
    )
    assert there_and_back == pytest.approx(0.0)


def test_pusht() -> None:
    goal = (256.0, 256.0, math.pi / 4)
    assert rewards.pusht(goal, goal, 1.0) == pytest.approx(1.0)
    # 100 px away, same angle, a fifth covered: (e^-1 + 0.2) / 2
    assert rewards.pusht((356.0, 256.0, math.pi / 4), goal, 0.2) == pytest.approx(
        0.283940, abs=1e-6
    )
    # turned by -1.5 rad the long way round, in place: (e^-1 + 0.5) / 2
    turned = (256.0, 256.0, math.pi / 4 - 1.5 + 2 * math.pi)
    assert rewards.pusht(turned, goal, 0.5) == pytest.approx(0.433940, abs=1e-6)
    # a fifth of it for standing 50 px away: 0.8 * 0.433940 + 0.2 * e^-0.5
    assert rewards.pusht(turned, goal, 0.5, gap=50.0, approach_weight=0.2) == pytest.approx(
        0.468458, abs=1e-6
    )
