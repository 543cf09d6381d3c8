"""How many frames a second are imagined, and how that compares with DIAMOND's network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fog_bringup.benchmarks.device_name import device_name
from fog_bringup.benchmarks.diamond_network import DiamondNetwork
from fog_bringup.progress import progress_bar
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.windows import Windows
from fog_world_model.global_model.global_model import GlobalModel, preset
from fog_world_model.global_model.worlds import Precision
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.training.loop import device_of

SIDE, ACTION, PROPRIOCEPTION = 64, 2, 2
BATCHES = (1, 16, 64, 256)
REFERENCE_BATCHES = (1, 16)
ENOUGH = 1.5
"""Ours must be this many times as fast as the reference."""
LONGEST_STEP_S = 20.0


def measure(
    seconds: float,
    *,
    presets: Sequence[str] = ("small", "diamond", "large"),
    batches: Sequence[int] = BATCHES,
    device: str = "auto",
    compile_seconds: float = 300.0,
) -> dict[str, Any]:
    """Frames imagined per second at 64x64 by ImaginedEnv, with untrained weights.

    A frame is counted with all that belongs to it: every denoising step, reward, end and
    proprioception, and the environment around it. The reference is the network alone.

    Args:
        seconds: Length of each measurement. On a processor a batch is skipped of which one step
            would take longer than ten times that and than 20 s.
        presets: Which.
        batches: Environments side by side.
        device: Where.
        compile_seconds: Compiling on a processor takes minutes; no further model is compiled after
            so long. (On a GPU all are.)

    Returns:
        ``device``; ``peak``, GFLOP/s of a large matrix product and convolution per precision;
        ``presets.NAME``: ``parameters``, ``denoiser_parameters``, ``denoising_steps``,
        ``gflop_per_frame`` and for each ``batch.N``: ``eager_fps`` (in the precision that is
        faster, ``precision``), ``float32_fps``, ``compiled_fps`` with ``compile_s`` and
        ``share_of_peak`` of the fastest; what was not measured is none, with the reason in
        ``skipped``. ``reference``: see :func:`_reference`.
    """
    place = device_of(device)
    names: list[str] = ["reference", *presets]
    with progress_bar() as report:
        peak = _peak(place, seconds)
        figures: dict[str, Any] = {
            "device": device_name(place),
            "threads": torch.get_num_threads() if place.type == "cpu" else None,
            "torch": torch.__version__,
            "peak": peak,
            "presets": {},
        }
        report("measuring", 0, len(names))
        figures["reference"] = _reference(place, seconds)
        report("measuring", 1, len(names))
        compiling = _Budget(compile_seconds if place.type == "cpu" else float("inf"))
        for i, name in enumerate(presets):
            figures["presets"][name] = _preset(name, batches, place, seconds, peak, compiling)
            report("measuring", i + 2, len(names))
    return figures


class _Budget:
    """Seconds that may be spent on something."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds


def _preset(
    name: str,
    batches: Sequence[int],
    device: torch.device,
    seconds: float,
    peak: dict[str, dict[str, float]],
    compiling: _Budget,
) -> dict[str, Any]:
    model = _model(name, device)
    gflop = _gflop_per_frame(model, device)
    found: dict[str, Any] = {
        "parameters": _count(model),
        "denoiser_parameters": _count(model.denoiser),
        "denoising_steps": model.config.sampler.steps,
        "gflop_per_frame": gflop,
        "batch": {},
        "skipped": {},
    }
    fps = 0.0
    for batch in batches:
        if device.type == "cpu" and fps and batch / fps > max(10 * seconds, LONGEST_STEP_S):
            found["batch"][str(batch)] = None
            found["skipped"][str(batch)] = f"one step would take about {batch / fps:.0f} s"
            continue
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        rates = {p: _rate(_env(model, batch, device, p, False), seconds) for p in precisions}
        best: Precision = max(precisions, key=lambda p: rates[p])
        fps = rates[best]
        row: dict[str, Any] = {
            "precision": best,
            "eager_fps": fps,
            "float32_fps": rates["float32"],
            "compiled_fps": None,
            "compile_s": None,
        }
        if compiling.left > 0:
            # Variants of one function count together, and past eight none is compiled any more.
            torch.compiler.reset()
            env = _env(model, batch, device, best, True)
            begin = time.perf_counter()
            _step(env)
            row["compile_s"] = time.perf_counter() - begin
            compiling.left -= row["compile_s"]
            if _is_compiled(env):
                row["compiled_fps"] = _rate(env, seconds)
            else:
                found["skipped"][f"{batch} compiled"] = "torch.compile failed, see the log"
        else:
            found["skipped"][f"{batch} compiled"] = "the time for compiling was used up"
        fastest = max(fps, row["compiled_fps"] or 0.0)
        row["share_of_peak"] = gflop * fastest / max(peak[best].values())
        found["batch"][str(batch)] = row
    return found


def _reference(device: torch.device, seconds: float) -> dict[str, Any]:
    """DIAMOND's network in float32, eager, as written down, against our preset of its size.

    Returns:
        ``parameters``; for each ``batch.N``: ``fps``, ``forwards_per_second``, ``ours_fps`` and
        ``ours_float32_fps``, both eager, and their ratios; and of the batch where ours is least
        ahead ``fps``, ``ours_over_reference`` and ``enough`` (whether that is at least 1.5).
        The three are measured in turns.
    """
    torch.manual_seed(0)
    network = DiamondNetwork(ACTION).to(device).eval().requires_grad_(False)
    model = _model("diamond", device)
    rows: dict[str, Any] = {}
    for batch in REFERENCE_BATCHES:
        past = torch.rand(batch, 12, SIDE, SIDE, device=device) * 2 - 1
        actions = torch.rand(batch, 4, ACTION, device=device) * 2 - 1

        steps: dict[str, Callable[[], object]] = {
            "reference": partial(network.imagine, past, actions),
            "float32": partial(_step, _env(model, batch, device, "float32", False)),
            "bfloat16": partial(_step, _env(model, batch, device, "bfloat16", False)),
        }
        fps = {name: batch / s for name, s in _in_turns(steps, seconds, device).items()}
        ours = max(fps["float32"], fps["bfloat16"])
        rows[str(batch)] = {
            "fps": fps["reference"],
            "forwards_per_second": 3 * fps["reference"],
            "ours_fps": ours,
            "ours_float32_fps": fps["float32"],
            "ours_over_reference": ours / fps["reference"],
            "ours_float32_over_reference": fps["float32"] / fps["reference"],
        }
    least = min(rows.values(), key=lambda row: row["ours_over_reference"])
    return {
        "parameters": _count(network),
        "ours_parameters": _count(model.denoiser),
        "fps": least["fps"],
        "ours_over_reference": least["ours_over_reference"],
        "enough": least["ours_over_reference"] >= ENOUGH,
        "batch": rows,
    }


def _model(name: str, device: torch.device) -> GlobalModel:
    torch.manual_seed(0)
    config = preset(
        name, height=SIDE, width=SIDE, action_size=ACTION, proprioception_size=PROPRIOCEPTION
    )
    return GlobalModel(config).to(device).eval().requires_grad_(False)


def _env(
    model: GlobalModel, batch: int, device: torch.device, precision: Any, compiled: bool
) -> ImaginedEnv:
    length = model.context_frames
    windows = Windows(
        torch.rand(8, length, 3, SIDE, SIDE, device=device) * 2 - 1,
        torch.randn(8, length, PROPRIOCEPTION, device=device),
        torch.rand(8, length, ACTION, device=device) * 2 - 1,
        torch.zeros(8, length, device=device),
        torch.zeros(8, length, device=device),
    )
    env = ImaginedEnv(
        model,
        ContextBank(windows, seed=0),
        environments=batch,
        max_steps=10**6,
        seed=0,
        device=device,
        precision=precision,
        compiled=compiled,
    )
    env.restart()
    return env


def _step(env: ImaginedEnv) -> object:
    return env.step(torch.zeros(env.environments, ACTION, device=env.age.device))


def _is_compiled(env: ImaginedEnv) -> bool:
    return bool(getattr(env.worlds, "compiled", False))


def _rate(env: ImaginedEnv, seconds: float) -> float:
    """Frames per second: of the median step."""
    device = env.age.device
    times = _in_turns({"": partial(_step, env)}, seconds, device)
    return env.environments / times[""]


def _in_turns(
    steps: dict[str, Callable[[], object]], seconds: float, device: torch.device
) -> dict[str, float]:
    """Median seconds of each function, called in turns; each at least twice after a first time."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    begun, turns = time.perf_counter(), 0
    while turns < 2 or time.perf_counter() - begun < seconds * len(steps):
        turns += 1
        for name, step in steps.items():
            _wait(device)
            begin = time.perf_counter()
            step()
            _wait(device)
            spent[name].append(time.perf_counter() - begin)
    return {name: median(s) for name, s in spent.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak(device: torch.device, seconds: float) -> dict[str, dict[str, float]]:
    """GFLOP/s of a large matrix product and of a large convolution, the fastest of several."""
    side = 8192 if device.type == "cuda" else 2048
    found: dict[str, dict[str, float]] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left = torch.randn(side, side, device=device, dtype=dtype)
        layer: Any = nn.Conv2d(256, 256, 3, padding=1, bias=False, device=device, dtype=dtype)
        layer = layer.to(memory_format=torch.channels_last).requires_grad_(False)
        image = torch.randn(16, 256, 64, 64, device=device, dtype=dtype)
        image = image.to(memory_format=torch.channels_last)
        works: dict[str, tuple[Callable[[], object], float]] = {
            "matrix_product": (partial(torch.mm, left, left), 2.0 * side**3),
            "convolution": (partial(layer, image), 2.0 * 16 * 4096 * 9 * 256**2),
        }
        found[name] = {}
        for work, (call, flop) in works.items():
            call()
            best, begin = float("inf"), time.perf_counter()
            while time.perf_counter() - begin < min(seconds, 2.0) or best == float("inf"):
                _wait(device)
                start = time.perf_counter()
                call()
                _wait(device)
                best = min(best, time.perf_counter() - start)
            found[name][work] = flop / best / 1e9
    return found


def _gflop_per_frame(model: GlobalModel, device: torch.device) -> float:
    """Multiplications and additions of the plain model's step, counted at the operators."""
    env = _env(model, 1, device, "float32", False)
    state = env.worlds.state
    action = torch.zeros(1, ACTION, device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        model.step(state, action, generator)
    return float(counter.get_total_flops()) / 1e9


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
