"""Films of closed-loop episodes: what is kept, what is drawn, and that they are small."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fog_bringup.closed_loop_film import LARGEST_FILM, film
from fog_bringup.closed_loop_takes import FilmCamera, Take
from fog_bringup.tasks import find_task
from fog_policy.observation_buffer import ObservationBuffer
from fog_world_model.data import messages
from fog_world_model.errors import FogError

TASK = find_task("push_cube")


def command_message(**linear: float) -> bytes:
    message = messages.make("geometry_msgs/msg/Twist")
    for name, value in linear.items():
        setattr(message.linear, name, value)
    return messages.serialise(message)


def test_pictures_are_those_that_the_policy_is_shown(image_message: Callable[..., bytes]) -> None:
    generator = np.random.default_rng(0)
    sent = {t: generator.integers(0, 256, (96, 128, 3), dtype=np.uint8) for t in (10, 20, 40)}
    camera, buffer = FilmCamera(TASK), ObservationBuffer(TASK)
    camera.receive(10, image_message(sent[10], "bgr8", 10))
    assert not camera.has(10), "nobody has asked for an episode"
    camera.start()
    for stamp, pixels in sent.items():
        camera.receive(stamp, image_message(pixels, "bgr8", stamp))
    camera.receive(50, image_message(sent[10], "bayer", 50))
    assert camera.has(40) and not camera.has(50)
    half = TASK.action.high[0] / 2
    take = camera.stop(
        [(5, None), (10, command_message(x=0.0)), (30, command_message(x=half)),
         (40, command_message(x=99.0)), (50, command_message(x=-99.0))]
    )  # fmt: skip
    assert take is not None and take.frames.shape == (5, 64, 64, 3)
    for frame, stamp in zip(take.frames, (10, 10, 10, 40, 40), strict=True):
        buffer.clear()
        buffer.receive(TASK.image.topic, image_message(sent[stamp], "bgr8", stamp), stamp)
        expected = buffer._image(buffer._frames[0])
        np.testing.assert_array_equal(frame, expected)
    assert np.isnan(take.commands[0]).all()
    np.testing.assert_allclose(take.commands[1:, 0], [0.0, 0.5, 1.0, -1.0], atol=1e-6)
    assert camera.stop([(10, None)]) is None, "an episode's pictures are its own"


def test_a_take_is_written_whole(tmp_path: Path) -> None:
    take = Take(np.zeros((2, 4, 5, 3), np.uint8), np.float32([[0.5], [np.nan]]))
    take.save(tmp_path / "films" / "7.npz")
    assert [p.name for p in (tmp_path / "films").iterdir()] == ["7.npz"]
    read = Take.load(tmp_path / "films" / "7.npz")
    np.testing.assert_array_equal(read.frames, take.frames)
    np.testing.assert_array_equal(read.commands, take.commands)
    for content in (b"", b"PK\x03\x04 no more", b"no archive"):
        (tmp_path / "films" / "7.npz").write_bytes(content)
        with pytest.raises(FogError, match=r"7.npz: not the pictures of an episode"):
            Take.load(tmp_path / "films" / "7.npz")


def decoded(data: bytes) -> tuple[list[npt.NDArray[np.uint8]], list[int]]:
    """Pictures, and how long each is shown, ms."""
    frames, durations = [], []
    with Image.open(io.BytesIO(data)) as opened:
        for k in range(opened.n_frames):  # type: ignore[attr-defined]
            opened.seek(k)
            frames.append(np.asarray(opened.convert("RGB")))
            durations.append(opened.info["duration"])
    return frames, durations


def episode(steps: int, **more: Any) -> dict[str, Any]:
    """From the middle of a floor of 4 m to the right, and then up."""
    path = [[min(0.1 * k, 1.5), max(0.0, 0.1 * k - 1.5), 0.0] for k in range(steps)]
    return {"base": path, "cube": [[-1.5, 1.5, 0.0]] * steps, "goal": [-1.5, -1.5, 0.0], **more}


def test_what_a_film_shows() -> None:
    steps = 20
    frames = np.zeros((steps, 64, 64, 3), np.uint8)
    frames[:, :32] = (200, 40, 40)
    frames[np.arange(steps), 50] = 255  # a line, so that no two pictures are the same
    frames[:, 40:] += np.arange(steps, dtype=np.uint8)[:, None, None, None] * 4
    commands = np.zeros((steps, 3), np.float32)
    commands[:, 0], commands[:, 1] = 1.0, np.linspace(-1.0, -0.5, steps)
    commands[0] = np.nan
    shown, durations = decoded(
        film(episode(steps), Take(frames, commands), 5.0, arena_m=4.0, success=True)
    )
    assert len(shown) == steps
    assert sum(durations) == pytest.approx(1000 * steps / 5.0 + 2000, abs=1)
    strip, gap = 2 + 3 * 7, 2
    assert shown[0].shape == (128 + strip, 2 * 128 + gap, 3)
    for picture in (shown[3], shown[-1]):
        np.testing.assert_allclose(picture[10:50, 10:118].mean((0, 1)), (200, 40, 40), atol=12)
        assert picture[70, 60].max() < 40, "twice as large, each pixel a square"
    # The first bar reaches to the right end, the second to the left, the third nowhere.
    bars = shown[-1][128:, :128].astype(int)
    lit = bars[:, :, 0] > 150
    rows = [lit[2 + 7 * k + 2] for k in range(3)]
    assert rows[0][70:126].all() and not rows[0][:60].any()
    assert rows[1][36:60].all() and not rows[1][:28].any() and not rows[1][68:].any()
    assert not rows[2][:60].any() and not rows[2][68:].any()
    assert not (shown[0][128:, :128, 0] > 150).any(), "no command has come yet"
    # Time runs to the right, green.
    times = [picture[128 + 4, 130 + 2 :].astype(int) for picture in shown]
    green = [(t[:, 1] - t[:, 0] > 60).sum() for t in times]
    assert green[0] < 12 and green[-1] > 118 and np.all(np.diff(green) >= -2)
    # The robot is dark: at the start in the middle, at the end to the right and above it.
    unit = 128 / (2.06 * 2.0)
    for k in (0, steps - 1):
        x, y, _ = episode(steps)["base"][k]
        column, row = 130 + round(64 + x * unit), round(64 - y * unit)
        around = shown[k][row - 2 : row + 3, column - 2 : column + 3].mean()
        assert around < 110, (k, around)
    assert shown[-1][62:67, 130 + 62 : 130 + 67].mean() > 110, "it has left the middle"
    cube = shown[-1][round(64 - 1.5 * unit), 130 + round(64 - 1.5 * unit)].astype(int)
    assert cube[0] > cube[2] + 60, "the cube is orange"

    lost, _ = decoded(film(episode(steps), Take(frames, commands), 5.0, success=False))
    unknown, _ = decoded(film(episode(steps, goal=None, cube=[]), Take(frames, commands), 5.0))
    red, grey = (f[-1][128 + 4, 200].astype(int) for f in (lost, unknown))
    assert red[0] > red[1] + 60 and np.ptp(grey) < 30


def test_films_are_small_whatever_they_show() -> None:
    """Noise, which does not compress, for as long as a push may take; and one picture alone."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (201, 64, 64, 3), dtype=np.uint8)
    data = film(episode(201), Take(frames, np.zeros((201, 3), np.float32)), 5.0, arena_m=4.0)
    assert len(data) <= LARGEST_FILM
    shown, durations = decoded(data)
    assert len(shown) >= 2 and sum(durations) == pytest.approx(40_000, rel=0.35)
    still = film(episode(1), Take(frames[:1], np.zeros((1, 3), np.float32)), 5.0)
    assert len(decoded(still)[0]) == 1
    flat = np.zeros((3, 24, 32, 3), np.uint8)
    (first, *_), _ = decoded(film(episode(3), Take(flat, np.zeros((3, 1), np.float32)), 5.0))
    assert first.shape == (24 * 6 + 9, 2 * 32 * 6 + 2, 3)
