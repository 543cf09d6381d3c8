"""The labeller of Push-T: the T's geometry by hand, and a drawn table that is not gym-pusht's."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fog_world_model.data.labellers import make_labeller, tee
from fog_world_model.data.labellers.labeller import CameraModel
from fog_world_model.data.labellers.pusht_image import PushTLabeller
from fog_world_model.errors import FogError
from fog_world_model.task import LabellerConfig, TaskConfig

Image = npt.NDArray[np.uint8]
GOALS = [(0.0, 0.0, 0.0), tee.GOAL, (100.0, 300.0, -2.5)]
# A wooden T on a dark table, seen at an angle; the pusher is a white stick, the goal yellow tape.
WOOD, TABLE, TAPE, STICK = (190, 140, 80), (40, 45, 50), (230, 220, 60), (245, 245, 245)
CORNERS = np.array([[0.18, 0.15], [0.80, 0.12], [0.95, 0.90], [0.06, 0.86]])


def moved(pose: tuple[float, float, float], right: float, down: float, turn: float = 0.0):
    """A pose moved along the T's own axes, in widths of its bars."""
    x, y, angle = pose
    c, s, unit = math.cos(angle), math.sin(angle), tee.UNIT_PX
    return (x + unit * (right * c - down * s), y + unit * (right * s + down * c), angle + turn)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize(
    ("right", "down", "turn", "sevenths"),
    [
        (0.0, 0.0, 0.0, 7.0),
        (1.0, 0.0, 0.0, 3.0),  # three squares of the bar; the stems lie side by side
        (0.0, 1.0, 0.0, 3.0),  # one square of the bar on the stem, two of the stem on itself
        (0.0, 2.0, 0.0, 2.0),
        (0.25, 0.0, 0.0, 6.0),  # 3.75 of the bar, 0.75 x 3 of the stem
        (0.0, 0.0, math.pi, 0.0),  # head to head
        (0.0, 1.0, math.pi, 4.0),  # the bar on the bar; the stem points away
        (0.0, 0.0, 2 * math.pi, 7.0),
    ],
)
def test_coverage_counts_squares(
    goal: tuple[float, float, float], right: float, down: float, turn: float, sevenths: float
) -> None:
    found = tee.coverage(moved(goal, right, down, turn), goal)
    assert found == pytest.approx(sevenths / 7.0, abs=1e-5)


@pytest.mark.parametrize("pose", GOALS)
def test_signed_distance(pose: tuple[float, float, float]) -> None:
    # above the bar, inside it, in the armpit, beside the stem's end, off the bar's corner (3, 4, 5)
    places = [(0.0, -1.0), (1.5, 0.2), (0.75, 1.5), (0.0, 4.5), (2.0 + 3.0, -4.0)]
    expected = [1.0, -0.2, 0.25, 0.5, 5.0]
    points = np.array([moved(pose, *place)[:2] for place in places])
    found = tee.signed_distance(points, pose) / tee.UNIT_PX
    np.testing.assert_allclose(found, expected, atol=1e-12)
    axis = np.arange(-300.0, 300.0) + 0.5
    inside = tee.signed_distance(np.stack(np.meshgrid(axis, axis), -1) + pose[:2], pose) < 0.0
    assert inside.sum() == pytest.approx(7.0 * tee.UNIT_PX**2, rel=0.005)


def test_label_against_numbers_worked_out_by_hand() -> None:
    labeller = PushTLabeller(LabellerConfig("pusht_image"))
    quarter, away = math.pi / 4, (0.0, 0.0)
    sights = np.array(
        [
            (0.0, 0.0, 0.0, 0.0, *away),  # nothing led to the first step
            (256.0, 256.0, quarter, 1.0, *away),
            (356.0, 256.0, quarter, 0.2, *away),  # 100 px away: (e^-1 + 0.2) / 2
            (256.0, 256.0, quarter - 1.5 + 2 * math.pi, 0.5, *away),  # (e^-1 + 0.5) / 2
            (np.nan,) * 6,
            (256.0, 256.0, quarter, 0.949, *away),
            (256.0, 256.0, quarter, 0.951, *away),
        ],
        np.float32,
    )
    labels = labeller.label(sights, None)
    np.testing.assert_allclose(
        labels.reward, [1.0, 0.283940, 0.433940, np.nan, 0.9745, 0.9755], atol=2e-6
    )
    np.testing.assert_array_equal(labels.end, [True, False, False, False, False, True])
    assert labels.reward.dtype == np.float32


def test_a_share_of_the_reward_is_for_being_near() -> None:
    labeller = PushTLabeller(LabellerConfig("pusht_image", options={"approach_weight": 0.2}))
    upright = (256.0, 256.0, 0.0, 0.0)  # its top edge lies at y = 256
    away = math.exp(-math.pi / 4 / 1.5) / 2  # (closeness + coverage) / 2
    sights = [
        (*upright, 0.0, 0.0),
        (*upright, 256.0, 141.0),  # the pusher's rim, 15 px nearer, is 100 px above the T
        (*upright, 256.0, 241.0),  # touches it
        (*upright, 256.0, 250.0),  # pressed into it
        (*upright, np.nan, np.nan),  # out of the picture
    ]
    labels = labeller.label(np.array(sights, np.float32), None)
    expected = 0.8 * away + 0.2 * np.array([math.exp(-1.0), 1.0, 1.0, 0.0])
    np.testing.assert_allclose(labels.reward, expected, atol=2e-6)


def table_picture(
    pose: tuple[float, float, float],
    stick: tuple[float, float] | None,
    random: np.random.Generator,
    *,
    width: int = 320,
    height: int = 240,
) -> Image:
    """A camera's picture of a real table: perspective, blur, uneven light, noise."""
    big = 4  # drawn large and reduced, so that edges are smooth
    table = np.full((512 * big, 512 * big, 3), TABLE, np.uint8)

    def fill(bars: npt.NDArray[np.float64], colour: tuple[int, int, int]) -> None:
        for bar in bars:
            cv2.fillConvexPoly(table, np.round((bar + 0.5) * big - 0.5).astype(np.int32), colour)

    fill(tee.bars(tee.GOAL), TAPE)
    fill(tee.bars(pose), WOOD)
    if stick is not None:
        cv2.circle(table, (int(stick[0] * big), int(stick[1] * big)), 15 * big, STICK, -1)
    source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * 512 * big - 0.5
    target = CORNERS * (width * big, height * big) - 0.5
    transform = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
    seen = cv2.warpPerspective(
        table, transform, (width * big, height * big), borderValue=(90, 60, 60)
    )
    seen = cv2.resize(seen, (width, height), interpolation=cv2.INTER_AREA)
    seen = cv2.GaussianBlur(seen, (0, 0), 0.7).astype(np.float64)
    light = np.linspace(0.95, 1.05, width)[None, :, None]
    return np.clip(seen * light + random.normal(0.0, 4.0, seen.shape), 0, 255).astype(np.uint8)


def hexadecimal(rgb: tuple[int, int, int]) -> float:
    return float(rgb[0] << 16 | rgb[1] << 8 | rgb[2])


@pytest.fixture(scope="module")
def real_table() -> PushTLabeller:
    corners = ("left_top", "right_top", "right_bottom", "left_bottom")
    return PushTLabeller(
        LabellerConfig(
            "pusht_image",
            options={
                "block_rgb": hexadecimal(WOOD),
                "block_edge_rgb": -1.0,
                "pusher_rgb": hexadecimal(STICK),
                "pusher_edge_rgb": -1.0,
                "table_rgb": hexadecimal(TABLE),
                "goal_rgb": hexadecimal(TAPE),
                "wall_rgb": -1.0,
                "edge_px": 0.0,
                **{f"{n}_{a}": float(CORNERS[k, i]) for k, n in enumerate(corners)
                   for i, a in enumerate("uv")},
            },
        )
    )  # fmt: skip


def test_a_real_table_seen_at_an_angle(real_table: PushTLabeller) -> None:
    random = np.random.default_rng(0)
    apart, turns, covered, sticks = [], [], [], []
    for k in range(24):
        near = k % 2
        pose = (
            tee.GOAL[0] + random.normal(0.0, 10.0) if near else random.uniform(140.0, 370.0),
            tee.GOAL[1] + random.normal(0.0, 10.0) if near else random.uniform(140.0, 370.0),
            tee.GOAL[2] + random.normal(0.0, 0.2) if near else random.uniform(-math.pi, math.pi),
        )
        angle = random.uniform(-math.pi, math.pi)
        # The stick touches the T, or hides a part of it.
        stick = pose[0] + 70.0 * math.cos(angle), pose[1] + 70.0 * math.sin(angle)
        x, y, found, share, *pusher = real_table.look(table_picture(pose, stick, random), None)
        sticks.append(math.dist(pusher, stick))
        apart.append(math.hypot(x - pose[0], y - pose[1]))
        turns.append(abs(math.remainder(found - pose[2], 2 * math.pi)))
        covered.append(abs(share - tee.coverage(pose, tee.GOAL)))
    # 1 px of 512 is 0.2 % of the table; a pixel of this picture is about 2.5 px of it.
    assert max(apart) < 2.0
    assert max(turns) < math.radians(1.0)
    assert max(covered) < 0.02
    assert float(np.mean(covered)) < 0.007
    assert max(sticks) < 3.0


def test_what_is_not_there_is_not_seen(real_table: PushTLabeller) -> None:
    random = np.random.default_rng(1)
    empty = table_picture((-400.0, -400.0, 0.0), None, random)
    assert np.isnan(real_table.look(empty, None)).all()
    whole = table_picture((250.0, 200.0, 0.3), None, random)
    found = real_table.look(whole, None)
    assert not np.isnan(found[:4]).any() and np.isnan(found[4:]).all()  # there is no stick
    # Something dark lies over the stem and half of the bar.
    hidden = whole.copy()
    hidden[90:200, 60:330] = TABLE
    assert np.isnan(real_table.look(hidden, None)).all()
    # Something of the block's colour that is no T.
    other = table_picture((-400.0, -400.0, 0.0), None, random)
    cv2.circle(other, (160, 120), 34, WOOD, -1)
    assert np.isnan(real_table.look(other, None)).all()


def test_lens_distortion_is_undone(real_table: PushTLabeller) -> None:
    random = np.random.default_rng(2)
    pose = (400.0, 380.0, 0.4)
    straight = table_picture(pose, None, random)
    matrix = np.array([[250.0, 0, 159.5], [0, 250.0, 119.5], [0, 0, 1]])
    bent = CameraModel(matrix, np.array([-0.25, 0.05, 0.0, 0.0, 0.0]), 240, 320)
    # Where each pixel of the distorted picture comes from in the straight one.
    grid = np.stack(np.meshgrid(np.arange(320.0), np.arange(240.0)), -1).reshape(-1, 1, 2)
    source = cv2.undistortPoints(grid, bent.matrix, bent.distortion, P=bent.matrix)
    maps = source.reshape(240, 320, 2).astype(np.float32)
    picture = cv2.remap(straight, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)
    assert not np.hypot(*(real_table.look(picture, None)[:2] - pose[:2])) < 3.0  # or not seen
    x, y, angle = real_table.look(picture, bent)[:3]
    assert math.hypot(x - pose[0], y - pose[1]) < 3.0
    assert abs(angle - pose[2]) < math.radians(1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal_z": 1.0}, "no option goal_z; known are .*goal_angle"),
        ({"block_rgb": -1.0}, "block_rgb must be a colour"),
        ({"wall_rgb": 0x1000000}, "wall_rgb must be 0x000000 to 0xFFFFFF"),
        ({"solved": 1.2}, r"solved must be in \(0, 1\]"),
        ({"unit_px": 0.0}, "unit_px must be positive"),
        ({"approach_weight": 1.1}, r"approach_weight must be in \[0, 1\]"),
    ],
)
def test_impossible_options_are_refused(
    tiny_task: TaskConfig, options: dict[str, float], message: str
) -> None:
    config = LabellerConfig("pusht_image", options=options)
    task = dataclasses.replace(tiny_task, reward=None, end=None, labeller=config)
    with pytest.raises(FogError, match=message):
        make_labeller(task)


def test_unknown_labeller_and_none(tiny_task: TaskConfig) -> None:
    assert make_labeller(tiny_task) is None
    task = dataclasses.replace(
        tiny_task, reward=None, end=None, labeller=LabellerConfig("pusht_picture")
    )
    with pytest.raises(FogError, match="no labeller 'pusht_picture'; known are pusht_image"):
        make_labeller(task)
