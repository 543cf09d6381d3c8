"""A node whose parameters are described, and checked when it starts."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from fog_world_model.errors import FogError

_OF_EVERY_NODE = ("use_sim_time", "start_type_description_service")


class ParametersNode(Node):
    """Declare parameters with :meth:`declare`, then call :meth:`check_parameters`.

    A lifecycle node inherits from this class first, from ``LifecycleNode`` second.

    Args:
        name: Node name.
    """

    def __init__(self, name: str) -> None:
        # What is given becomes a parameter at once; so what nobody declares can be named: rclpy
        # would ignore a mistyped one without a word.
        super().__init__(name, automatically_declare_parameters_from_overrides=True)
        self._given = {
            key: parameter.value
            for key, parameter in self.get_parameters_by_prefix("").items()
            if key not in _OF_EVERY_NODE and not key.startswith("qos_overrides.")
        }
        self._known: list[str] = []

    def declare(
        self,
        name: str,
        default: Any,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        choices: Sequence[str] = (),
        fixed: bool = True,
    ) -> Any:
        """Declare a parameter and return its value.

        Args:
            name: Parameter name.
            default: Its type is the parameter's type; a whole number is accepted for a float.
            description: One sentence, with the unit.
            low: Smallest value allowed.
            high: Largest value allowed.
            choices: The strings allowed; empty: any.
            fixed: Whether it cannot be changed while the node runs.

        Raises:
            FogError: The value given has another type or lies outside the range.
        """
        descriptor = ParameterDescriptor(description=description, read_only=fixed)
        if low is not None or high is not None:
            limits = (-math.inf if low is None else low, math.inf if high is None else high)
            if isinstance(default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(limits[0]), to_value=float(limits[1]))
                ]
            else:
                whole = [int(max(min(x, 2**62), -(2**62))) for x in limits]
                descriptor.integer_range = [IntegerRange(from_value=whole[0], to_value=whole[1])]
        if choices:
            descriptor.additional_constraints = f"one of {', '.join(choices)}"
        self._known.append(name)
        where = f"{self.get_name()}: parameter {name}"
        value = default
        if name in self._given:
            value = _as_type_of(default, self._given.pop(name), where)
            self.undeclare_parameter(name)
        if choices and value not in choices:
            raise FogError(f"{where} must be one of {', '.join(choices)}, not {value!r}")
        try:
            self.declare_parameter(name, value, descriptor, ignore_override=True)
        except ParameterException as error:
            raise FogError(f"{where}: {error}") from error
        return value

    def check_parameters(self) -> None:
        """Call once all parameters are declared.

        Raises:
            FogError: A parameter was given that this node does not have.
        """
        if self._given:
            raise FogError(
                f"{self.get_name()}: unknown parameter {', '.join(sorted(self._given))}; known "
                f"are {', '.join(self._known)}, use_sim_time"
            )


def _as_type_of(default: Any, value: Any, where: str) -> Any:
    """Take whole numbers for floats, and arrays for lists."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, list) and isinstance(value, (list, tuple, array.array)):
        return [_as_type_of(default[0], item, where) for item in value]
    if type(value) is type(default):
        return value
    raise FogError(f"{where} must be of type {type(default).__name__}, not {value!r}")
