"""Who is measured in closed loop, and on what: contenders, variations, start states."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fog_bringup.closed_loop_takes import FILMED
from fog_bringup.zero_shot import FIRST_SEED
from fog_policy.bundle import load_bundle
from fog_policy.shipped_policies import find_bundle
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

NOMINAL = "nominal"
EPISODES = 50
Kind = Literal["bundle", "driver", "operator", "random", "standing"]
_WORDS = {
    "driver": "scripted driver, sees the ground truth",
    "operator": "operator, knows what the camera has shown",
    "random": "random commands",
    "standing": "standing still",
}


@dataclass(frozen=True)
class Contender:
    """Who drives."""

    name: str
    kind: Kind
    bundle: Path | None = None

    @property
    def over_ros(self) -> bool:
        """Whether it drives over ROS topics, in nodes of its own."""
        return self.kind in ("bundle", "driver")

    @property
    def title(self) -> str:
        """For people."""
        return _WORDS.get(self.kind, self.name)

    @property
    def hash(self) -> str | None:
        """Of the bundle's manifest, which has the hash of the weights; None without a bundle."""
        if self.bundle is None:
            return None
        return hashlib.sha256((self.bundle / "manifest.json").read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    episodes: int = EPISODES
    first_seed: int = FIRST_SEED
    speed: float = 4.0
    """Robot seconds per second; 0: as fast as possible."""
    limit_s: float = 0.0
    """Longest episode, s; 0: see :func:`fog_bringup.success.limit_steps`."""
    vary: tuple[str, ...] = ()
    driver: bool = False
    """Whether the scripted driver is measured too."""
    films: int = FILMED
    """Of so many episodes pictures are kept for a film: the first ones without variation of who
    drives over ROS topics. 0: of none."""

    @property
    def seeds(self) -> range:
        """One episode starts from each."""
        return range(self.first_seed, self.first_seed + self.episodes)


@dataclass(frozen=True)
class Row:
    """One contender under one variation, or under none."""

    contender: Contender
    variation: str

    @property
    def vary(self) -> tuple[str, ...]:
        """What differs from episode to episode."""
        return () if self.variation == NOMINAL else (self.variation,)

    @property
    def key(self) -> str:
        """``name``, or ``name.variation``."""
        tail = "" if self.variation == NOMINAL else f".{self.variation}"
        return f"{self.contender.name}{tail}"


def contenders_of(
    bundles: Sequence[Path],
    task: TaskConfig | None = None,
    *,
    driver: bool,
    operator: bool = False,
) -> tuple[TaskConfig, list[Contender]]:
    """Open bundles, and put beside them what they are measured against.

    Args:
        bundles: Folders, or names of shipped policies; each is called by its folder's name without
            ``.bundle``, after its parent's where two are called the same.
        task: What they have to be for; None: the task of the first.
        driver: Whether the scripted driver is one of them.
        operator: Whether the scripted driver is one that knows what the camera has shown.

    Returns:
        Their task, and the contenders: bundles, driver, operator, random, standing.

    Raises:
        FogError: A bundle cannot be opened, two are of different tasks, names are taken, or there
            is neither a bundle nor a task.
    """
    bundles = [find_bundle(bundle) for bundle in bundles]
    for bundle in bundles:
        task = load_bundle(bundle, task).task
    if task is None:
        raise FogError(
            "evaluate policy: give at least one bundle, or with --task the task that driver, "
            "operator, random commands and standing are to be measured on"
        )
    names = [_stem(bundle) for bundle in bundles]
    if len(set(names)) < len(names):
        names = [f"{bundle.absolute().parent.name}-{_stem(bundle)}" for bundle in bundles]
    others: list[Kind] = ["random", "standing"]
    if operator:
        others.insert(0, "operator")
    if driver:
        others.insert(0, "driver")
    if doubled := sorted({n for n in names if names.count(n) > 1 or n in others}):
        raise FogError(
            f"bundle names {', '.join(doubled)}: taken twice; rename the folders, which are the "
            "names in the report"
        )
    found = [Contender(n, "bundle", b) for n, b in zip(names, bundles, strict=True)]
    return task, [*found, *(Contender(kind, kind) for kind in others)]


def _stem(bundle: Path) -> str:
    return bundle.absolute().name.removesuffix(".bundle")
