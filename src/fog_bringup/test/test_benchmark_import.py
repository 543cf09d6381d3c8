"""The benchmark of the import measures what it says; its figures depend on the machine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fog_bringup.benchmarks import import_
from fog_bringup.cli import main


def test_one_json_object(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Every image becomes a step (asserted while measuring); ratios are those of the rates."""
    monkeypatch.setattr(import_, "REPETITIONS", 1)
    assert main(["benchmark", "import", "--json", "--frames", "45"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == 45
    assert figures["raw_mb"] > 45 * 640 * 480 * 3 / 1e6 > figures["jpeg_mb"] > 1
    for kind in ("raw", "jpeg"):
        rates = figures[kind]
        assert rates["times_plain"] == pytest.approx(rates["ours_fps"] / rates["plain_fps"])
        assert rates["share_of_limit"] == pytest.approx(rates["ours_fps"] / rates["limit_fps"])
        assert min(rates.values()) > 0
