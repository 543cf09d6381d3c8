from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def test_sources_have_no_errors_of_style() -> None:
    """ament_flake8 where a ROS installation brings it, ruff with our rules elsewhere."""
    if importlib.util.find_spec("ament_flake8") is not None:
        main = importlib.import_module("ament_flake8.main").main_with_errors
        status, errors = main(["--config", str(PACKAGE / "setup.cfg"), str(PACKAGE)])
        assert status == 0, "\n".join(errors)
        return
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    run = subprocess.run(command, cwd=PACKAGE, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
