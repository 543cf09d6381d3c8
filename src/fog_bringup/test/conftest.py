"""A store of made-up episodes that differ in every array, and images as messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fog_bringup.cli import main
from fog_world_model.data import messages
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.task import task_from_dict

LENGTHS = (9, 12, 7, 15, 11)
OUTCOMES = ("success", "failure", "", "success", "")
CONTENT: dict[str, Any] = {
    "name": "made_up",
    "description": "The robot <does> nothing in particular.",
    "control_hz": 5.0,
    "image": {
        "topic": "/camera/image_raw",
        "camera_info_topic": "/camera/camera_info",
        "height": 24,
        "width": 32,
    },
    "proprioception": [
        {"topic": "/imu", "type": "sensor_msgs/msg/Imu", "fields": ["angular_velocity.z"]},
        {
            "topic": "/odom",
            "type": "nav_msgs/msg/Odometry",
            "fields": ["twist.twist.linear.x", "pose.pose.position.y"],
        },
    ],
    "action": {
        "topic": "/cmd_vel",
        "type": "geometry_msgs/msg/Twist",
        "fields": ["linear.x", "angular.z"],
        "low": [-1.0, 0.0],
        "high": [1.0, 4.0],
    },
    "reward": {"topic": "/reward", "type": "std_msgs/msg/Float32", "fields": ["data"]},
    "episode": {"max_steps": 30},
    "safety": {"slew_per_s": [8.0, 12.0]},
}


def make_episode(number: int, length: int) -> Episode:
    """Smooth pictures that move, and random values; its stamps are not quite even."""
    generator = np.random.default_rng(number)
    steps = np.arange(length)
    y, x = np.mgrid[:24, :32]
    phase = x[None] + 2 * steps[:, None, None]
    image = np.stack([4 * phase, 6 * y[None] + 0 * phase, 0 * phase + 40 * number], axis=-1)
    action = generator.uniform(-1, 1, (length, 2)).astype(np.float32)
    action[-1] = 0.0
    reward = generator.uniform(size=length).astype(np.float32)
    reward[-1] = 0.0
    return Episode(
        image=image.astype(np.uint8),
        proprioception=generator.normal(size=(length, 3)).astype(np.float32),
        action=action,
        reward=reward,
        end=steps == length - 2,
        stamp_ns=10**12 * number + 200_000_000 * steps + generator.integers(0, 10**7, length),
    )


def make_store(path: Path, lengths: Sequence[int] = LENGTHS, **report: Any) -> EpisodeStore:
    """A store with at least one held-out episode."""
    with EpisodeWriter(path, task_from_dict(CONTENT)) as writer:
        for number, length in enumerate(lengths):
            outcome = OUTCOMES[number % len(OUTCOMES)]
            source = f"bag<{number}>#0"
            writer.append(make_episode(number, length), source=source, outcome=outcome)
        return writer.finish(validation_fraction=0.3, report=report)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Five episodes; do not change it."""
    return make_store(tmp_path_factory.mktemp("store") / "made_up")


@pytest.fixture(scope="session")
def store_of() -> Callable[..., EpisodeStore]:
    """Make a store: path, lengths of the episodes, entries of the report."""
    return make_store


def _image_message(pixels: npt.ArrayLike, encoding: str = "rgb8", stamp_ns: int = 0) -> bytes:
    array = np.asarray(pixels, np.uint8)
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Image",
            header=messages.header(stamp_ns, "camera"),
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            step=array[0].size,
            data=array.reshape(-1),
        )
    )


@pytest.fixture(scope="session")
def image_message() -> Callable[..., bytes]:
    """Serialise an Image: pixels ``[height, width, ...]``, encoding, stamp."""
    return _image_message


@pytest.fixture(scope="session")
def long_store(
    store_of: Callable[..., EpisodeStore], tmp_path_factory: pytest.TempPathFactory
) -> EpisodeStore:
    """Episodes that are long enough for the windows that models are trained on."""
    return store_of(tmp_path_factory.mktemp("long") / "store", lengths=[40] * 5)


@pytest.fixture(scope="session")
def models(long_store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """World models that have seen one batch, as options."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("global", "local"):
        few = ["--preset", "tiny", "--batch-size", "2", "--device", "cpu", "--max-steps", "1"]
        assert main(["train", kind, str(long_store.path), str(folder / kind), *few]) == 0
    return ["--global-model", str(folder / "global"), "--local-model", str(folder / "local"),
            "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="session")
def cloned(
    long_store: EpisodeStore, models: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a cloned policy; its bundle lies beside it."""
    path = tmp_path_factory.mktemp("cloned") / "policy"
    few = ["--method", "bc", "--options", "bc.share=1", "bc.rank=final", "--max-updates", "2"]
    assert main(["train", "policy", str(long_store.path), str(path), *models, *few]) == 0
    return path
