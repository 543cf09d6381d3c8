"""What the safety filter watches beside the observation: temperature, battery and position.

The control loop subscribes to :meth:`SafetyInputs.topics`, hands every message of theirs to
:meth:`SafetyInputs.receive`, and fills in a tick's situation with :meth:`SafetyInputs.situation`:

    situation = dataclasses.replace(situation, **inputs.situation(now_ns))

Messages are decoded by the same functions as those of a bag. No ROS here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fog_world_model.data.messages import deserialise, header_stamp_ns, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

ODOMETRY_TYPE = "nav_msgs/msg/Odometry"

_POSITION = ("pose.pose.position.x", "pose.pose.position.y")


@dataclass(frozen=True)
class _Watched:
    """Some numbers of one topic, and the names that they have in the situation."""

    topic: str
    type: str
    fields: tuple[str, ...]
    value_name: str
    age_name: str


class SafetyInputs:
    """Keeps the newest message of each topic that only the safety filter needs.

    Args:
        task: Names the topics; a rule without a topic watches nothing.

    Raises:
        FogError: One topic is named with two types.
    """

    def __init__(self, task: TaskConfig) -> None:
        safety = task.safety
        self._watched: list[_Watched] = []
        if (hot := safety.temperature) is not None:
            self._watch(hot.topic, hot.type, hot.fields, "temperature_c", "temperature_age_s")
        if (power := safety.battery) is not None:
            self._watch(power.topic, power.type, (power.field,), "battery_v", "battery_age_s")
        if (fence := safety.geofence) is not None:
            self._watch(fence.topic, ODOMETRY_TYPE, _POSITION, "position_m", "position_age_s")
        types = {stream.topic: stream.type for stream in task.streams()}
        for one in self._watched:
            if types.setdefault(one.topic, one.type) != one.type:
                raise FogError(
                    f"task '{task.name}': topic {one.topic} is named as {types[one.topic]} and, "
                    f"under safety, as {one.type}; a topic has one type"
                )
        self.clear()

    def _watch(
        self, topic: str, typename: str, fields: tuple[str, ...], value_name: str, age_name: str
    ) -> None:
        self._watched.append(_Watched(topic, typename, fields, value_name, age_name))

    def clear(self) -> None:
        """Forget every message."""
        self._newest: dict[str, tuple[int, list[float]]] = {}

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that :meth:`receive` wants."""
        return {one.topic: one.type for one in self._watched}

    def receive(self, topic: str, data: bytes, now_ns: int) -> None:
        """Take a message; of another topic than :meth:`topics` it is passed over.

        A message that cannot be read is not a sign of life: the value grows stale, and the filter
        says so.

        Args:
            topic: Where it came.
            data: The serialised message.
            now_ns: Time of arrival, by the clock that also stamps the messages.
        """
        for one in self._watched:
            if one.topic != topic:
                continue
            try:
                message = deserialise(data, one.type)
                values = read_fields(message, one.fields).tolist()
                # As in the importer, a stamp that a driver leaves at zero is none.
                time_ns = header_stamp_ns(message) or now_ns
            except FogError:
                continue
            self._newest[one.value_name] = (time_ns, values)

    def situation(self, now_ns: int) -> dict[str, Any]:
        """Fields of :class:`fog_policy.safety.Situation` that these topics fill in.

        Args:
            now_ns: By the same clock.

        Returns:
            Value and age of each watched rule; both None where nothing came.
        """
        fields: dict[str, Any] = {}
        for one in self._watched:
            found = self._newest.get(one.value_name)
            value: list[float] | float | None = None if found is None else found[1]
            if isinstance(value, list) and one.value_name == "battery_v":
                value = value[0]
            fields[one.value_name] = value
            fields[one.age_name] = None if found is None else (now_ns - found[0]) / 1e9
        return fields
