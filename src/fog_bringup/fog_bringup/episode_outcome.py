"""How an episode went: success, failure or unknown, in the metadata of its bag."""

from __future__ import annotations

import json
from pathlib import Path

from fog_world_model.data.bag_metadata import amend_custom, custom_of, read_metadata
from fog_world_model.errors import FogError

EPISODE = "fog_episode"
OUTCOMES = ("success", "failure", "")


def mark_outcome(bag: Path, outcome: str) -> None:
    """Write how the episode of a closed bag went; everything else about it stays.

    Args:
        bag: Bag folder.
        outcome: One of :data:`OUTCOMES`; empty takes a mark away.

    Raises:
        FogError: It is no closed bag, its ``fog_episode`` is damaged, or it cannot be written.
    """
    if outcome not in OUTCOMES:
        raise FogError(f"outcome {outcome!r}: expected success, failure or nothing")
    text = custom_of(read_metadata(bag)).get(EPISODE, "{}")
    try:
        episode = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise FogError(f"bag {bag}: its {EPISODE} is damaged: {error}") from error
    amend_custom(bag, {EPISODE: json.dumps({**episode, "outcome": outcome})})
