"""The processes that train one model together, and each one's share of the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from fog_world_model.errors import FogError


def device_of(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ... -> a device.

    Raises:
        FogError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise FogError(f"--device {name}: not available here: {error}") from error
    return torch.device(name)


def mixed_precision(name: str, device: torch.device) -> str:
    """``auto``, ``bf16`` or ``no`` -> what accelerate is told; bf16 where a GPU computes in it.

    Raises:
        FogError: The name is none of these.
    """
    if name not in ("auto", "bf16", "no"):
        raise FogError(f"--precision {name}: expected auto, bf16 or no")
    if name != "auto":
        return name
    # Emulated bf16 (before Ampere) is slower than float32.
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_it else "no"


class Processes:
    """This process among those that ``accelerate launch`` or ``torchrun`` started, or alone."""

    def __init__(self, device: str, precision: str) -> None:
        """Find the others.

        Raises:
            FogError: The device or the precision is not available, or the others are not found.
        """
        wanted = device_of(device)
        if wanted.type == "cuda" and wanted.index is not None:
            torch.cuda.set_device(wanted)  # accelerate takes the current one
        torch.backends.cudnn.benchmark = wanted.type == "cuda"  # shapes stay the same
        self.precision = mixed_precision(precision, wanted)
        # accelerate keeps one state per program, and refuses a second training with another one.
        AcceleratorState._reset_state(not torch.distributed.is_initialized())
        try:
            self.accelerator = Accelerator(
                cpu=wanted.type == "cpu",
                mixed_precision=self.precision,
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
            )
        except (RuntimeError, ValueError) as error:
            rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
            raise FogError(
                f"training process {rank} of {count}: cannot find the others: {error}"
            ) from error
        self.device: torch.device = self.accelerator.device
        self.index: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def share(self, batch: int, parts: int) -> slice:
        """Rows of the batch that this process computes, in ``parts`` equal parts.

        Raises:
            FogError: The batch cannot be divided evenly.
        """
        if parts < 1 or batch < 1 or batch % (self.count * parts):
            raise FogError(
                f"--batch-size {batch}: cannot be divided evenly over {self.count} process(es) "
                f"and {parts} part(s) in each (--accumulate); choose a multiple of "
                f"{self.count * max(parts, 1)}"
            )
        each = batch // self.count
        return slice(each * self.index, each * (self.index + 1))

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on this process's device, its gradients averaged over all processes."""
        prepared: nn.Module = self.accelerator.prepare(model)
        return prepared

    def agree(self, seconds: float, stopped: bool) -> tuple[float, bool]:
        """The time of the main process, and whether any process is to stop."""
        if self.count == 1:
            return seconds, stopped
        said = torch.tensor([seconds * self.main, float(stopped)], device=self.device).double()
        torch.distributed.all_reduce(said)
        now, stops = said.tolist()
        return now, stops > 0

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Means of scalars over all processes."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.count > 1:
            torch.distributed.all_reduce(stacked)
            stacked /= self.count
        return dict(zip(values, stacked.tolist(), strict=True))

    def gather_rows(self, mine: Tensor) -> Tensor:
        """Flags of each process's rows as those of the whole batch, ``[row]``, uint8."""
        if self.count == 1:
            return mine
        all_rows = [torch.empty_like(mine) for _ in range(self.count)]
        torch.distributed.all_gather(all_rows, mine)
        return torch.cat(all_rows)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the failure of another process into a message; part from the others at the end.

        Raises:
            FogError: Another process is gone.
        """
        try:
            yield
            if self.count > 1:
                self.accelerator.wait_for_everyone()
                torch.distributed.destroy_process_group()
        except RuntimeError as error:
            if self.count == 1 or not _is_lost_contact(error):
                raise
            raise FogError(
                f"training process {self.index} of {self.count}: lost the others; one of them has "
                "ended, see its message. The last checkpoint is whole"
            ) from error
        except FogError as error:
            if self.count == 1 or self.main:
                raise
            raise FogError(f"training process {self.index} of {self.count}: {error}") from error


def _is_lost_contact(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error)
    return any(word in text for word in ("gloo", "NCCL", "Connection closed", "Connection reset"))
