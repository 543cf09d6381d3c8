"""Images that arrive late, or not at all, on their way from a simulated robot. No ROS here.

Only the images themselves suffer: their stamps stay, and everything else (camera_info, states,
rewards) arrives in time, so that what happened can still be measured.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

import numpy as np

from fog_bringup.robots.streams import Encoded
from fog_bringup.robots.variations import Conditions, draw_conditions, generator

_IMAGE = "sensor_msgs/msg/Image"


@dataclasses.dataclass(frozen=True)
class _Held:
    taken_ns: int
    due_ns: int
    message: Encoded


class ImageFaults:
    """Holds images back, and loses some.

    Which ones are lost depends on the episode's seed and on the image's place in the episode
    alone: every policy misses the same ones.

    Args:
        vary: Variations of the stream, of :data:`fog_bringup.robots.variations.STREAM`.
    """

    def __init__(self, vary: Sequence[str]) -> None:
        self._vary = tuple(vary)
        self.images = self.lost = 0
        """Images that there were, and those of them that were lost."""
        self.conditions: Conditions = {}
        self.delay_ns = _nanoseconds(draw_conditions(vary, 0))
        """How late images are, ns of robot time."""
        self.restart(0)

    def restart(self, seed: int) -> None:
        """An episode begins; what is still under way does not reach it."""
        self.conditions = draw_conditions(self._vary, seed)
        self._loss = self.conditions.get("image_loss", 0.0)
        self._random: np.random.Generator = generator("lost-frames", seed)
        self._held: deque[_Held] = deque()
        self._taken_ns: int | None = None
        self._is_lost = False

    def pass_on(self, now_ns: int, messages: Sequence[Encoded]) -> list[Encoded]:
        """What arrives now of what is sent now, and of what was sent before.

        Args:
            now_ns: Robot time; it does not run backwards within an episode.
            messages: Sent now. The same image sent again (after a pause, say) has the same fate.

        Returns:
            In the order of arrival.
        """
        arriving = []
        for message in messages:
            if message[1] != _IMAGE:
                arriving.append(message)
            elif not self._loses(now_ns):
                self._held.append(_Held(now_ns, now_ns + self.delay_ns, message))
        while self._held and self._held[0].due_ns <= now_ns:
            arriving.append(self._held.popleft().message)
        return arriving

    def _loses(self, now_ns: int) -> bool:
        if now_ns == self._taken_ns:
            self._held = deque(h for h in self._held if h.taken_ns != now_ns)
            return self._is_lost
        self._taken_ns = now_ns
        self._is_lost = bool(self._random.random() < self._loss)
        self.images += 1
        self.lost += self._is_lost
        return self._is_lost


def _nanoseconds(conditions: Conditions) -> int:
    return round(conditions.get("image_delay_s", 0.0) * 1e9)
