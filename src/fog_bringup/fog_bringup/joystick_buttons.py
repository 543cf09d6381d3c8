"""Buttons of a joystick that do something when they are pressed down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class JoystickButtons:
    """Finds the moments at which buttons go down: a held button acts once.

    Args:
        actions: What is to be done -> index of its button; a negative index: no button.
    """

    def __init__(self, actions: Mapping[str, int]) -> None:
        self._actions = {name: index for name, index in actions.items() if index >= 0}
        self._before: Sequence[int] | None = None

    def __bool__(self) -> bool:
        """Whether any button does anything."""
        return bool(self._actions)

    def pressed(self, buttons: Sequence[int]) -> list[str]:
        """Take the newest state of all buttons; name the actions whose button has just gone down.

        What is held when the first message comes does nothing: nobody has pressed it for this.
        """
        before, self._before = self._before, list(buttons)
        if before is None:
            return []
        return [
            name
            for name, index in self._actions.items()
            if index < len(buttons)
            and buttons[index]
            and not (index < len(before) and before[index])
        ]
