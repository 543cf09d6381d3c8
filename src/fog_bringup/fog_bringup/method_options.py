"""Settings of the methods as a command line gives them: METHOD.SETTING=VALUE."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from fog_policy.fog_config import CRITIC_FIRST
from fog_policy.methods import METHODS, config_class, find_method, known_methods
from fog_world_model.errors import FogError

_COMMON = ("seed", "device", "threads")
"""Settings that are not a method's own."""
_START = "start_from"
_STARTS = ("bc",)
"""Methods whose policy another method may begin with: those that leave the local model as it is."""


def configuration(
    name: str,
    options: Sequence[str],
    *,
    seed: int,
    device: str = "auto",
    threads: int = 0,
    started: bool = False,
    given: Mapping[str, Any] | None = None,
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
        given: Settings, by field, that come from elsewhere; the options come first.

    Raises:
        FogError: The method, the field or the value is not known.
    """
    kind = config_class(name)
    fields = {f.name for f in dataclasses.fields(kind)}
    common = dict(zip(_COMMON, (seed, device, threads), strict=True))
    values = {**find_method(name).settings, **{k: v for k, v in common.items() if k in fields}}
    if started:
        values["critic_first"] = CRITIC_FIRST
    return kind(**{**values, **(given or {}), **settings(name, options)})


def settings(name: str, options: Sequence[str]) -> dict[str, Any]:
    """What options say of a method's configuration, by field.

    Args:
        name: Of the method.
        options: ``METHOD.FIELD=VALUE``; those of other methods are passed over.

    Raises:
        FogError: The method, the field or the value is not known.
    """
    kind = config_class(name)
    free = [f.name for f in dataclasses.fields(kind) if f.name not in _COMMON]
    hints, values = typing.get_type_hints(kind), {}
    for option in options:
        target, value = _split(option)
        owner, _, field = target.partition(".")
        if owner not in METHODS:
            raise FogError(f"--options {option}: no method {owner!r}; {known_methods()}")
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
