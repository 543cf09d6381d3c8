"""What ``fog bag info`` says of a bag."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import yaml

from fog_world_model.data.bag_reader import BagReader

_SHOWN = 10
"""Events of a topic that the text lists; the JSON has all that the recorder kept."""


def describe_bag(bag: BagReader) -> dict[str, Any]:
    """Everything worth knowing of an open bag, as JSON can hold it.

    Returns:
        ``bag``, ``files`` (name -> bytes), ``bytes``, ``start_ns``, ``start`` (ISO 8601, UTC; empty
        for an empty bag), ``duration_s``, ``messages``, ``compression``, ``ros_distro``, ``task``
        (its name), ``task_hash``, ``episode``, ``warnings``, ``recovery`` and ``topics``: topic ->
        ``type``, ``messages``, ``rate_hz`` (over the length of the bag) and, from our recorder,
        ``account``. A topic of the account that is not in the bag has no message in it.
    """
    duration, counts, account = bag.duration_s, bag.counts, bag.account
    topics: dict[str, dict[str, Any]] = {
        topic: {
            "type": bag.topics[topic],
            "messages": count,
            "rate_hz": count / duration if duration else None,
        }
        for topic, count in sorted(counts.items())
    }
    for topic, entry in account.items():
        empty = {"type": entry.get("type", ""), "messages": 0, "rate_hz": None}
        topics.setdefault(topic, empty)["account"] = entry
    start = datetime.fromtimestamp(bag.start_ns / 1e9, timezone.utc).isoformat()
    return {
        "bag": str(bag.path),
        "files": {f.name: f.stat().st_size for f in bag.files},
        "bytes": bag.size_bytes,
        "start_ns": bag.start_ns,
        "start": start if sum(counts.values()) else "",
        "duration_s": duration,
        "messages": sum(counts.values()),
        "compression": bag.compression,
        "ros_distro": bag.distribution,
        "task": _task_name(bag.custom.get("fog_task", "")),
        "task_hash": bag.custom.get("fog_task_hash", ""),
        "episode": bag.episode,
        "warnings": bag.warnings,
        "recovery": _json(bag.custom.get("fog_recovery", "{}")),
        "topics": topics,
    }


def _task_name(text: str) -> str:
    try:
        task = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""
    return str(task.get("name", "")) if isinstance(task, dict) else ""


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def bag_text(description: dict[str, Any]) -> str:
    """The description for people, several lines."""
    d = description
    files = "1 file" if len(d["files"]) == 1 else f"{len(d['files'])} files"
    about = [
        f"{d['duration_s']:.1f} s",
        f"from {d['start'][:19]} UTC" if d["start"] else "empty",
        f"{d['messages']} messages",
        f"{d['bytes'] / 1e6:.1f} MB in {files}",
        d["compression"] or "not compressed",
    ]
    lines = [f"{d['bag']}: {', '.join(about)}"]
    if d["task"]:
        lines.append(f"recorded for task '{d['task']}' ({d['task_hash'][:12]})")
    if d["episode"]:
        reason = d["episode"].get("reason")
        ending = f", ended because: {reason}" if reason else ""
        lines.append(f"episode: {d['episode'].get('outcome') or 'not marked'}{ending}")
    for topic, entry in d["topics"].items():
        rate = "" if entry["rate_hz"] is None else f"{entry['rate_hz']:8.2f} Hz"
        lines.append(f"  {topic:28} {entry['type']:32} {entry['messages']:8} {rate}".rstrip())
        if "account" in entry:
            try:
                lines += [f"    {line}" for line in _account_lines(entry["account"], d["start_ns"])]
            except (KeyError, TypeError, AttributeError):
                lines.append("    its account is not one of this recorder; see --json")
    lines += [f"warning: {warning}" for warning in d["warnings"]]
    return "\n".join(lines)


def _account_lines(account: dict[str, Any], start_ns: int) -> list[str]:
    """What the recorder counted on a topic, and when the first of it happened."""
    gaps = account.get("gaps", [])
    missing = account.get("missing", sum(gap["missing"] for gap in gaps))
    line = (
        f"{account.get('received', 0)} received, {account.get('written', 0)} written, "
        f"{account.get('lost', 0)} lost, {account.get('gaps_total', len(gaps))} gaps"
    )
    line += f" ({missing} messages missing)" if missing else ""
    line += "".join(f", {account[k]} {k}" for k in ("repeated", "reordered") if account.get(k))
    happened = [(gap["at_ns"], f"gap, {gap['missing']} messages missing") for gap in gaps]
    happened += [
        (loss["at_ns"], f"{loss['count']} messages lost: {loss['reason']}")
        for loss in account.get("losses", [])
    ]
    happened += [
        (jump["at_ns"], f"the stamps jumped by {jump['by_ns'] / 1e9:.3f} s")
        for jump in account.get("jumps", [])
    ]
    happened += [
        (change["at_ns"], f"another publisher, after {change['silent_ns'] / 1e9:.3f} s of silence")
        for change in account.get("publishers", [])
    ]
    happened += [
        (size["at_ns"], f"images of {size['width']}x{size['height']} from here on")
        for size in account.get("sizes", [])[1:]
    ]
    happened.sort()
    lines = [line]
    lines += [f"  at {(at - start_ns) / 1e9:.3f} s: {what}" for at, what in happened[:_SHOWN]]
    if len(happened) > _SHOWN:
        lines.append(f"  and {len(happened) - _SHOWN} more, see --json")
    return lines
