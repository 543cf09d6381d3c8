"""Rewards of the simulated tasks, as pure functions of positions."""

from __future__ import annotations

import math

Pose = tuple[float, float, float]
"""``(x, y, yaw)``, m and rad (px and rad for Push-T)."""

PUSH_DISTANCE_M = 0.55
"""From the base to the cube's centre when the nose touches the cube."""
PUSH_SCALE = 5.0
"""Brings a step's progress, some 0.1 m, to the order of one."""
DONE_BONUS = 5.0
"""For having pushed the cube to the goal: more than a step's progress can be."""


def distance_and_bearing(base: Pose, target: tuple[float, float]) -> tuple[float, float]:
    """Where a target lies as seen from the base.

    Returns:
        Distance in the plane in m, and bearing in the base frame in (-pi, pi], left positive.
    """
    dx, dy = target[0] - base[0], target[1] - base[1]
    bearing = math.atan2(dy, dx) - base[2]
    return math.hypot(dx, dy), math.atan2(math.sin(bearing), math.cos(bearing))


def reach_cube(base: Pose, cube: tuple[float, float]) -> float:
    """Closeness times facing, in [0, 1]: 1 when the cube is straight ahead within 0.5 m."""
    distance, bearing = distance_and_bearing(base, cube)
    return math.exp(-max(distance - 0.5, 0.0)) * (1.0 + math.cos(bearing)) / 2.0


def push_cube_potential(
    base: tuple[float, float], cube: tuple[float, float], goal: tuple[float, float]
) -> float:
    """How far the push has come, in m; it grows from negative towards zero.

    Minus the cube's way to the goal, minus half the robot's way to the spot behind the cube, seen
    from the goal, from where it can push.
    """
    dx, dy = goal[0] - cube[0], goal[1] - cube[1]
    to_goal = math.hypot(dx, dy)
    scale = PUSH_DISTANCE_M / max(to_goal, 1e-6)
    behind = (cube[0] - dx * scale, cube[1] - dy * scale)
    return -to_goal - 0.5 * math.dist(base, behind)


def push_cube(before: float, now: float, done: bool) -> float:
    """Progress made during one control step.

    Summed over an episode the progress telescopes, so that no way of moving to and fro earns
    anything.

    Args:
        before: :func:`push_cube_potential` one control period ago.
        now: The same now.
        done: The cube has reached the goal; adds :data:`DONE_BONUS`.
    """
    return PUSH_SCALE * (now - before) + (DONE_BONUS if done else 0.0)


def pusht(
    block: Pose, goal: Pose, coverage: float, *, gap: float = 0.0, approach_weight: float = 0.0
) -> float:
    """Mean of closeness and score of Push-T, in (0, 1], blended with how near the pusher is.

    The coverage alone is zero over most of the table, the closeness alone blunt near the goal, and
    neither changes before the pusher touches the block.

    Args:
        block: Pose of the T, lengths in px of the 512 px table.
        goal: Pose that it should have.
        coverage: Share of the goal's area that the T covers.
        gap: Between the pusher and the block, px; 0 or less when they touch.
        approach_weight: Share of the reward, in [0, 1], that is exp(-gap / 100 px).
    """
    turn = block[2] - goal[2]
    angle = abs(math.atan2(math.sin(turn), math.cos(turn)))
    closeness = math.exp(-math.dist(block[:2], goal[:2]) / 100.0 - angle / 1.5)
    nearness = math.exp(-max(gap, 0.0) / 100.0)
    return (1.0 - approach_weight) * (closeness + coverage) / 2.0 + approach_weight * nearness
