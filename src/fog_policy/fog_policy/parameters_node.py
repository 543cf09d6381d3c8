"""A lifecycle node whose parameters are described, and checked when it starts."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode

from fog_world_model.errors import FogError

_OF_EVERY_NODE = ("use_sim_time", "start_type_description_service")


class ParametersNode(LifecycleNode):
    """Declare parameters with :meth:`declare`, then call :meth:`refuse_unknown`.

    Args:
        name: Node name.
    """

    def __init__(self, name: str) -> None:
        # What is given becomes a parameter at once; so what nobody declares can be named: rclpy
        # would ignore a mistyped one without a word.
        super().__init__(name, automatically_declare_parameters_from_overrides=True)
        self._given = {n: p.value for n, p in self.get_parameters_by_prefix("").items()}
        self._known: list[str] = []

    def declare(
        self,
        name: str,
        default: Any,
        description: str,
        low: float | None = None,
        high: float | None = None,
    ) -> Any:
        """Declare a parameter that does not change while the node runs, and return its value.

        Args:
            name: Parameter name.
            default: Its type is the parameter's; a whole number is accepted for a float.
            description: One sentence, with the unit.
            low: Smallest value of a float.
            high: Largest value.

        Raises:
            FogError: What was given has another type or lies outside the range.
        """
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if low is not None and high is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        self._known.append(name)
        value = default
        if name in self._given:
            value = self._given.pop(name)
            self.undeclare_parameter(name)
            if isinstance(default, float) and type(value) is int:
                value = float(value)
            if type(value) is not type(default):
                raise FogError(
                    f"{self.get_name()}: parameter {name} must be of type "
                    f"{type(default).__name__}, not {value!r}"
                )
        try:
            self.declare_parameter(name, value, descriptor, ignore_override=True)
        except ParameterException as error:
            raise FogError(f"{self.get_name()}: parameter {name}: {error}") from error
        return value

    def refuse_unknown(self) -> None:
        """Call once every parameter is declared.

        Raises:
            FogError: A parameter was given that this node does not have.
        """
        unknown = [
            name
            for name in self._given
            if name not in _OF_EVERY_NODE and not name.startswith("qos_overrides.")
        ]
        if unknown:
            raise FogError(
                f"{self.get_name()}: unknown parameter {', '.join(sorted(unknown))}; known are "
                f"{', '.join(self._known)}, use_sim_time"
            )
