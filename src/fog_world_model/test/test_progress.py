"""Lines of progress in a log file: rarely, and with the time that is left."""

from __future__ import annotations

import pytest

from fog_world_model.training import progress
from fog_world_model.training.progress import progress_bar


def test_time_left_by_hand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half done when it begins; 4 % in 8 s leave 46 % for 92 s; a line every 5 s at most."""
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress_bar("model") as show:
        show(0.5, "step 0")
        now = 103.0
        show(0.51, "step 1")
        now = 108.0
        show(0.54, "step 2, 1.0/s, loss 0.5")
        now = 109.0
        show(0.6, "step 3")
        show(1.0, "step 4")
    assert capsys.readouterr().err.splitlines() == [
        "model:  54%, step 2, 1.0/s, loss 0.5, 92 s left",
        "model: 100%, step 4, 0 s left",
    ]
