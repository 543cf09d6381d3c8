"""The learned world that is played: what was recorded, what is imagined, and what was done so far.

A :class:`PlayedWorld` is used by one thread, that of :mod:`.worker`, which owns the device.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from fog_bringup.play.program_env import ProgramEnv
from fog_world_model.data.episodes import Episode, EpisodeStore
from fog_world_model.data.image_sources import ImagesOnDisk
from fog_world_model.data.windows import Windows, WindowSampler, to_float_image, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.global_model.worlds import worlds
from fog_world_model.task import FloatArray

Image = npt.NDArray[np.uint8]
"""``[height, width, channel]`` RGB."""

MOST_STEPS = 6_000
"""Steps that are remembered for the video (20 minutes at 5 Hz); later ones are only played."""


@dataclass(frozen=True)
class EpisodeChoice:
    """An episode that a world can be started from."""

    index: int
    """In the store."""
    rows: int
    held_out: bool
    """Whether the model has never seen it."""
    outcome: str
    source: str


@dataclass(frozen=True)
class PlayedContext:
    """What a world was started from."""

    episode: int
    row: int
    """Of the episode: the first observation of the context."""
    seed: int
    """Of the imagination."""
    images: Image
    """``[time, height, width, channel]``: recorded, the newest last."""
    recorded_steps: int
    """How many more transitions the recording has."""


@dataclass(frozen=True)
class PlayedStep:
    """One imagined step."""

    step: int
    """Counted from 1."""
    image: Image
    action: FloatArray
    """``[field]`` in [-1, 1]."""
    reward: float
    end: bool
    """Drawn from ``end_probability``, as :class:`.ImaginedEnv` does."""
    end_probability: float
    seconds: float
    """What the device took, the copy back included."""
    recorded_image: Image | None = None
    """What the camera saw then, when the recorded actions are replayed."""
    recorded_reward: float | None = None
    recorded_end: bool = False
    psnr_db: float | None = None
    """Likeness of the two images."""


@dataclass
class _Play:
    """One world from its start on."""

    context: PlayedContext
    episode: Episode
    generator: torch.Generator
    steps: list[PlayedStep] = field(default_factory=list)
    count: int = 0


class PlayedWorld:
    """A global model that is stepped one action at a time, beside the recording it started from."""

    def __init__(
        self, model: GlobalModel, store: EpisodeStore, device: torch.device | str = "cpu"
    ) -> None:
        """Take a model and the recordings that its worlds start from.

        Args:
            model: The world; it is moved to the device.
            store: Normalised as the model was trained.
            device: Where to imagine.

        Raises:
            FogError: No episode is longer than the model's context.
        """
        self.model, self.store, self.device = model.to(device).eval(), store, torch.device(device)
        self.choices = [
            EpisodeChoice(i, e.length, e.held_out, e.outcome, e.source)
            for i, e in enumerate(store.episodes)
            if e.length > model.context_frames
        ]
        if not self.choices:
            longest = max((e.length for e in store.episodes), default=0)
            raise FogError(
                f"episode store {store.path}: no episode is longer than the {model.context_frames} "
                f"observations that this world starts from (the longest has {longest}); choose "
                "another --store"
            )
        self._play: _Play | None = None
        self._worlds = worlds(self.model)
        self._images: ImagesOnDisk | None = None

    def first_choice(self) -> EpisodeChoice:
        """An episode to begin with: held out from training if there is one."""
        return next((c for c in self.choices if c.held_out), self.choices[0])

    def start(self, episode: int, row: int = 0, seed: int = 0) -> PlayedContext:
        """Start a world from an episode.

        Args:
            episode: Index in the store.
            row: First observation of the context.
            seed: Of the imagination.

        Raises:
            ValueError: There is no such episode, or the context would leave it.
        """
        choice = next((c for c in self.choices if c.index == episode), None)
        length = self.model.context_frames
        if choice is None:
            raise ValueError(f"there is no episode {episode} to start from")
        if not 0 <= row <= choice.rows - length:
            raise ValueError(f"episode {episode} can be started from 0 to {choice.rows - length}")
        recorded = self.store.episode(episode)
        context = PlayedContext(
            episode,
            row,
            seed,
            recorded.image[row : row + length],
            choice.rows - row - length,
        )
        self._worlds.put(self.model.start(self._window(recorded, row, length)))
        generator = torch.Generator(device=self.device).manual_seed(seed)
        self._play = _Play(context, recorded, generator)
        return context

    def again(self) -> PlayedContext:
        """Start the same world from its first step, with the same seed."""
        context = self._playing.context
        return self.start(context.episode, context.row, context.seed)

    @torch.no_grad()
    def step(self, action: FloatArray) -> PlayedStep:
        """Imagine one step.

        Args:
            action: ``[field]`` in [-1, 1].
        """
        begun = time.perf_counter()
        play = self._playing
        given = torch.from_numpy(np.asarray(action, np.float32))[None].to(self.device)
        outcome = self._worlds.step(given, play.generator)
        draw = torch.rand(1, generator=play.generator, device=self.device)
        play.count += 1
        image = to_uint8_image(self._worlds.last[0][0])
        imagined = PlayedStep(
            step=play.count,
            image=image,
            action=np.asarray(action, np.float32),
            reward=float(outcome.reward[0]),
            end=bool(draw[0] < outcome.end_probability[0]),
            end_probability=float(outcome.end_probability[0]),
            seconds=time.perf_counter() - begun,
        )
        return self._remember(imagined)

    def replay_step(self) -> PlayedStep | None:
        """Imagine one step with the action that was recorded then.

        Only steps that were all replayed can be compared with the recording.

        Returns:
            The step beside the recording; None where the recording ends.
        """
        play = self._playing
        if play.count >= play.context.recorded_steps:
            return None
        row = play.context.row + self.model.context_frames - 1 + play.count
        imagined = self.step(play.episode.action[row])
        recorded = play.episode.image[row + 1]
        error = float(np.mean((imagined.image.astype(np.float64) - recorded) ** 2))
        beside = PlayedStep(
            **{
                **vars(imagined),
                "recorded_image": recorded,
                "recorded_reward": float(play.episode.reward[row]),
                "recorded_end": bool(play.episode.end[row]),
                "psnr_db": 10.0 * float(np.log10(255.0**2 / max(error, 255.0**2 * 1e-10))),
            }
        )
        if play.steps and play.steps[-1].step == beside.step:
            play.steps[-1] = beside
        return beside

    def film(self) -> tuple[PlayedContext, list[PlayedStep]]:
        """What was done since the start, for a video."""
        return self._playing.context, list(self._playing.steps)

    def environment(self, *, split: str, max_steps: int) -> ProgramEnv:
        """An environment for a program.

        Args:
            split: Of the episodes that contexts are drawn from: ``training`` or ``validation``.
            max_steps: Steps after which a world is cut.

        Raises:
            FogError: The split has no episode that is long enough.
        """
        if self._images is None:
            # A program needs one context at a time, not a whole split in memory.
            self._images = ImagesOnDisk(self.store, workers=1)
        length = self.model.context_frames
        sampler = WindowSampler(self.store, length=length, split=split, images=self._images)
        return ProgramEnv(self.model, self.store, sampler, max_steps, self.device)

    def step_seconds(self, steps: int = 5) -> float:
        """Median time of a step, s, after one to warm up; the world is started for it."""
        choice = self.first_choice()
        self.start(choice.index)
        rest = np.zeros(self.store.task.action_size, np.float32)
        times = [self.step(rest).seconds for _ in range(steps + 1)]
        self._play = None
        return float(np.median(times[1:]))

    @property
    def _playing(self) -> _Play:
        if self._play is None:
            raise RuntimeError("PlayedWorld was used before PlayedWorld.start")
        return self._play

    def _remember(self, step: PlayedStep) -> PlayedStep:
        if len(self._playing.steps) < MOST_STEPS:
            self._playing.steps.append(step)
        return step

    def _window(self, episode: Episode, row: int, length: int) -> Windows:
        rows = slice(row, row + length)

        def batch(values: npt.ArrayLike) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.float32))[None].to(self.device)

        return Windows(
            image=to_float_image(torch.from_numpy(episode.image[rows]))[None].to(self.device),
            proprioception=batch(self.store.normalisation.apply(episode.proprioception[rows])),
            action=batch(episode.action[rows]),
            reward=batch(episode.reward[rows]),
            end=batch(episode.end[rows]),
        )
