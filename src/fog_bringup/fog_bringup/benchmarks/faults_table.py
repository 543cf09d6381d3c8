"""What came of injected faults, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = ("fault", "injected", "safe", "limit, s", "median, s", "worst, s", "went on by")


def table(result: Mapping[str, Any]) -> str:
    """A row per kind, and below it what was found wrong.

    Args:
        result: As :func:`fog_bringup.benchmarks.faults.measure` gives it.
    """
    counted = result["faults"]
    rows = [_HEAD]
    for kind, found in counted["kinds"].items():
        ways = ", ".join(f"{how} {n}x" for how, n in found["recovered_by"].items())
        rows.append(
            (
                kind,
                str(found["injected"]),
                str(found["safe_stops"]),
                f"{found['limit_s']:.3f}",
                _seconds(found["median_s"]),
                _seconds(found["worst_s"]),
                ways,
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD))]
    lines = [f"{result['policy']}; robot: {result['robot']}"]
    for row in rows:
        middle = (cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *middle, row[-1]]))
    lines.append(
        f"{counted['safe_stops']} safe stops of {counted['injected']} faults, {counted['late']} "
        f"late, {counted['recovered']} recovered; {counted['out_of_bounds']} of "
        f"{counted['commands']} commands outside bounds or slew rate; {counted['left_behind']} "
        "processes left behind"
    )
    if counted["unasked_stops"] or counted["falls"]:
        lines.append(
            f"besides: {counted['unasked_stops']} stops that no fault had asked for, "
            f"{counted['falls']} falls"
        )
    for one in result["each"]:
        lines += [f"no fault had asked for: {text}" for text in one["unasked_stops"]]
    lines += [f"finding: {text}" for text in counted["findings"]]
    if result.get("picture"):
        lines.append(f"picture: {result['picture']}")
    if result["interrupted"]:
        lines.append("interrupted before the last fault")
    if result["error"]:
        lines.append(f"ended before the last fault: {result['error']}")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"
