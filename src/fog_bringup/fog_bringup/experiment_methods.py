"""The ways of learning a policy that an experiment compares, and how each of them is made."""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fog_policy.fog_config import CRITIC_FIRST
from fog_policy.learner import Learner
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.training.checkpoint import open_checkpoint

_COMMON = ("seed", "device", "threads")
"""Settings that are not a method's own."""
_START = "start_from"
_STARTS = ("bc",)
"""Methods whose policy another method may begin with: those that leave the local model as it is."""


@dataclass(frozen=True)
class Sources:
    """What every method is given, the same for all."""

    store: EpisodeStore
    global_model: Path
    """Checkpoint."""
    local_model: Path
    """Checkpoint."""


Made = tuple[Learner, dict[str, Any]]
"""A learner, and what its checkpoints say about themselves."""


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
        from fog_policy.imagined_setup import load_contexts
        from fog_world_model.data.windows import WindowSampler
        from fog_world_model.training.train_world_models import load_worlds

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
    from fog_world_model.training.train_world_models import load_local

    local_model, checkpoint = load_local(sources.local_model, sources.store.task)
    store = sources.store.normalised_as(checkpoint.normalisation)
    learner: Learner = kind(store, local_model, config)
    return learner


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
    ),
    "bc": Method(
        "cloning",
        "behaviour cloning of the best recorded episodes, on the local model's features",
        "fog_policy.cloning_config:CloningConfig",
        "fog_policy.behaviour_cloning:BehaviourCloning",
        _on_recordings,
        starts_from=False,
    ),
}
"""Name on the command line -> method."""


def configuration(
    name: str,
    options: Sequence[str],
    *,
    seed: int,
    device: str = "auto",
    threads: int = 0,
    started: bool = False,
) -> Any:
    """The configuration of a method.

    Args:
        name: Of the method.
        options: ``METHOD.FIELD=VALUE``; those of other methods are passed over.
        seed: Of weights, contexts and noise.
        device: Where it learns.
        threads: CPU threads; 0: torch's own choice.
        started: Whether it begins with a policy that there is already; the critic, which does not,
            is then given a lead.

    Raises:
        FogError: The method, the field or the value is not known.
    """
    method = _method(name)
    kind = _find(name, method.config)
    fields = {f.name for f in dataclasses.fields(kind)}
    common = dict(zip(_COMMON, (seed, device, threads), strict=True))
    values = {**method.settings, **{k: v for k, v in common.items() if k in fields}}
    if started:
        values["critic_first"] = CRITIC_FIRST
    return kind(**values | settings(name, options))


def settings(name: str, options: Sequence[str]) -> dict[str, Any]:
    """What options say of a method's configuration, by field.

    Args:
        name: Of the method.
        options: ``METHOD.FIELD=VALUE``; those of other methods are passed over.

    Raises:
        FogError: The method, the field or the value is not known.
    """
    kind = _find(name, _method(name).config)
    free = [f.name for f in dataclasses.fields(kind) if f.name not in _COMMON]
    hints, values = typing.get_type_hints(kind), {}
    for option in options:
        target, value = _split(option)
        owner, _, field = target.partition(".")
        if owner not in METHODS:
            raise FogError(f"--options {option}: no method {owner!r}; {_known()}")
        if owner != name:
            continue
        if field not in free:
            raise FogError(
                f"--options {option}: {owner} has no setting {field!r}; known are {', '.join(free)}"
            )
        values[field] = _read(option, value, hints[field])
    return values


def starts(options: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which methods are to begin with another's policy (``METHOD.start_from=bc``).

    Args:
        options: ``METHOD.FIELD=VALUE``.

    Returns:
        Method -> method of the policy that it begins with, and the other options.

    Raises:
        FogError: A method cannot begin so, or not with that one.
    """
    found, others = {}, []
    for option in options:
        target, value = _split(option)
        name, _, field = target.partition(".")
        if field != _START or name not in METHODS:
            others.append(option)
            continue
        if not METHODS[name].starts_from:
            able = ", ".join(k for k, method in METHODS.items() if method.starts_from)
            raise FogError(f"--options {option}: {name} begins anew; {able} can begin so")
        if value not in _STARTS:
            raise FogError(
                f"--options {option}: expected {' or '.join(_STARTS)}; the others refresh the "
                "local model that their policy goes with"
            )
        found[name] = value
    return found, others


def make_learner(name: str, sources: Sources, config: Any, start_from: Path | None = None) -> Made:
    """A learner that has learned nothing yet, and the manifest of its checkpoints.

    Args:
        name: Of the method.
        sources: What it is given.
        config: Its configuration.
        start_from: Bundle or checkpoint of the policy that it begins with; None: random weights.

    Raises:
        FogError: The method is not known, or its sources do not fit.
    """
    from fog_policy.policy_manifest import policy_manifest
    from fog_policy.warm_start import open_start
    from fog_world_model.training.train_world_models import open_local

    method, store = _method(name), sources.store
    start = None if start_from is None else open_start(start_from, store.task)
    learner: Any = method.build(_find(name, method.learner), sources, config)
    world = open_checkpoint(sources.global_model, "global", store.task)
    local = open_local(sources.local_model, store.task)
    if start is not None:
        start.require_local(learner.local_model, local.normalisation, sources.local_model)
        start.place(learner)
    return learner, policy_manifest(name, store, config, world, local, start)


def require_methods(names: Sequence[str]) -> None:
    """Check names of methods before anything is done.

    Raises:
        FogError: One is not known, is given twice, or none is given.
    """
    if not names or len(set(names)) != len(names):
        raise FogError(f"--methods {','.join(names)}: give each method once; {_known()}")
    for name in names:
        method = _method(name)
        _find(name, method.config)
        _find(name, method.learner)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise FogError(f"method {name!r}: {_known()}")
    return METHODS[name]


def _known() -> str:
    return f"known are {', '.join(METHODS)}"


def _find(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FogError(
            f"method {name!r} cannot be used here: {error}. Install what it needs (make setup), or "
            "leave it out of --methods"
        ) from error


def _split(option: str) -> tuple[str, str]:
    target, equals, value = option.partition("=")
    if not equals or "." not in target:
        raise FogError(f"--options {option}: expected METHOD.SETTING=VALUE, as fog.horizon=32")
    return target.strip(), value.strip()


def _read(option: str, text: str, kind: Any) -> Any:
    """A value of the type that a setting has."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if text.lower() == "none":
            return None
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    try:
        if choices:
            return {str(c): c for c in choices}[text]
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, TypeError, ValueError) as error:
        wanted = ", ".join(map(str, choices)) or getattr(kind, "__name__", str(kind))
        raise FogError(f"--options {option}: {text!r} is no value for it; expected {wanted}") from (
            error
        )
