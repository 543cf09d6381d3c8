"""The ways of learning a policy, and how each of them is made."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fog_policy.imagined_setup import load_contexts
from fog_policy.learner import Learner
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.training.train_world_models import load_local, load_worlds


@dataclass(frozen=True)
class Sources:
    """What every method is given, the same for all."""

    store: EpisodeStore
    """Contexts to start from, and recordings to keep the local model honest, or to imitate."""
    global_model: Path | None
    """Checkpoint; None: there is none, which some methods do without."""
    local_model: Path
    """Checkpoint, or that of a policy, which holds one."""

    @property
    def world(self) -> Path:
        """The checkpoint of the global model, where there has to be one.

        Raises:
            FogError: There is none.
        """
        if self.global_model is None:
            raise FogError("--global-model: not given, and this is learned in it")
        return self.global_model


@dataclass(frozen=True)
class Method:
    """One way of learning a policy."""

    title: str
    """In tables and charts."""
    words: str
    """What it is, in a sentence."""
    config: str
    """``module:class`` of its configuration, a dataclass with ``seed`` among its fields."""
    learner: str
    """``module:class`` of the learner."""
    build: Callable[[Any, Sources, Any], Learner]
    """Makes one, given the class, the sources and the configuration."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values of the configuration that make this method what it is."""
    needs_global: bool = True
    """Whether it does not do without a global model."""
    starts_from: bool = True
    """Whether it can begin with a policy that there is already."""


def _in_imagination(window: str, *, with_global: bool) -> Callable[[Any, Sources, Any], Learner]:
    """For learners that start from recorded contexts.

    Args:
        window: Attribute of the configuration: transitions in a window of the recordings, on which
            the local model is refreshed.
        with_global: Whether the learner is given the global model. Contexts are as long as that
            wants them either way, so that all start from the same ones.
    """

    def build(kind: Any, sources: Sources, config: Any) -> Learner:
        global_model: GlobalModel | None = None
        if sources.global_model is None:
            local_model, store = _local(sources)
        else:
            (global_model, _), (local_model, _), store = load_worlds(
                sources.global_model, sources.local_model, sources.store
            )
        contexts = load_contexts(store, global_model, config)
        length = getattr(config, window) + 1
        recordings = WindowSampler(store, length=length, seed=config.seed + 1)
        models = (global_model, local_model) if with_global else (local_model,)
        learner: Learner = kind(*models, contexts, recordings, config)
        return learner

    return build


def _on_recordings(kind: Any, sources: Sources, config: Any) -> Learner:
    """For learners that imagine nothing."""
    local_model, store = _local(sources)
    learner: Learner = kind(store, local_model, config)
    return learner


def _local(sources: Sources) -> tuple[LocalModel, EpisodeStore]:
    """The local model, and the store as it reads it."""
    local_model, checkpoint = load_local(sources.local_model, sources.store.task)
    return local_model, sources.store.normalised_as(checkpoint.normalisation)


METHODS: dict[str, Method] = {
    "fog": Method(
        "FoG",
        "decoupled first-order gradients: forward in the global model, backward in the local one",
        "fog_policy.fog_config:FogConfig",
        "fog_policy.fog_trainer:FogTrainer",
        _in_imagination("refresh_window", with_global=True),
    ),
    "ppo": Method(
        "PPO",
        "rsl_rl's PPO in the same imagined environments, with the same networks and features",
        "fog_policy.ppo_config:PpoConfig",
        "fog_policy.ppo_baseline:PpoLearner",
        _in_imagination("segment", with_global=True),
    ),
    "local": Method(
        "no diffusion",
        "the same first-order update in the local model alone",
        "fog_policy.fog_config:FogConfig",
        "fog_policy.local_alone:LocalAloneLearner",
        _in_imagination("refresh_window", with_global=False),
        {"local_share": 1.0, "refresh_steps": 0, "check_every": 0},
        needs_global=False,
    ),
    "bc": Method(
        "cloning",
        "behaviour cloning of the best recorded episodes, on the local model's features",
        "fog_policy.cloning_config:CloningConfig",
        "fog_policy.behaviour_cloning:BehaviourCloning",
        _on_recordings,
        needs_global=False,
        starts_from=False,
    ),
}
"""Name on the command line -> method."""


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        FogError: There is none.
    """
    if name not in METHODS:
        raise FogError(f"method {name!r}: {known_methods()}")
    return METHODS[name]


def known_methods() -> str:
    """Their names, for messages."""
    return f"known are {', '.join(METHODS)}"


def config_class(name: str) -> Any:
    """The class of a method's configuration.

    Raises:
        FogError: The method is not known, or something that it needs is not installed.
    """
    return _find(name, find_method(name).config)


def learner_class(name: str) -> Any:
    """The class of a method's learner.

    Raises:
        FogError: The method is not known, or something that it needs is not installed.
    """
    return _find(name, find_method(name).learner)


def require_methods(names: Sequence[str]) -> None:
    """Check names of methods before anything is done.

    Raises:
        FogError: One is not known, is given twice, or none is given.
    """
    if not names or len(set(names)) != len(names):
        raise FogError(f"--methods {','.join(names)}: give each method once; {known_methods()}")
    for name in names:
        config_class(name)
        learner_class(name)


def _find(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FogError(
            f"method {name!r} cannot be used here: {error}. Install what it needs (make setup), or "
            "leave it out of --methods"
        ) from error
