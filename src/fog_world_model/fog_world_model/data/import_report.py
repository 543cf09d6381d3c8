"""What an import says of a bag: what was kept, what was not and why, and what looks wrong.

A recording can be read without an error and still teach nonsense: a lens cap, a driver that
repeats its last frame, commands on a topic that nobody published on. Every warning is a sentence
with the topic and the number, printed after the import and kept with the store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_world_model.data.episode import Episode
from fog_world_model.data.synchronise import IntArray, TopicAccount
from fog_world_model.task import TaskConfig

FROZEN_SHARE = 0.5
"""Share of images equal to the one before, from which on a warning is due."""
FROZEN_SECONDS = 5.0
CLIPPED_SHARE = 0.01
"""Share of commands beyond the task's bounds, from which on a warning is due."""
_LOSS = 1.5
"""Intervals longer than so many usual ones are lost images or pauses, not jitter."""
_NOMINAL_NS = 2_000
"""Stamps of a real sensor differ by more from step to step; half of them by less is arithmetic."""
_JITTER_NS = 500_000


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Contents:
    """Statistics of a bag's episodes, gathered as they are written."""

    def __init__(self, task: TaskConfig) -> None:
        """Start without any."""
        self._task = task
        self._rewards: list[npt.NDArray[np.float32]] = []
        self._actions: list[npt.NDArray[np.float32]] = []
        self._clipped = 0
        self._images = self._frozen = 0
        self._longest = self._streak = 0
        self.ends = 0
        """Transitions that end an episode."""

    def add(self, episode: Episode, commands: npt.NDArray[np.float32]) -> None:
        """Count an episode.

        Args:
            episode: As it is stored.
            commands: ``[step - 1, field]``: its commands in physical units.
        """
        self._rewards.append(episode.reward[:-1])
        self._actions.append(commands)
        action = self._task.action
        low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
        margin = 1e-4 * (high - low)
        beyond = (commands < low - margin) | (commands > high + margin)
        self._clipped += int(beyond.any(axis=1).sum())
        self.ends += int(episode.end.sum())
        same = (episode.image[1:] == episode.image[:-1]).all(axis=(1, 2, 3))
        self._images += len(same)
        self._frozen += int(same.sum())
        borders = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
        if len(borders):
            self._longest = max(self._longest, int((borders[1::2] - borders[::2]).max()))

    def figures(self) -> dict[str, Any]:
        """Reward, action and image statistics."""
        rewards = np.concatenate(self._rewards or [np.zeros(0, np.float32)]).astype(np.float64)
        fields = len(self._task.action.fields)
        actions = np.concatenate(self._actions or [np.zeros((0, fields), np.float32)])
        figures: dict[str, Any] = {"ends": self.ends}
        if len(rewards):
            if self._task.reward is not None or self._task.labeller is not None:
                figures["reward"] = {
                    **_moments(rewards),
                    "zero_share": float((rewards == 0).mean()),
                }
            figures["action"] = {
                "fields": {
                    name: _moments(actions[:, i].astype(np.float64))
                    for i, name in enumerate(self._task.action.fields)
                },
                "beyond_bounds_share": self._clipped / len(actions),
            }
            figures["images"] = {
                "frozen_share": self._frozen / self._images,
                "longest_frozen_s": self._longest / self._task.control_hz,
            }
        return figures


def _moments(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def camera_figures(stamps: IntArray, sizes: Sequence[str]) -> dict[str, Any]:
    """Rate and jitter of the camera.

    Args:
        stamps: ``[image]`` in order of arrival, ns.
        sizes: Sizes and encodings that occur.
    """
    gaps = np.diff(np.sort(stamps)).astype(np.float64)
    gaps = gaps[gaps > 0]
    figures: dict[str, Any] = {"images": len(stamps), "sizes": list(sizes)}
    if len(gaps):
        usual = float(np.median(gaps))
        steady = gaps[gaps < _LOSS * usual]
        figures |= {
            "rate_hz": 1e9 / usual,
            "jitter_ms": float(steady.std()) / 1e6,
            "longest_gap_ms": float(gaps.max()) / 1e6,
        }
    return figures


def topic_figures(account: Mapping[str, TopicAccount]) -> dict[str, Any]:
    """Per topic: counts, and the percentiles of the age at the anchor."""
    topics = {}
    for topic, entry in account.items():
        figures = asdict(entry)
        ages = np.asarray(figures.pop("staleness_ns"), np.float64) / 1e6
        if len(ages):
            figures["staleness_ms"] = {
                "p50": float(np.percentile(ages, 50)),
                "p99": float(np.percentile(ages, 99)),
                "max": float(ages.max()),
            }
        topics[topic] = figures
    return topics


def nominal(stamps: IntArray, arrivals: IntArray) -> bool:
    """Whether stamps are equally spaced while the messages arrived with jitter.

    Such stamps were counted, not measured: they do not say when an image was taken.
    """
    if len(stamps) < 20:
        return False
    spacing, arrival = np.diff(stamps), np.diff(arrivals)
    off = np.abs(spacing - np.median(spacing))
    jitter = np.abs(arrival - np.median(arrival))
    return bool(np.percentile(off, 90) <= _NOMINAL_NS and np.median(jitter) >= _JITTER_NS)


def content_warnings(figures: dict[str, Any], task: TaskConfig) -> list[str]:
    """Sentences about images, commands and rewards that look wrong."""
    found = []
    if images := figures.get("images"):
        topic = task.image.topic
        if images["frozen_share"] == 1.0:
            found.append(f"{topic}: the image never changes within an episode")
        elif images["frozen_share"] > FROZEN_SHARE:
            found.append(
                f"{topic}: {images['frozen_share']:.0%} of the images equal the one before"
            )
        elif images["longest_frozen_s"] > FROZEN_SECONDS:
            found.append(
                f"{topic}: the image stood still for {images['longest_frozen_s']:.1f} s without a "
                "gap in its stamps"
            )
    if action := figures.get("action"):
        topic = task.action.topic
        if all(f["std"] == 0.0 for f in action["fields"].values()):
            values = ", ".join(f"{n} = {f['mean']:g}" for n, f in action["fields"].items())
            found.append(f"{topic}: the command never changes ({values})")
        if action["beyond_bounds_share"] > CLIPPED_SHARE:
            found.append(
                f"{topic}: {action['beyond_bounds_share']:.1%} of the commands lie beyond "
                "action.low and action.high and were clipped"
            )
    if (reward := figures.get("reward")) and reward["std"] == 0.0:
        name = task.reward.topic if task.reward else f"labeller {task.labeller.name}"  # type: ignore[union-attr]
        found.append(f"{name}: the reward is {reward['mean']:g} in every step")
    return found


def topic_warnings(
    account: Mapping[str, TopicAccount], breaks: Mapping[str, int], *, image_topic: str
) -> list[str]:
    """Sentences about messages out of order, and episodes that lost images ended."""
    found = []
    for topic, entry in account.items():
        if entry.reordered:
            found.append(
                f"{topic}: the stamps of {entry.reordered} of {entry.received} messages run "
                "backwards"
            )
        if topic == image_topic and breaks.get("camera gap"):
            found.append(
                f"{topic}: {counted(breaks['camera gap'], 'episode')} cut off where images are "
                f"missing; about {entry.dropped} are, between {entry.received} that were recorded"
            )
    return found


def recorder_figures(
    account: Mapping[str, Mapping[str, Any]], said: Sequence[str], topics: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The recorder's own account of the topics, and sentences about what it lost.

    Args:
        account: Topic -> ``received``, ``written``, ``lost``, ``gaps`` and so on, as it lies in
            the bag; empty for bags of other recorders.
        said: Warnings of the recorder; what they say of a topic is not said again.
        topics: Those that the task uses.
    """
    chosen = {topic: dict(account[topic]) for topic in topics if topic in account}
    # A rate that is not a number has no place in JSON.
    chosen = json.loads(json.dumps(chosen), parse_constant=lambda _: None)
    found = []
    for topic, entry in chosen.items():
        lost, gaps = entry.get("lost", 0), entry.get("gaps_total", len(entry.get("gaps", ())))
        for number, what in ((lost, "lost message"), (gaps, "gap")):
            mentioned = any(topic in s and what.split()[0] in s for s in said)
            if number and not mentioned:
                found.append(f"{topic}: {counted(number, what)} in the recorder's account")
    return chosen, [*found, *said]


def broken_steps(breaks: Mapping[str, int], faults: Mapping[str, int]) -> dict[str, int]:
    """Reason -> steps that are in no episode because of it.

    Args:
        breaks: Of the synchroniser.
        faults: Steps and transitions whose content was unusable.
    """
    broken: Counter[str] = Counter(faults)
    for reason, count in breaks.items():
        if reason.startswith("no start, "):
            broken[reason.removeprefix("no start, ")] += count
    return dict(broken)


def totals(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the bags of a store."""
    breaks: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    for report in reports:
        breaks.update(report["breaks"])
        broken.update(report["steps"]["broken"])
    return {
        "episodes": sum(r["episodes"] for r in reports),
        "transitions": sum(r["transitions"] for r in reports),
        "breaks": dict(breaks),
        "steps": {
            "kept": sum(r["steps"]["kept"] for r in reports),
            "broken": dict(broken),
        },
        "warnings": sum(len(r["warnings"]) for r in reports),
    }


def report_lines(report: dict[str, Any]) -> list[str]:
    """A bag's report for the terminal."""
    lines = [f"{report['bag']}: {report['episodes']} episodes, {report['transitions']} transitions"]
    if camera := report.get("camera"):
        rate = f"{camera['rate_hz']:.2f} Hz, " if "rate_hz" in camera else ""
        jitter = f", jitter {camera['jitter_ms']:.2f} ms" if "jitter_ms" in camera else ""
        lines.append(f"  camera: {rate}{', '.join(camera['sizes'])}{jitter}")
    for topic, account in report["topics"].items():
        ages = account.get("staleness_ms")
        old = (
            f", age {ages['p50']:.1f} / {ages['p99']:.1f} / {ages['max']:.1f} ms (p50/p99/max)"
            if ages
            else ""
        )
        lines.append(
            f"  {topic}: {account['received']} received, {account['used']} used, "
            f"{account['superseded']} superseded, {account['reordered']} reordered, "
            f"{account['dropped']} dropped{old}"
        )
    lines += [f"  {count} x episode border: {why}" for why, count in report["breaks"].items()]
    if reward := report.get("reward"):
        lines.append(
            f"  reward: mean {reward['mean']:.4g}, std {reward['std']:.4g}, "
            f"from {reward['min']:.4g} to {reward['max']:.4g}"
        )
    lines += [f"  warning: {warning}" for warning in report["warnings"]]
    lines += [f"  note: {note}" for note in report["notes"]]
    return lines
