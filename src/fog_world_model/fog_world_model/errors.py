"""The one error that is meant for the user rather than for a developer."""

from __future__ import annotations


class FogError(Exception):
    """Something the user gave does not fit: a file, a topic, an option, a machine.

    The message names the thing, what was expected of it, and what to do about it. The command
    line prints it without a traceback and exits with status 2.
    """
