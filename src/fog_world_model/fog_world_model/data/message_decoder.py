"""Second pass over a bag: each message that is used, decoded as far as an episode needs it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_topics import BagTopics
from fog_world_model.data.compressed_images import (
    DamagedPicture,
    decode_compressed,
    shrink_compressed,
)
from fog_world_model.data.images import decode_image, resize, shrink
from fog_world_model.data.labellers import CameraModel, make_labeller
from fog_world_model.data.message_head import Buffer, compressed_image, raw_image
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.task import TaskConfig


class MessageDecoder:
    """Decodes messages; called from several threads at once."""

    def __init__(self, bag: BagReader, topics: BagTopics, task: TaskConfig) -> None:
        """Prepare, and read the camera's calibration if the task's labeller may want it."""
        self._topics, self._task = topics, task
        self.camera = _camera_model(bag, topics.camera_info) if task.labeller else None
        """What the labeller is told of the camera."""
        self._joint_orders: dict[str, set[tuple[str, ...]]] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def __call__(self, topic: str, data: Buffer) -> Any:
        """Decode one message.

        Args:
            topic: Its topic.
            data: CDR bytes, not to be kept.

        Returns:
            ``[field]`` float32 of a numeric topic; of the image topic the image at the task's size
            and what the labeller saw in it (None without a labeller), or None when it is damaged.

        Raises:
            FogError: It does not decode, or has no such field.
        """
        if topic == self._topics.image:
            return self._image(data)
        config = self._topics.streams[topic]
        message = deserialise(bytes(data), config.type)
        if config.type == "sensor_msgs/msg/JointState":
            with self._lock:
                self._joint_orders.setdefault(topic, set()).add(tuple(message.name))
        return read_fields(message, config.fields)

    def _image(self, data: Buffer) -> Any:
        height, width = self._task.image.height, self._task.image.width
        try:
            if self._topics.compressed:
                picture = compressed_image(data)
                if self._task.labeller is None:
                    return shrink_compressed(picture, height, width), None
                whole = decode_compressed(picture)
            else:
                image = raw_image(data)
                if self._task.labeller is None:
                    return shrink(image, height, width), None
                whole = decode_image(image)
        except DamagedPicture:
            return None
        if not hasattr(self._own, "labeller"):  # OpenCV's detectors are not for several threads
            self._own.labeller = make_labeller(self._task)
        return resize(whole, height, width), self._own.labeller.look(whole, self.camera)

    def warnings(self) -> list[str]:
        """Sentences about joints whose order is not the task's; they were found by name."""
        found = []
        for topic, orders in self._joint_orders.items():
            if len(orders) > 1:
                found.append(
                    f"{topic}: the joints come in {len(orders)} different orders (they were found "
                    "by name)"
                )
                continue
            (names,) = orders
            fields = self._topics.streams[topic].fields
            listed = list(dict.fromkeys(path.partition(".")[2] for path in fields))
            if [n for n in names if n in listed] != listed:
                found.append(
                    f"{topic}: the joints come in another order than the task lists them (they "
                    "were found by name)"
                )
        return found


def _camera_model(bag: BagReader, topic: str) -> CameraModel | None:
    """The first calibration that a bag holds; a camera that was never calibrated has none."""
    if not topic:
        return None
    message = next(iter(bag.messages([topic]))).decode()
    matrix: npt.NDArray[np.float64] = np.asarray(message.k, np.float64).reshape(3, 3)
    if matrix[0, 0] <= 0.0:
        return None
    distortion: npt.NDArray[np.float64] = np.asarray(message.d, np.float64)
    return CameraModel(matrix, distortion, int(message.height), int(message.width))
