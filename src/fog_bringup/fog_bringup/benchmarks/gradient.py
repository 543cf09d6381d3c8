"""What one update of the policy costs: the global forward alone, decoupled, and full.

``global_forward`` imagines the horizon and nothing else. ``decoupled`` is the gradient of the actor
by :mod:`fog_policy.decoupled_gradient`. ``full_backprop`` is the gradient of the same objective by
back-propagation through everything: encoder and posterior of the local model, outcome head, and
every denoising step. See :mod:`fog_bringup.benchmarks.gradient_update`.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
import torch

from fog_bringup.benchmarks.device_name import device_name
from fog_bringup.benchmarks.gradient_update import Setting, Update
from fog_bringup.progress import progress_bar
from fog_policy.decoupled_gradient import rollout
from fog_world_model.errors import FogError
from fog_world_model.global_model.presets import PRESETS
from fog_world_model.training.loop import device_of

WAYS = ("global_forward", "decoupled", "full_backprop")
AT_MOST = 1.3
"""The decoupled gradient may cost so many times the global forward alone."""
SHARE_OF_MEMORY = 0.6
"""A process that asks for more than this share of the free memory is told that there is none."""
MB = 2**20
_NO_MEMORY = ("memory", "alloc", "could not create")
"""What errors for want of memory say; the last is oneDNN's."""


def measure(
    setting: Setting, *, denoising_steps: Sequence[int], repeats: int, threads: int
) -> dict[str, Any]:
    """Time and peak memory of one update in three ways.

    Times are medians of updates in turns, after one of each that does not count. Memory is that of
    a fresh process that does one update: on a processor the peak of its resident set above what it
    was when everything was loaded, on a GPU the peak of what PyTorch allocated above the same.

    Args:
        setting: The update; ``device`` may be ``auto``.
        denoising_steps: Numbers of denoising steps for which memory is compared.
        repeats: Measured updates of each way.
        threads: Of PyTorch; 0 leaves its own choice.

    Returns:
        ``global_forward``, ``decoupled`` and ``full_backprop``, each with ``seconds`` and
        ``peak_mb`` (MiB), none with a ``reason`` where it does not fit; in ``decoupled`` also
        ``parts``, the seconds of each part. ``decoupled_over_global_forward`` (the median over the
        turns of the ratio within one), ``at_most`` and ``enough``; ``share_in_global_forward`` of
        the decoupled update; ``peak_mb_by_denoising_steps``: for each number ``decoupled`` and
        ``full_backprop``.

    Raises:
        FogError: The preset or device does not exist, a number is not positive, or not even the
            decoupled update fits into memory.
    """
    if setting.preset not in PRESETS:
        raise FogError(f"--preset {setting.preset}: expected one of {', '.join(PRESETS)}")
    numbers = (setting.environments, setting.horizon, repeats, *denoising_steps)
    if min(numbers) < 1:
        raise FogError(
            "--environments, --horizon, --repeats and --denoising-steps: expected 1 or more, "
            f"got {setting.environments}, {setting.horizon}, {repeats} and {list(denoising_steps)}"
        )
    place = device_of(setting.device)
    own = setting.steps or PRESETS[setting.preset][1].steps
    setting = replace(setting, device=str(place), steps=own)
    jobs = [(way, own) for way in WAYS]
    jobs += [(way, n) for n in denoising_steps for way in WAYS[1:] if n != own]
    peaks: dict[tuple[str, int], float | str] = {}
    before = torch.get_num_threads()
    with progress_bar() as report:
        for i, (way, steps) in enumerate(jobs):
            report("memory", i, len(jobs))
            peaks[way, steps] = _peak_mb(replace(setting, steps=steps), way, threads)
        report("memory", len(jobs), len(jobs))
        try:
            torch.set_num_threads(threads or before)
            fits = not isinstance(peaks["full_backprop", own], str)
            times = _times(setting, fits, repeats, report)
            used = torch.get_num_threads()
        finally:
            torch.set_num_threads(before)
    figures: dict[str, Any] = {
        "device": device_name(place),
        "threads": used if place.type == "cpu" else None,
        "torch": torch.__version__,
        "preset": setting.preset,
        "side": setting.side,
        "precision": setting.precision,
        "environments": setting.environments,
        "horizon": setting.horizon,
        "denoising_steps": own,
        "repeats": repeats,
    }
    for way in WAYS:
        figures[way] = {"seconds": times.seconds.get(way), "peak_mb": _number(peaks[way, own])}
        if isinstance(reason := peaks[way, own], str):
            figures[way]["reason"] = reason
    figures["decoupled"]["parts"] = times.parts
    figures |= {
        "decoupled_over_global_forward": times.ratio,
        "at_most": AT_MOST,
        "enough": times.ratio <= AT_MOST,
        "share_in_global_forward": times.parts["global_forward"] / sum(times.parts.values()),
        "peak_mb_by_denoising_steps": {
            str(n): {way: _number(peaks[way, n]) for way in WAYS[1:]} for n in denoising_steps
        },
    }
    return figures


def _number(peak: float | str) -> float | None:
    return None if isinstance(peak, str) else peak


@dataclass(frozen=True)
class _Times:
    """Medians."""

    seconds: dict[str, float]
    """Of each way."""
    ratio: float
    """Decoupled over global forward, of updates one after the other."""
    parts: dict[str, float]
    """Seconds of each part of a decoupled update."""


def _times(
    setting: Setting, full: bool, repeats: int, report: Callable[[str, int, int], None]
) -> _Times:
    update, place = Update(setting), torch.device(setting.device)
    ways: dict[str, Callable[[], object]] = {
        "global_forward": update.global_forward,
        "decoupled": update.decoupled,
    }
    if full:
        ways["full_backprop"] = update.full_backprop
    spent: dict[str, list[float]] = {name: [] for name in ways}
    pieces: list[dict[str, float]] = []
    for turn in range(repeats + 1):
        report("time", turn, repeats + 1)
        for name, way in ways.items():
            begin = _now(place)
            way()
            spent[name].append(_now(place) - begin)
        pieces.append(_in_parts(update, place))
    report("time", repeats + 1, repeats + 1)
    counted = {name: seconds[1:] for name, seconds in spent.items()}
    return _Times(
        {name: median(seconds) for name, seconds in counted.items()},
        median(
            ours / alone
            for ours, alone in zip(counted["decoupled"], counted["global_forward"], strict=True)
        ),
        {name: median([p[name] for p in pieces[1:]]) for name in pieces[0]},
    )


def _in_parts(update: Update, place: torch.device) -> dict[str, float]:
    """Seconds of the parts of a decoupled update; on a GPU the device is waited for after each."""
    spent = dict.fromkeys(["global_forward", "posterior", "prior", "reward", "actor"], 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begin = _now(place)
            result = function(*arguments)
            spent[name] += _now(place) - begin
            return result

        return run

    begin = _now(place)
    env, latent = update.env, update.latent
    world: Any = SimpleNamespace(step=timed("global_forward", env.step), restart=env.restart)
    local: Any = SimpleNamespace(
        predict=timed("prior", latent.predict),
        correct=timed("posterior", latent.correct),
        reward=timed("reward", latent.reward),
        start=latent.start,
    )
    flow = rollout(timed("actor", update.actor), world, local, update.state, update.noise)
    value = update.value(flow)
    middle = _now(place)
    torch.autograd.grad(value, list(update.actor.parameters()))
    end = _now(place)
    return {**spent, "other": middle - begin - sum(spent.values()), "backward": end - middle}


def _now(place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter()


def _peak_mb(
    setting: Setting, way: str, threads: int, share: float = SHARE_OF_MEMORY
) -> float | str:
    """Peak memory of one update in a fresh process, or why there is none.

    Raises:
        FogError: Not even an update without full back-propagation could be done.
    """
    # The server has imported everything and computed nothing: each child is as a new process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(setting, way, threads, share, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        answer: float | str = mine.recv()
    except EOFError:
        child.join()
        answer = f"the process that did it was ended (exit status {child.exitcode})"
    finally:
        mine.close()
    child.join()
    if isinstance(answer, str) and way != "full_backprop":
        raise FogError(
            f"one update ({way}) with {setting.environments} environments and horizon "
            f"{setting.horizon} cannot be done here: {answer}; lower --environments or --horizon"
        )
    return answer


def _child(setting: Setting, way: str, threads: int, share: float, answer: Connection) -> None:
    try:
        if threads:
            torch.set_num_threads(threads)
        answer.send(_measured_peak(Update(setting), way, share))
    except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not isinstance(error, MemoryError) and not any(w in text for w in _NO_MEMORY):
            raise
        answer.send(f"out of memory: {text}")
    except KeyboardInterrupt:
        pass
    finally:
        answer.close()


def _measured_peak(update: Update, way: str, share: float) -> float:
    run: Callable[[], object] = getattr(update, way)
    if update.noise.device.type == "cuda":
        place = update.noise.device
        allocated = torch.cuda.memory_allocated(place)
        run()  # compiles; what that needs for itself is not part of an update
        torch.cuda.reset_peak_memory_stats(place)
        run()
        return (torch.cuda.max_memory_allocated(place) - allocated) / MB
    room = int(share * psutil.virtual_memory().available)
    size = psutil.Process().memory_info().vms
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + room, hard))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _status_mb("VmRSS")
    run()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` (its peak) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise FogError(f"/proc/self/status has no {field}; memory can be measured on Linux only")
