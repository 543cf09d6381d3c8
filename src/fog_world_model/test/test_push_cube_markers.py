"""Fiducial markers: their layout, poses from known pictures, and what is carried to where."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fog_world_model.data.labellers import make_labeller
from fog_world_model.data.labellers.fiducials import MarkerDetector, Mounting, locate_box
from fog_world_model.data.labellers.labeller import CameraModel
from fog_world_model.data.labellers.marker_layout import (
    FACES,
    Marker,
    MarkerLayout,
    face_axes,
    marker_layout,
)
from fog_world_model.data.labellers.push_cube_markers import (
    FIELDS,
    PushCubeLabeller,
    PushCubeOptions,
    carry_cube,
    to_ground,
)
from fog_world_model.errors import FogError
from fog_world_model.task import LabellerConfig, TaskConfig

CAMERA = CameraModel(
    np.array([[220.0, 0.0, 319.5], [0.0, 220.0, 239.5], [0.0, 0.0, 1.0]]), np.zeros(5), 480, 640
)
MOUNTING = Mounting(0.3, 0.0, 0.05, 18.0)
LAYOUT = MarkerLayout()
Array = npt.NDArray[np.float64]


# --- layout ---------------------------------------------------------------------------------------


def test_corners_of_a_marker_by_hand() -> None:
    # The +y side of a box of 0.4 m, looked at from y = +infinity: right is -x, up is z.
    corners = Marker(7, "+y", 0.2, right_m=0.05, up_m=-0.03).corners(0.4)
    expected = [(0.05, 0.2, 0.07), (-0.15, 0.2, 0.07), (-0.15, 0.2, -0.13), (0.05, 0.2, -0.13)]
    np.testing.assert_allclose(corners, expected, atol=1e-12)


@pytest.mark.parametrize("face", FACES)
def test_a_face_is_seen_from_outside(face: str) -> None:
    normal, right, up = face_axes(face)
    np.testing.assert_array_equal(np.cross(right, up), normal)


@pytest.mark.parametrize("dictionary", ["4X4_250", "APRILTAG_36h11"])
@pytest.mark.parametrize("face", FACES)
def test_drawn_face_shows_the_markers_where_the_layout_has_them(dictionary: str, face: str) -> None:
    layout = MarkerLayout(dictionary=dictionary)
    side = 1200
    picture = layout.draw_face(layout.cube(), face, layout.cube_size_m, side)
    framed = cv2.copyMakeBorder(picture, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=255)
    found = MarkerDetector(layout.opencv()).find(np.repeat(framed[..., None], 3, axis=2))
    there = {m.identifier: m for m in layout.cube() if m.face == face}
    assert found.keys() == there.keys()
    normal, right, up = face_axes(face)
    for identifier, corners in found.items():
        metres = (corners + 0.5 - 40) / side * layout.cube_size_m - layout.cube_size_m / 2
        on_face = metres[:, :1] * right - metres[:, 1:] * up + normal * layout.cube_size_m / 2
        np.testing.assert_allclose(
            on_face, there[identifier].corners(layout.cube_size_m), atol=0.0006
        )


def test_every_marker_has_its_own_identifier() -> None:
    identifiers = [m.identifier for m in (*LAYOUT.cube(), *LAYOUT.post())]
    assert len(identifiers) == len(set(identifiers)) == 6 * (1 + 16) + 4


@pytest.mark.parametrize(
    ("options", "dictionary", "message"),
    [
        ({"post_first_id": 101.0}, "", "must differ and lie in 0 to 249"),
        ({"post_first_id": 247.0}, "", "must differ and lie in 0 to 249"),
        ({}, "4X4_100", "must differ and lie in 0 to 99"),
        ({}, "4X4_51", "no markers '4X4_51'; known are .*APRILTAG_36h11"),
        ({"cube_marker_m": 0.19}, "", r"cube_marker_m must be positive and below 0\.18 m"),
        ({"cube_ring_marker_m": 0.06}, "", "cube_ring_marker_m must be positive and below 0.06"),
        ({"cube_ring": 4.5}, "", "cube_ring must be a whole number"),
        ({"cube_ring": 2.0}, "", "cube_ring must be at least 3"),
        ({"touch_m": 0.0}, "", "touch_m must be positive"),
        ({"cube_edge": 0.3}, "", "no option cube_edge; known are cube_size_m"),
    ],
)
def test_impossible_options_are_refused(
    tiny_task: TaskConfig, options: dict[str, float], dictionary: str, message: str
) -> None:
    config = LabellerConfig("push_cube_markers", dictionary=dictionary, options=options)
    task = dataclasses.replace(tiny_task, reward=None, end=None, labeller=config)
    with pytest.raises(FogError, match=message):
        make_labeller(task)


# --- poses ----------------------------------------------------------------------------------------


def test_mounting_by_hand() -> None:
    # Looking straight down: right of the picture is -y, its lower edge -x.
    down = Mounting(0.0, 0.0, 0.0, pitch_deg=90.0).rotation()
    np.testing.assert_allclose(down, [[0, -1, 0], [-1, 0, 0], [0, 0, -1]], atol=1e-12)
    # A point 2 m ahead on the axis of a camera that looks 30 degrees down and 90 to the left.
    turned = Mounting(0.1, 0.2, 0.3, pitch_deg=30.0, yaw_deg=90.0)
    point = turned.rotation() @ (0.0, 0.0, 2.0) + turned.position()
    np.testing.assert_allclose(point, [0.1, 0.2 + 2.0 * math.cos(math.pi / 6), 0.3 - 1.0])


def seen_corners(
    position: Array, yaw: float, markers: tuple[Marker, ...], box_m: float
) -> dict[int, Array]:
    """Where an ideal camera sees the markers on the faces that look towards it."""
    turn = np.array(
        [[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]]
    )
    to_camera = MOUNTING.rotation().T
    found = {}
    for marker in markers:
        corners = marker.corners(box_m) @ turn.T + position - MOUNTING.position()
        normal = turn @ face_axes(marker.face)[0]
        if normal @ corners.mean(0) > -0.05 * np.linalg.norm(corners.mean(0)):
            continue
        optical = corners @ to_camera.T
        if (optical[:, 2] <= 0.05).any():
            continue
        pixels = optical[:, :2] / optical[:, 2:] * 220.0 + (319.5, 239.5)
        if ((pixels > 0) & (pixels < (640, 480))).all():
            found[marker.identifier] = pixels
    return found


def test_exact_corners_give_the_exact_pose() -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        position = np.array([random.uniform(0.7, 3.0), 0.0, -0.15])
        position[1] = random.uniform(-0.4, 0.4) * position[0]
        yaw = random.uniform(-math.pi, math.pi)
        found = seen_corners(position, yaw, LAYOUT.cube(), LAYOUT.cube_size_m)
        sight = locate_box(found, LAYOUT.cube(), LAYOUT.cube_size_m, CAMERA, MOUNTING)
        assert sight is not None
        np.testing.assert_allclose(sight.position, position, atol=2e-4)
        assert abs(math.remainder(sight.yaw - yaw, 2 * math.pi)) < 1e-3


def test_errors_are_as_large_as_the_sight_says() -> None:
    """Noise of 0.3 px, and single faces that two poses explain: is std_m a standard deviation?"""
    random = np.random.default_rng(1)
    ratios = []
    for _ in range(200):
        position = np.array([random.uniform(1.0, 3.0), random.uniform(-0.5, 0.5), 0.1])
        yaw = random.uniform(-math.pi, math.pi)
        found = seen_corners(position, yaw, LAYOUT.post(), LAYOUT.post_box_m)
        noisy = {k: v + random.normal(0.0, 0.3, v.shape) for k, v in found.items()}
        sight = locate_box(noisy, LAYOUT.post(), LAYOUT.post_box_m, CAMERA, MOUNTING)
        assert sight is not None
        ratios.append(np.hypot(*(sight.position - position)[:2]) / sight.std_m)
    assert np.mean(np.array(ratios) < 3.0) > 0.97
    # and not so cautious that it says nothing: of the errors some are as large as they may be
    assert np.sqrt(np.mean(np.square(ratios))) > 0.3


def test_markers_that_fit_no_pose_are_no_sight() -> None:
    found = seen_corners(np.array([1.5, 0.0, -0.15]), 0.6, LAYOUT.cube(), LAYOUT.cube_size_m)
    assert locate_box({}, LAYOUT.cube(), LAYOUT.cube_size_m, CAMERA, MOUNTING) is None
    # Two of the identifiers belong to something else in the picture.
    swapped = dict(zip(found, [*list(found.values())[1:], next(iter(found.values()))], strict=True))
    assert locate_box(swapped, LAYOUT.cube(), LAYOUT.cube_size_m, CAMERA, MOUNTING) is None


def test_a_picture_without_camera_model_is_refused() -> None:
    labeller = PushCubeLabeller(LabellerConfig("push_cube_markers"))
    picture = np.full((480, 640, 3), 90, np.uint8)
    with pytest.raises(FogError, match="CameraInfo"):
        labeller.look(picture, None)
    assert np.isnan(labeller.look(picture, CAMERA)).all()


# --- from sights to rewards -----------------------------------------------------------------------


def sights_of(cube: Array, post: Array) -> npt.NDArray[np.float32]:
    """``[step, field]`` from ``[step, 2]`` in the base frame."""
    sights = np.zeros((len(cube), len(FIELDS)), np.float32)
    sights[:, 0:2], sights[:, 3], sights[:, 5:7], sights[:, 8] = cube, 0.01, post, 0.01
    sights[np.isnan(cube[:, 0]), 0:5] = np.nan
    sights[np.isnan(post[:, 0]), 5:9] = np.nan
    return sights


def standing_at(xy: Array, yaw: float = 0.0) -> npt.NDArray[np.float32]:
    """``[step, 7]`` poses of an upright robot."""
    poses = np.zeros((len(xy), 7), np.float32)
    poses[:, :2] = xy
    poses[:, 5:] = math.sin(yaw / 2), math.cos(yaw / 2)
    return poses


def test_reward_against_numbers_worked_out_by_hand() -> None:
    labeller = PushCubeLabeller(LabellerConfig("push_cube_markers"))
    # In the base frame. The spot behind the cube lies at 0.45, then at 0.4, away from the post.
    cube = np.array([(1.0, 0.0), (0.95, 0.0), (0.95, 0.0), (np.nan, np.nan)])
    post = np.array([(3.0, 0.0), (2.85, 0.0), (1.3, 0.0), (1.3, 0.0)])
    labels = labeller.label(sights_of(cube, post), None)
    # -2 - 0.225 -> -1.9 - 0.2 -> -0.35 - 0.2, where the cube is within 0.4 m: + 5
    np.testing.assert_allclose(
        labels.reward, [5.0 * 0.125, 5.0 * 1.55 + 5.0, np.nan], rtol=1e-5, equal_nan=True
    )
    np.testing.assert_array_equal(labels.end, [False, True, False])


def test_a_fall_ends_the_episode_without_a_bonus() -> None:
    labeller = PushCubeLabeller(
        LabellerConfig("push_cube_markers", options={"fallen_height_m": 0.18})
    )
    sights = sights_of(np.array([(1.0, 0.0)] * 5), np.array([(3.0, 0.0)] * 5))
    base = standing_at(np.zeros((5, 2)))
    base[:, 2] = 0.3, 0.3, 0.3, 0.3, 0.17  # lying, in the end
    for step, roll in ((1, 0.85), (2, 0.95)):
        base[step, 3:] = math.sin(roll / 2), 0.0, 0.0, math.cos(roll / 2)
    labels = labeller.label(sights, base)
    np.testing.assert_array_equal(labels.end, [False, True, False, True])
    assert np.abs(labels.reward).max() < 1.0


def test_to_ground_turns_and_tilts() -> None:
    half = math.sqrt(0.5)
    base = np.array(
        [
            [1.0, 2.0, 0.3, 0.0, 0.0, half, half],  # turned to the left by 90 degrees
            [1.0, 2.0, 0.3, 0.0, half, 0.0, half],  # nose down: ahead is below
            [0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0],
        ]
    )
    points = np.array([[0.5, 0.1, -0.2]] * 3)
    np.testing.assert_allclose(to_ground(points, base), [[0.9, 2.5], [0.8, 2.1], [0.5, 0.1]])


OPTIONS = PushCubeOptions(bridge_steps=2, agree_m=0.05, touch_m=0.8)
NOWHERE = (np.nan, np.nan)


@pytest.mark.parametrize(
    ("robot", "cube", "expected"),
    [
        # Far away: the cube stays where it was seen, before, between and after.
        ([-2.0] * 5, [None, 1.0, None, 1.0, None], [1.0] * 5),
        # Near, and it moved while nobody saw it, for longer than is bridged.
        ([0.0] * 5, [0.6, None, None, None, 0.9], [0.6, None, None, None, 0.9]),
        # The same for a moment only: a straight line.
        ([0.0] * 4, [0.6, None, None, 0.9], [0.6, 0.7, 0.8, 0.9]),
        # Near, but it lies where it lay.
        ([0.0] * 6, [0.6, None, None, None, None, 0.62], [0.6, 0.604, 0.608, 0.612, 0.616, 0.62]),
        # Near and never seen again: unknown. Not seen yet: the same.
        ([0.0] * 3, [0.6, None, None], [0.6, None, None]),
        ([0.0] * 3, [None, None, 0.6], [None, None, 0.6]),
        # Somebody else carried it away while the robot was far from it.
        ([-2.0] * 6, [1.0, 1.0, None, None, None, 2.0], [1.0, 1.0, None, None, None, 2.0]),
        # Far, then near: carried up to where the robot could have touched it.
        ([-2.0, -1.0, 0.0, 0.5], [1.0, None, None, None], [1.0, 1.0, 1.0, None]),
        ([0.0] * 2, [None, None], [None, None]),
    ],
)
def test_the_cube_is_carried_only_where_it_is_known(
    robot: list[float], cube: list[float | None], expected: list[float | None]
) -> None:
    def places(values: list[float | None]) -> Array:
        return np.array([NOWHERE if v is None else (v, 0.5) for v in values])

    base = np.array([(x, 0.5) for x in robot])
    found = carry_cube(places(cube), np.full(len(cube), 0.01), base, OPTIONS)
    np.testing.assert_allclose(found, places(expected), atol=1e-9)


def test_the_surer_sighting_of_a_cube_at_rest_counts_more() -> None:
    points = np.array([(1.0, 0.0), (1.04, 0.0)])
    found = carry_cube(points, np.array([0.01, 0.02]), np.array([(-2.0, 0.0)] * 2), OPTIONS)
    # weights 4 and 1 at the same step, the other a hundredth of 1/e less
    e = math.exp(-0.01)
    np.testing.assert_allclose(found[:, 0], [1.0 + 0.04 * e / (4 + e), 1.0 + 0.04 / (4 * e + 1)])


def test_the_post_is_carried_while_the_robot_looks_elsewhere() -> None:
    labeller = PushCubeLabeller(LabellerConfig("push_cube_markers", odometry_topic="/odom"))
    base = standing_at(np.array([(0.0, 1.0), (0.1, 1.0), (0.2, 1.0), (0.3, 1.0)]), math.pi / 2)
    # The robot faces +y; the cube is pushed along it; the post is seen in the second step only.
    cube = np.array([(0.6, 0.0)] * 4)
    post = np.array([NOWHERE, (3.0, 0.1), NOWHERE, NOWHERE])
    labels = labeller.label(sights_of(cube, post), base)
    assert not np.isnan(labels.reward).any()
    # Against the same with the post seen throughout.
    everywhere = np.array([(3.0, 0.0), (3.0, 0.1), (3.0, 0.2), (3.0, 0.3)])
    expected = labeller.label(sights_of(cube, everywhere), base)
    np.testing.assert_allclose(labels.reward, expected.reward, atol=1e-4)
    assert np.isnan(labeller.label(sights_of(cube, post), None).reward).all()


def test_layout_comes_from_the_options_of_the_labeller() -> None:
    config = LabellerConfig(
        "push_cube_markers",
        dictionary="5X5_250",
        options={"cube_ring": 6.0, "post_first_id": 200.0, "touch_m": 0.7},
    )
    layout = marker_layout(config)
    assert (layout.dictionary, layout.cube_ring, layout.cube_size_m) == ("5X5_250", 6, 0.3)
    assert marker_layout(None) == MarkerLayout()
