from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def test_docstrings_follow_google_style() -> None:
    """ament_pep257 where a ROS installation brings it, ruff's pydocstyle elsewhere."""
    sources = str(PACKAGE / PACKAGE.name)
    if importlib.util.find_spec("ament_pep257") is not None:
        main = importlib.import_module("ament_pep257.main").main
        options = ["--convention", "google", "--add-ignore", "D105", "D107", "--"]
        assert main([*options, sources]) == 0, "the lines above name the docstrings"
        return
    rules = ["--select", "D", "--ignore", "D105,D107"]
    convention = ["--config", 'lint.pydocstyle.convention = "google"']
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *rules, *convention, sources]
    run = subprocess.run(command, cwd=PACKAGE, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
