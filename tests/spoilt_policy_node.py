"""policy_node, of which one place fails for as long as a file names it; for tests.

    python spoilt_policy_node.py FILE --ros-args -p bundle:=...

The places are functions that its callbacks call; everything else is the genuine node.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fog_policy import observation_buffer, policy_node
from fog_policy.control_loop import ControlLoop
from fog_policy.control_report import ControlReport

PLACES: dict[str, tuple[Any, str]] = {
    "image": (observation_buffer, "check_layout"),
    "joints": (observation_buffer, "read_fields"),
    "tick": (ControlLoop, "begin"),
    "hold": (ControlLoop, "check"),
    "policy's thread": (ControlLoop, "compute"),
    "answer": (ControlLoop, "finish"),
    "service": (ControlReport, "text"),
    "diagnostics": (ControlReport, "to_dict"),
}


def spoil(place: str, owner: Any, name: str, file: Path) -> None:
    """Replace a function by one that fails while the file names the place."""
    genuine = getattr(owner, name)

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        if file.exists() and file.read_text() == place:
            raise ValueError(f"spoilt {place}")
        return genuine(*args, **kwargs)

    setattr(owner, name, spoilt)


if __name__ == "__main__":
    for place, (owner, name) in PLACES.items():
        spoil(place, owner, name, Path(sys.argv[1]))
    policy_node.main([sys.argv[0], *sys.argv[2:]])
