"""Whether a bundle fits its task and what comes on the robot's topics. No ROS here.

Each function returns what does not fit, one sentence for each misfit: a person who connects a robot
wants to see all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fog_policy.observation_buffer import ORIENTATION
from fog_world_model.data.images import check_layout, decode_image
from fog_world_model.data.messages import deserialise, header_stamp_ns, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

TOO_SLOW = 1.5
"""A stream whose messages come further apart than so many control periods is too slow."""
_FOR_A_RATE = 4
"""Stamps needed to speak of a rate."""


def sizes_misfit(task: TaskConfig, sizes: Mapping[str, Any]) -> list[str]:
    """Compare the sizes of the networks with those of the task.

    Args:
        task: The bundle's task.
        sizes: The ``local_config`` of its manifest.
    """
    return [
        f"its networks have {name} {sizes.get(name)}, but its task '{task.name}' has {value}"
        for name, value in task.sizes.items()
        if sizes.get(name) != value
    ]


def messages_misfit(task: TaskConfig, samples: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Look at messages from the robot: layout of images, names of joints, rates.

    Args:
        task: The bundle's task.
        samples: Topic -> some consecutive serialised messages; topics without any are passed over.
    """
    problems = []
    streams = {s.topic: (s.type, s.fields) for s in task.proprioception}
    if task.safety.tilt_topic:
        streams.setdefault(task.safety.tilt_topic, ("sensor_msgs/msg/Imu", ORIENTATION))
    for topic, messages in samples.items():
        if not messages:
            continue
        try:
            if topic == task.image.topic:
                decoded = [deserialise(data, "sensor_msgs/msg/Image") for data in messages]
                check_layout(decoded[-1])
                decode_image(decoded[-1])
            elif topic in streams:
                kind, fields = streams[topic]
                decoded = [deserialise(data, kind) for data in messages]
                read_fields(decoded[-1], fields)
            else:
                continue
        except FogError as error:
            problems.append(f"{topic}: {error}")
            continue
        problems += _rate_misfit(task, topic, [header_stamp_ns(m) for m in decoded])
    return problems


def _rate_misfit(task: TaskConfig, topic: str, stamps_ns: Sequence[int | None]) -> list[str]:
    """By stamps, so that a simulation may run at any speed; without stamps nothing is said."""
    known = sorted({stamp for stamp in stamps_ns if stamp})
    if len(known) < _FOR_A_RATE:
        return []
    interval_s = float(np.median(np.diff(known))) / 1e9
    if interval_s <= TOO_SLOW / task.control_hz:
        return []
    sentence = (
        f"{topic} comes at {1 / interval_s:.3g} Hz, but task '{task.name}' decides at "
        f"{task.control_hz:g} Hz and needs a new message for every decision"
    )
    return [sentence]
