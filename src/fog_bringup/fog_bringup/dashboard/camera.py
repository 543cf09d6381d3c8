"""The camera's newest picture as a JPEG, encoded when somebody looks, and once for all of them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import cv2

from fog_bringup.dashboard.stream import Arrival, Clock, Stream
from fog_world_model.data.images import decode_image, shrink
from fog_world_model.data.message_head import raw_image, stamp_ns
from fog_world_model.errors import FogError

_PLAUSIBLE_S = 10.0
"""A stamp that is older, or of the future, is of another clock: ages count from the arrival."""
_AHEAD_S = 0.05
"""Clocks of two computers may differ by this much."""


@dataclass(frozen=True)
class Picture:
    """What a viewer gets."""

    number: int
    """Of the message; it grows."""
    jpeg: bytes
    width: int
    """Of the message's picture, which may be larger than the JPEG's."""
    height: int


class Camera:
    """The newest picture of a sensor_msgs/msg/Image topic.

    Args:
        stale_after_s: Age from which the page says that no picture comes.
        max_width: Wider pictures are scaled down to this.
        quality: Of the JPEG, 1 to 100.
        clock: Seconds, never running backwards.
    """

    def __init__(
        self,
        stale_after_s: float,
        *,
        max_width: int = 640,
        quality: int = 80,
        clock: Clock = time.monotonic,
    ) -> None:
        self.stale_after_s = stale_after_s
        self._max_width, self._quality = max_width, quality
        self._stream = Stream(clock)
        self._encoding = threading.Lock()
        self._picture: Picture | None = None
        self._problem = ""

    @property
    def number(self) -> int:
        """Of the newest message; 0 where none ever came."""
        newest = self._stream.newest
        return 0 if newest is None else newest.number

    def receive(self, data: bytes, now_ns: int) -> None:
        """Take a message; it is not looked into but for its stamp.

        Args:
            data: A serialised sensor_msgs/msg/Image.
            now_ns: By the clock that also stamps the messages.
        """
        try:
            stamped = stamp_ns(data)
        except FogError:
            stamped = 0
        travelled_s = (now_ns - stamped) / 1e9
        known = stamped and -_AHEAD_S <= travelled_s <= _PLAUSIBLE_S
        self._stream.put(data, max(0.0, travelled_s) if known else 0.0)

    def picture(self) -> Picture | None:
        """Encode the newest message, unless that was done before. Takes milliseconds.

        Returns:
            None where nothing came, or the newest message cannot be shown.
        """
        with self._encoding:
            newest = self._stream.newest
            if newest is None:
                return None
            if self._picture is None or self._picture.number != newest.number:
                try:
                    self._picture, self._problem = self._encode(newest), ""
                except FogError as error:
                    self._picture, self._problem = None, str(error)
            return self._picture

    def describe(self) -> dict[str, Any]:
        """Age, rate and trouble, for the page."""
        age_s = self._stream.age_s()
        return {
            "age_s": age_s,
            "rate_hz": self._stream.rate_hz(),
            "stale": age_s is None or age_s > self.stale_after_s,
            "problem": self._problem,
        }

    def _encode(self, arrival: Arrival) -> Picture:
        message = raw_image(arrival.data)
        if message.width > self._max_width:
            height = max(1, round(message.height * self._max_width / message.width))
            image = shrink(message, height, self._max_width)
        else:
            image = decode_image(message)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        if not done:  # a picture of more than 65,500 rows
            raise FogError(f"a picture of {message.width}x{message.height} cannot be a JPEG")
        return Picture(arrival.number, jpeg.tobytes(), message.width, message.height)
