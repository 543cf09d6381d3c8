"""One topic that is recorded: under which name, in which form, and what it has said so far."""

from __future__ import annotations

from collections import deque
from typing import Final

from rosbags.interfaces import Qos

from fog_bringup.image_recording import COMPRESSED_IMAGE, IMAGE, compressed_topic
from fog_bringup.recording_account import TopicAccount
from fog_world_model.data.message_head import has_header

_LATCHED: Final = 100
"""Messages that are remembered of a latched topic."""


class Stream:
    """One topic that is recorded.

    Args:
        topic: Its name.
        typename: Its interface.
        compress: Whether it is recorded compressed, under another name.
    """

    def __init__(self, topic: str, typename: str, *, compress: bool = False) -> None:
        self.topic, self.type = topic, typename
        self.compress = compress and typename == IMAGE
        self.recorded = (
            (compressed_topic(topic), COMPRESSED_IMAGE) if self.compress else (topic, typename)
        )
        """Topic and interface in the bag."""
        self.account = TopicAccount(*self.recorded)
        self.heard = 0
        """Messages since the recorder started."""
        self.is_image = typename in (IMAGE, COMPRESSED_IMAGE)
        self.lost_events = 0
        """Messages that the middleware's own events say were lost since the recorder started."""
        self.has_header = has_header(typename)
        self.qos: list[Qos] = []
        """Profiles of its publishers."""
        self.publishers: set[bytes] = set()
        """Who they are."""
        self.latched: deque[bytes] | None = None
        """Messages that every new bag begins with."""

    def latch(self, latched: bool) -> None:
        """Remember what comes, because it comes once; or forget it."""
        if not latched:
            self.latched = None
        elif self.latched is None:
            self.latched = deque(maxlen=_LATCHED)
