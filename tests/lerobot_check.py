"""Checks that the `lerobot` package reads what ``fog data export --format lerobot`` writes.

``make lerobot-check`` runs this. The package and all it brings along (a torch of its own) go into a
virtual environment beside the project's, .venv.lerobot, never into the project's. Part one, below
``main``, runs in the project's environment: it records the simulated robot, imports, exports, and
notes what every frame must be. Part two, ``compare``, runs in the other one, through `lerobot`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv.lerobot"
# The last release that supports each version of Python.
RELEASE = "lerobot[dataset]==0.6.1" if sys.version_info >= (3, 12) else "lerobot==0.4.4"
IMAGE = "observation.images.camera"


def main() -> int:
    """Make a data set and have it read by `lerobot`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("store", nargs="?", type=Path, help="episode store (default: a new one)")
    parser.add_argument(
        "--python", type=Path, help="Python that has lerobot (default: .venv.lerobot's)"
    )
    parser.add_argument("--compare", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        return compare(*options.compare)
    python = options.python or make_environment()
    with tempfile.TemporaryDirectory(prefix="fog_lerobot_") as folder:
        store = options.store or record(Path(folder))
        output, truth = Path(folder) / "set", Path(folder) / "truth.npz"
        fog("data", "export", store, "--output", output, "--format", "lerobot")
        np.savez(truth, **frames(store))
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(folder) / "hf")}
        command = [python, __file__, "--compare", output, truth]
        return subprocess.run(command, env=offline, check=False).returncode


def make_environment() -> Path:
    """Install `lerobot` where it harms nobody; the Python that has it."""
    python = VENV / "bin" / "python"
    if not (VENV / "complete").exists():
        print(f"installing {RELEASE} into {VENV}; this takes some minutes and gigabytes")
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", RELEASE], check=True)
        (VENV / "complete").touch()
    return python


def record(folder: Path) -> Path:
    """A short recording of the simulated robot, as an episode store."""
    fog("collect", folder / "bags", "--task", "reach_cube", "--steps", 400)
    fog("import", folder / "bags", "--task", "reach_cube", "--output", folder / "store")
    return folder / "store"


def fog(*arguments: object) -> None:
    """Run the ``fog`` command of the project's environment."""
    command = [sys.executable, "-m", "fog_bringup.cli", *map(str, arguments)]
    subprocess.run(command, check=True)


def frames(path: Path) -> dict[str, Any]:
    """What every frame of the data set must be, from the store itself."""
    from fog_world_model.data.episodes import EpisodeStore

    store = EpisodeStore(path)
    order = [*store.split("training"), *store.split("validation")]
    episodes = [store.episode(int(i)) for i in order]
    action = np.concatenate([e.action[:-1] for e in episodes])
    low, high = np.array(store.task.action.low), np.array(store.task.action.high)
    return {
        IMAGE: np.concatenate([e.image[:-1] for e in episodes]),
        "observation.state": np.concatenate([e.proprioception[:-1] for e in episodes]),
        "action": low + (action + 1) / 2 * (high - low),
        "next.reward": np.concatenate([e.reward[:-1] for e in episodes]),
        "next.done": np.concatenate([e.end[:-1] for e in episodes]),
        "stamp_ns": np.concatenate([e.stamp_ns[:-1] for e in episodes]),
        "episode_index": np.repeat(np.arange(len(order)), [len(e) - 1 for e in episodes]),
        "control_hz": np.array(store.task.control_hz),
    }


def compare(root: Path, truth: Path) -> int:
    """Read the data set with `lerobot`, every frame of it, and compare."""
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    expected = dict(np.load(truth, allow_pickle=False))
    rate = float(expected.pop("control_hz"))
    data = LeRobotDataset("fog/check", root=root)
    number = expected["episode_index"]
    assert (len(data), data.num_episodes) == (len(number), number.max() + 1)
    assert data.fps == rate
    first = np.searchsorted(number, number)
    for index in range(len(data)):
        frame = data[index]
        image = (frame[IMAGE].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        np.testing.assert_array_equal(image, expected[IMAGE][index], err_msg=f"frame {index}")
        for key in sorted({*expected} - {IMAGE}):
            np.testing.assert_allclose(
                frame[key].numpy(), expected[key][index], rtol=1e-6, atol=1e-6, err_msg=key
            )
        assert abs(float(frame["timestamp"]) - (index - first[index]) / rate) < 1e-4
    # As a policy is trained: chunks of actions and a history of images, shuffled.
    chunks = LeRobotDataset(
        "fog/check",
        root=root,
        delta_timestamps={"action": [0.0, 1 / rate], IMAGE: [-1 / rate, 0.0]},
    )
    batch = next(iter(torch.utils.data.DataLoader(chunks, batch_size=8, shuffle=True)))
    rows = batch["index"].numpy()
    inside = ~batch["action_is_pad"][:, 1].numpy()
    actions = expected["action"][(rows + 1)[inside]]
    np.testing.assert_allclose(batch["action"][:, 1].numpy()[inside], actions, atol=1e-6)
    mean = data.meta.stats["observation.state"]["mean"]
    np.testing.assert_allclose(mean, expected["observation.state"].mean(axis=0), atol=1e-4)
    from importlib.metadata import version

    print(
        f"lerobot {version('lerobot')}: {data.num_episodes} episodes, {len(data)} frames, all equal"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
