"""Robots, recording, launch files, configuration and the ``fog`` command."""
