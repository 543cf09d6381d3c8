"""Sections of the report's page, each as HTML."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from fog_bringup import report_figures as figures
from fog_bringup import report_pictures as pictures
from fog_bringup.report_page import beside, folded, heading, paragraph, picture, table
from fog_bringup.report_verdict import BASELINES, decimals, number

Content = Mapping[str, Any]
"""What :func:`fog_bringup.report.write_report` takes."""

SECTIONS = {
    "frames": "1 What was recorded",
    "open-loop": "2 What the world models imagine",
    "training": "3 How they were trained",
    "closed-loop": "4 What the policy does",
    "control": "5 Control in real time",
    "costs": "6 What it took",
    "provenance": "7 Where it all comes from",
}
"""Anchor -> heading."""


def _section(anchor: str, *parts: str) -> Iterator[str]:
    yield "<section>"
    yield heading(anchor, SECTIONS[anchor])
    yield from parts
    yield "</section>"


def frames(content: Content) -> Iterator[str]:
    """Camera frames of recorded episodes."""
    episodes = [e for e in content["frames"] if len(e)][: pictures.EPISODES]
    if not episodes:
        return _section("frames", paragraph("There are no recorded frames to show."))
    height, width = episodes[0].shape[1:3]
    return _section(
        "frames",
        paragraph(
            f"The robot's own camera, {width} by {height} pixels: with a few readings of its "
            "joints and its motion, this is all that the models and the policy ever see."
        ),
        picture(
            functools.partial(pictures.contact_sheet, episodes, _control_hz(content)),
            f"Camera frames of {len(episodes)} recorded episodes, one row each, in order of time.",
            f"{len(episodes)} of the recorded episodes that the models were not fitted to, from "
            "left to right in time. Whatever the task is about has to be recognisable in them.",
        ),
    )


def open_loop(content: Content) -> Iterator[str]:
    """Imagined beside real frames, and errors by horizon."""
    result = content["open_loop"]
    shown = min(pictures.EPISODES, len(result.real))
    columns = {
        "PSNR, dB: global model": result.model_psnr,
        "local model": result.local_psnr,
        "last frame": result.copy_last_psnr,
        "by window: global model": result.model_psnr_per_window,
        "last frame ": result.copy_last_psnr_per_window,
        "reward: global model": result.model_reward_correlation,
        "local model ": result.local_reward_correlation,
    }
    columns = {name: values for name, values in columns.items() if values}
    rows = [
        [f"{horizon} step{'s' * (horizon > 1)}", *(f"{v[i]:.2f}" for v in columns.values())]
        for i, horizon in enumerate(result.horizon)
    ]
    closer = sum(
        local > model for local, model in zip(result.local_psnr, result.model_psnr, strict=False)
    )
    rivals = (
        f" The local model's own frames are closer at {closer} of {len(result.horizon)} horizons."
        if closer
        else ""
    )
    return _section(
        "open-loop",
        paragraph(
            "The global model sees a few recorded frames and then imagines what follows, given "
            f"only the commands; {result.windows} windows of held-out episodes, never seen in "
            "training."
        ),
        picture(
            functools.partial(pictures.strips, result),
            f"{shown} pairs of rows: recorded frames above, imagined frames below, at "
            f"{', '.join(map(str, pictures.shown_horizons(result)))} steps ahead.",
            "Each pair should show the same scene. Objects have to stay where they belong and "
            "move as the robot turns; some blur far ahead is to be expected.",
        ),
        picture(
            functools.partial(figures.open_loop_curves, result),
            "Two charts over the steps ahead: likeness of the frames, and correlation of the "
            "reward, for the global model, the local model and a repeated last frame.",
            "Left: the global model should lie above the dashed line, which is what repeating the "
            f"last frame gives.{rivals} Right: how well the imagined reward follows the recorded "
            "one (1: perfectly).",
        ),
        table("By steps ahead", rows, ("", *columns), numbers=True),
        paragraph(
            "PSNR is taken of the squared error over all windows. By window: the mean of each "
            "window's own ratio, in which those count most where nothing moves and a repeated "
            "frame is nearly perfect.",
            "note",
        ),
    )


def training(content: Content) -> Iterator[str]:
    """Losses, imagined reward and the check of the gradient."""
    curves = content["curves"]
    policy = curves.get("policy", ())
    ahead = figures.in_global(policy)
    caption = "Left and middle: the reward per step that the policy earns in imagination"
    if ahead.any() and not ahead.all():
        caption += (
            ", first in the local model alone, which is cheap, then with the global model's "
            "frames and rewards. A drop between them says that the local model alone was too kind"
        )
    for words, rows in (("the local model alone", ~ahead), ("the global model", ahead)):
        rewards = [float(e["reward"]) for e, chosen in zip(policy, rows, strict=True) if chosen]
        if len(rewards) > 1:
            caption += f". In {words} it went from {_change(rewards)}"
    caption += (
        ". Right: the direction of the decoupled gradient against finite differences through the "
        "global model. 1 is the same direction; points that scatter about 0 say that the gradient "
        "is of little use."
    )
    return _section(
        "training",
        picture(
            functools.partial(figures.world_model_curves, curves),
            "Two charts of losses, of the global and of the local world model, over seconds of "
            "training.",
            "Losses of both world models and of their parts, running means on a logarithmic "
            "scale. The total should still be falling or have become flat, not rise.",
        ),
        picture(
            functools.partial(figures.policy_curves, policy),
            "Three charts of the policy's training: imagined reward over imagined steps, the same "
            "over seconds, and the cosine of the gradient check.",
            caption,
        ),
    )


def closed_loop(content: Content) -> Iterator[str]:
    """Returns with intervals, and paths from above."""
    records, summaries = content["closed_loop"], content["json"]["closed_loop"]
    seeds = {name: [e["seed"] for e in r["episodes"]] for name, r in records.items()}
    same = len({tuple(s) for s in seeds.values()}) == 1
    starts = (
        f"All three began from the same {len(seeds['policy'])} start states"
        if same
        else "The start states differ, so that the comparison is a rough one"
    )
    steps = max(len(e["rewards"]) for r in records.values() for e in r["episodes"])
    places = decimals(*(s[key] for s in summaries.values() for key in ("low", "high")))
    rows = []
    for name in figures.CONTROLLERS:
        values = [summaries[name][k] for k in ("mean", "low", "high")]
        per_step = [f"{v / steps:.{places + 2}f}" for v in values]
        cells = [*(f"{v:.{places}f}" for v in values), *per_step]
        rows.append([name, summaries[name]["episodes"], *cells])
    shown = min(pictures.PATHS, len(records["policy"]["episodes"]))
    header = ("", "episodes", "mean return", "low", "high", "per step", "low", "high")
    return _section(
        "closed-loop",
        paragraph(
            "Real episodes, outside of imagination. The policy drove over ROS topics; random "
            f"means {BASELINES['random']} within the bounds, standing none at all. {starts}."
        ),
        picture(
            functools.partial(figures.returns, summaries, records),
            "Left: mean return of policy, random commands and standing, with intervals and one "
            "dot per episode. Right: mean reward over the time of an episode.",
            "Large dots are means, bars their 95 % bootstrap intervals, small dots single "
            "episodes. The policy's bar should lie to the right of both others. On the right its "
            "reward should rise while it drives; shaded is the standard error, times 1.96.",
        ),
        table("Returns, with 95 % intervals", rows, header, numbers=True),
        picture(
            functools.partial(
                pictures.paths, records["policy"], records["random"], content["arena_m"]
            ),
            f"Maps of the arena from above: paths of the policy in {shown} episodes, and of "
            "random commands in a last row.",
            f"The arena from above, {content['arena_m']:g} m wide; the first {shown} episodes of "
            "the policy in order, not a selection, and a row of random commands. Hollow marks are "
            "the start, filled ones the end: arrow the robot, orange square the cube; + the goal "
            "post. The colour of a path is the reward of each step, the number the return.",
        ),
    )


def control(control: Mapping[str, Any]) -> Iterator[str]:
    """Rate and latency of the control loop."""
    if not control.get("declared_hz"):
        return _section("control", paragraph("No control rate was measured."))
    rows: list[tuple[str, str]] = [
        ("declared rate", f"{control['declared_hz']:g} Hz"),
        ("achieved rate", f"{number(control.get('achieved_hz'), 4)} Hz"),
        ("watched for", f"{number(control.get('seconds'))} s"),
    ]
    counts = {
        "commands": "commands",
        "missed_deadlines": "deadlines missed",
        "repeated_images": "images used twice",
    }
    rows += [(words, str(control[key])) for key, words in counts.items() if key in control]
    for key, words in (("latency_ms", "image to command"), ("inference_ms", "of this, the policy")):
        values = control.get(key) or {}
        text = ", ".join(f"{k} {number(v)} ms" for k, v in values.items())
        rows.append((words, text or "–"))
    stops = control.get("stops") or {}
    text = ", ".join(f"{cause}: {n['events']}" for cause, n in stops.items())
    rows.append(("stops by the safety filter", text or "none"))
    return _section(
        "control",
        paragraph(
            "How the policy node kept its time while robot and policy ran in real time on this "
            "machine, each in a process of its own."
        ),
        picture(
            functools.partial(figures.latency, control),
            "Latency from image to command and the policy's share of it, beside the control "
            "period.",
            "Everything should lie well to the left of the dashed line: by then the next command "
            "is due. The node waits for a tenth of the period after an image before it computes.",
        ),
        table("Control loop", rows),
    )


def costs(content: Content) -> Iterator[str]:
    """Seconds of each stage, real and imagined steps."""
    seconds, counted = content["json"]["seconds"], content["json"]["steps"]
    policy = content["curves"].get("policy") or [{}]
    alone = int(counted.get("imagined_local", policy[-1].get("local_steps", 0)))
    steps = {"real": counted["real"]}
    if alone:
        steps["imagined, local model"] = alone
    steps["imagined, global model"] = counted["imagined"]
    total = figures.duration(sum(v for k, v in seconds.items() if k != "total"))
    text = (
        f"The whole run took {total}. The robot was touched only to record before and to evaluate "
        f"after. The policy has seen {alone + counted['imagined']:,} imagined control steps; all "
        f"that the models know comes from {counted['real']:,} real ones."
    )
    return _section(
        "costs",
        paragraph(text),
        picture(
            functools.partial(figures.costs, seconds, steps),
            "Bars of the seconds that each stage took, and bars of real and imagined steps.",
            "Wall-clock time of each stage on this machine, in the order in which they ran. "
            "Pre-training of the world models is part of what the policy cost.",
        ),
    )


def provenance(report: Content, figures_text: str) -> Iterator[str]:
    """Hashes, the account of the data, versions, settings, and all figures."""
    data = report.get("data") or {}
    origin = [
        ("task", task_of(report)["name"]),
        ("task hash", task_of(report).get("hash", "–")),
        ("data hash", data.get("hash", "–")),
        ("recorded episodes", data.get("episodes", "–")),
        ("transitions", data.get("transitions", "–")),
        *((f"episode border: {why}", n) for why, n in (data.get("breaks") or {}).items()),
    ]
    parts = [table("Origin", origin)]
    topics = _topics(data)
    if topics:
        header = ("topic", "received", "used", "superseded", "reordered", "dropped")
        parts.append(table("Messages of the recordings", topics, header, numbers=True))
    parts.append(
        beside(
            table(title, [(k.replace("_", " "), v) for k, v in (report.get(key) or {}).items()])
            for key, title in (("versions", "Versions"), ("settings", "Settings"))
            if report.get(key)
        )
    )
    parts.append(folded("All figures (report.json)", figures_text))
    return _section("provenance", *parts)


def _topics(data: Mapping[str, Any]) -> list[list[object]]:
    """The account of every topic, over all bags."""
    keys = ("received", "used", "superseded", "reordered", "dropped")
    sums: dict[str, dict[str, int]] = {}
    for bag in data.get("bags") or ():
        for topic, account in bag.get("topics", {}).items():
            row = sums.setdefault(topic, dict.fromkeys(keys, 0))
            for key in keys:
                row[key] += account.get(key, 0)
    return [[topic, *(f"{n:,}" for n in row.values())] for topic, row in sums.items()]


def task_of(report: Content) -> Mapping[str, Any]:
    """Name and, where known, hash of the task."""
    task = report["task"]
    return task if isinstance(task, Mapping) else {"name": str(task)}


def _control_hz(content: Content) -> float:
    return float(content["closed_loop"]["policy"]["control_hz"])


def _change(values: list[float]) -> str:
    """Means of the first and of the last tenth."""
    count = max(1, len(values) // 10)
    first, last = (sum(part) / count for part in (values[:count], values[-count:]))
    return f"{first:.2f} to {last:.2f}"
