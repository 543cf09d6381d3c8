"""What differs between training and evaluation: conditions drawn anew for every episode.

They are drawn from the episode's seed, so that every policy meets the same ones, and never change
where an episode starts. Nothing here knows how a robot realises them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fog_world_model.errors import FogError

Conditions = Mapping[str, float]
"""Name of a condition -> its value in an episode; see :data:`VARIATIONS`."""


@dataclass(frozen=True)
class Variation:
    """One way in which evaluation differs from training."""

    title: str
    words: str
    """What is drawn, in words."""
    part: Literal["scene", "stream"]
    """Who realises it: the simulated robot, or the loop that publishes what it sees."""


VARIATIONS = {
    "mass": Variation("cube mass", "mass of the cube times 0.5 to 2, log-uniform", "scene"),
    "friction": Variation(
        "cube friction",
        "sliding friction between cube and floor times 0.5 to 2, log-uniform",
        "scene",
    ),
    "light": Variation(
        "light",
        "the lamp from any side, 30 to 75 degrees high; all light times 0.6 to 1.4, uniform",
        "scene",
    ),
    "pitch": Variation("camera pitch", "camera pitch 5 degrees up or down, by a coin", "scene"),
    "latency": Variation(
        "image latency", "every image arrives 50 ms of robot time after its stamp", "stream"
    ),
    "lost-frames": Variation(
        "lost frames", "every image is lost with a probability of 5 %", "stream"
    ),
}
"""Name -> variation, in the order of reports."""
SCENE, STREAM = (
    tuple(name for name, v in VARIATIONS.items() if v.part == part) for part in ("scene", "stream")
)
IMAGE_DELAY_S, IMAGE_LOSS = 0.05, 0.05
_PITCH_DEG = 5.0


def draw_conditions(names: Iterable[str], seed: int) -> Conditions:
    """The conditions of one episode.

    Args:
        names: Of variations; each draws from a generator of its own, so that an episode's mass,
            say, does not depend on what else is varied.
        seed: Of the episode.

    Returns:
        For ``mass``: ``cube_mass_factor``; ``friction``: ``cube_friction_factor``; ``light``:
        ``light_azimuth_deg`` (where the lamp stands, from +x anticlockwise), ``light_height_deg``
        (above the horizon) and ``light_factor``; ``pitch``: ``camera_pitch_change_deg`` (positive:
        it looks further down); ``latency``: ``image_delay_s``; ``lost-frames``: ``image_loss``, a
        probability.
    """
    found: dict[str, float] = {}
    for name in names:
        random = generator(name, seed)
        if name == "mass":
            found["cube_mass_factor"] = float(2.0 ** random.uniform(-1.0, 1.0))
        elif name == "friction":
            found["cube_friction_factor"] = float(2.0 ** random.uniform(-1.0, 1.0))
        elif name == "light":
            found["light_azimuth_deg"] = float(random.uniform(-180.0, 180.0))
            found["light_height_deg"] = float(random.uniform(30.0, 75.0))
            found["light_factor"] = float(random.uniform(0.6, 1.4))
        elif name == "pitch":
            found["camera_pitch_change_deg"] = _PITCH_DEG * float(random.choice((-1.0, 1.0)))
        elif name == "latency":
            found["image_delay_s"] = IMAGE_DELAY_S
        elif name == "lost-frames":
            found["image_loss"] = IMAGE_LOSS
        else:
            raise ValueError(f"no variation {name!r}")
    return found


def generator(name: str, seed: int) -> np.random.Generator:
    """Random numbers of one variation in one episode."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def parse_variations(text: str, source: str) -> tuple[str, ...]:
    """Read names separated by commas; ``all`` stands for every one, nothing for none.

    Args:
        text: What the user wrote.
        source: Option or parameter, for the message.

    Raises:
        FogError: There is no such variation.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return tuple(VARIATIONS)
    if unknown := [name for name in names if name not in VARIATIONS]:
        raise FogError(
            f"{source} {text}: no variation {', '.join(unknown)}; there are "
            f"{', '.join(VARIATIONS)}, or all"
        )
    return tuple(name for name in VARIATIONS if name in names)
