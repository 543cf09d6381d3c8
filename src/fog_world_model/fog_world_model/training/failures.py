"""What went wrong in a training step: memory, or a batch whose loss or gradient is not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fog_world_model.errors import FogError


def rows_of(batch: Any, rows: slice) -> Any:
    """Some rows of a batch: of a tensor, or of every tensor of a dataclass such as ``Windows``."""
    if isinstance(batch, Tensor):
        return batch[rows]
    changes = {
        field.name: getattr(batch, field.name)[rows]
        for field in dataclasses.fields(batch)
        if isinstance(getattr(batch, field.name), Tensor)
    }
    return dataclasses.replace(batch, **changes)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the processor or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("not enough memory", "can't allocate memory", "out of memory")
    )


@contextmanager
def out_of_memory_named(
    batch_size: int, processes: int, parts: int, device: torch.device
) -> Iterator[None]:
    """Turn out-of-memory into a message that says which settings to lower.

    Raises:
        FogError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise FogError(
            f"out of {'GPU' if device.type == 'cuda' else 'CPU'} memory with "
            f"{batch_size // (processes * parts)} windows at a time (--batch-size {batch_size} in "
            f"{processes} process(es) of {parts} part(s)): raise --accumulate to {2 * parts} (the "
            "same result with less memory), lower --batch-size, or take a smaller --preset. The "
            "last checkpoint is whole"
        ) from error


def rows_at_fault(
    model: nn.Module, loss: Callable[[Any], dict[str, Tensor]], batch: Any, count: int
) -> Tensor:
    """Find the rows whose own loss or gradient is not finite.

    Args:
        model: What is trained; its gradients are left alone.
        loss: Batch -> losses; ``total`` is looked at.
        batch: The batch.
        count: Rows in it.

    Returns:
        ``[count]``, uint8, 1 where a row is at fault.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    faults = torch.zeros(count, dtype=torch.uint8)
    for row in range(count):
        try:
            with torch.enable_grad():
                total = loss(rows_of(batch, slice(row, row + 1)))["total"]
                gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        except (RuntimeError, ValueError):  # a layer that needs several rows
            return faults
        values = [total, *(g for g in gradients if g is not None)]
        faults[row] = not all(bool(torch.isfinite(value).all()) for value in values)
    return faults
