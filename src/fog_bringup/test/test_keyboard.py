from __future__ import annotations

import io
import os
import pty
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from fog_bringup.keyboard import Keyboard, deflection
from fog_world_model.errors import FogError

KEYS = ["ws", "qe", "ad"]


def test_keys_push_while_they_repeat_and_the_newer_of_two_wins() -> None:
    assert deflection(KEYS, {}, 10.0) == [0.0, 0.0, 0.0]
    assert deflection(KEYS, {"w": 9.9, "d": 9.8}, 10.0) == [1.0, 0.0, -1.0]
    assert deflection(KEYS, {"w": 9.7, "s": 9.9}, 10.0) == [-1.0, 0.0, 0.0]
    assert deflection(KEYS, {"w": 9.0}, 10.0) == [0.0, 0.0, 0.0]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The side of a terminal at which a person would type; standard input is the other side."""
    person, program = pty.openpty()
    with os.fdopen(program) as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        yield person
    os.close(person)


def wait_for(keyboard: Keyboard, expected: list[float]) -> None:
    deadline = time.monotonic() + 5.0
    while keyboard.deflection() != expected:
        assert time.monotonic() < deadline, keyboard.deflection()
        time.sleep(0.005)


def test_a_key_counts_without_enter_and_the_space_bar_stops(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    keyboard = Keyboard(KEYS)
    try:
        os.write(terminal, b"w")
        wait_for(keyboard, [1.0, 0.0, 0.0])
        os.write(terminal, b"A")  # with the shift key held
        wait_for(keyboard, [1.0, 0.0, 1.0])
        os.write(terminal, b" ")
        wait_for(keyboard, [0.0, 0.0, 0.0])
        os.write(terminal, b"s")
        wait_for(keyboard, [-1.0, 0.0, 0.0])
        wait_for(keyboard, [0.0, 0.0, 0.0])  # it was not repeated
    finally:
        keyboard.close()
    assert termios.tcgetattr(terminal) == before, "the terminal is as it was"


def test_without_a_terminal_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(FogError, match="needs a terminal"):
        Keyboard(KEYS)
