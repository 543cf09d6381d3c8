"""Rates, latencies and counts against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fog_policy.control_picture import main
from fog_policy.control_report import ControlReport, write_json

MS = 1_000_000


def test_rate_and_long_intervals() -> None:
    report = ControlReport(10.0)
    # Intervals of 100, 110, 90 and 320 ms: the last one is long.
    for now_ms in (0, 100, 210, 300, 620):
        report.tick(now_ms * MS)
    content = report.to_dict()
    assert content["commands"] == 5
    assert content["seconds"] == pytest.approx(0.62)
    assert content["achieved_hz"] == pytest.approx(4 / 0.62)
    assert content["long_intervals"] == 1
    assert report.to_dict(newest=2)["achieved_hz"] == pytest.approx(2 / 0.41)


def test_time_to_align_does_not_count() -> None:
    report = ControlReport(10.0)
    for now_ms in (0, 100):
        report.tick(now_ms * MS)
    report.deadlines.tick(200 * MS)
    report.restart_interval()
    for now_ms in (5000, 5100):
        report.deadlines.tick((now_ms + 100) * MS)
        report.tick(now_ms * MS)
        report.deadlines.decided((now_ms + 100) * MS, now_ms * MS)
    content = report.to_dict()
    assert content["achieved_hz"] == pytest.approx(10.0)
    assert (content["missed_deadlines"], content["long_intervals"]) == (0, 0)


def test_latency_percentiles() -> None:
    report = ControlReport(5.0)
    # 1 .. 101 ms: the median is 51 ms, and 99 % of the 100 intervals between them end at 100 ms.
    for ms in range(1, 102):
        report.driven(ms, ms * MS, 2 * MS, (ms - 1) * MS)
    content = report.to_dict()
    assert content["latency_ms"] == pytest.approx({"p50": 51.0, "p99": 100.0, "max": 101.0})
    assert content["image_age_ms"] == pytest.approx({"p50": 50.0, "p99": 99.0, "max": 100.0})
    assert content["inference_ms"] == pytest.approx({"p50": 2.0, "p99": 2.0, "max": 2.0})
    assert content["repeated_images"] == 0
    report.driven(101, 1, 1, 0)
    assert report.repeated_images == 1


def test_stops_count_events_and_commands() -> None:
    report = ControlReport(5.0)
    report.filtered([], ["slew"])
    report.filtered(["image"], [])
    report.filtered(["image", "tilt"], [])
    report.filtered(["image"], [])
    report.filtered([], [])
    report.filtered(["tilt", "tilt"], [])
    content = report.to_dict()
    assert content["stops"] == {
        "image": {"events": 1, "commands": 3},
        "tilt": {"events": 2, "commands": 2},
    }
    assert content["limits"] == {"slew": 1}
    assert "image 1x, tilt 2x" in report.summary()


def test_nothing_measured_is_none() -> None:
    content = ControlReport(5.0).to_dict()
    assert content["achieved_hz"] is None
    assert content["latency_ms"] == {"p50": None, "p99": None, "max": None}
    assert "stops: none" in ControlReport(5.0).summary()


def test_jitter_is_counted_in_bins_and_its_sign_does_not_matter() -> None:
    report = ControlReport(5.0)
    # 99 deviations of 0.205 ms, of either sign, and one of 150 ms, beyond the bins.
    for i in range(99):
        report.jittered((-1) ** i * 0.205 * MS)
    report.jittered(150 * MS)
    assert report.to_dict()["jitter_ms"] == pytest.approx({"p50": 0.21, "p99": 0.21, "max": 150.0})
    report.jittered(150 * MS)
    assert report.to_dict()["jitter_ms"]["p99"] == pytest.approx(100.01)


def test_the_end_counts_deadlines_that_no_later_tick_shows() -> None:
    report = ControlReport(10.0)
    report.deadlines.tick(100 * MS)
    report.tick(20 * MS)
    report.deadlines.decided(100 * MS, 20 * MS)
    report.end(520 * MS)  # ticks were due at 100, 200, 300 and 400 ms; the fifth, at 500, has time
    assert report.missed_deadlines == 4
    report.end(9000 * MS)
    assert report.missed_deadlines == 4


def test_text_and_picture(tmp_path: Path) -> None:
    report = ControlReport(10.0)
    for ms in (0, 100, 200):
        report.tick(ms * MS)
        report.driven(ms, 20 * MS, 3 * MS, 15 * MS)
    report.filtered(["tilt"], [])
    report.about = {"device": "cpu"}
    lines = report.text().splitlines()
    assert "achieved rate     10 Hz" in lines
    assert "stopped by        tilt: 1 times" in lines
    assert "image at the tick p50 15 ms, p99 15 ms, max 15 ms" in lines
    assert "device            cpu" in lines
    source, target = tmp_path / "report.json", tmp_path / "report.png"
    write_json(source, {**report.to_dict(), "series": report.series()})
    assert main([str(source), str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.png"]
    # An activation without a single command has a picture too.
    write_json(source, {**ControlReport(10.0).to_dict(), "series": ControlReport(10.0).series()})
    assert main([str(source), str(target)]) == 0


def test_json_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    for commands in (1, 2):
        report = ControlReport(5.0)
        for _ in range(commands):
            report.tick(0)
        write_json(path, report.to_dict())
        assert json.loads(path.read_text())["commands"] == commands
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
