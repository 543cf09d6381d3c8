"""Random numbers that do not depend on how a batch is divided over processes and passes.

A loss draws its noise inside the model, from torch's global generator. If every process did so for
its own part of the batch, two processes would not compute what one computes. Instead all of them
hold the same generator state, each draws the numbers of the whole batch, and keeps the rows of its
part; the generators stay in step, so that one saved state is right for all of them, and for another
number of processes too. The numbers are cheap beside the networks that they go into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SIZED = (torch.randn, torch.rand)
_LIKE = (torch.randn_like, torch.rand_like)
_REFUSED = (
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch.poisson,
    torch.randint,
    torch.randint_like,
    torch.randperm,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.normal_,
    Tensor.random_,
    Tensor.uniform_,
    F.alpha_dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.feature_alpha_dropout,
    F.rrelu,
)


class GlobalDraws(TorchFunctionMode):
    """Within this context, random tensors are the given rows of those of the whole batch.

    The first axis of a random tensor must be the batch, or the batch and further axes flattened
    into one, batch outermost: its length then is a multiple of the part's. Scalars, and tensors
    whose first axis is no such multiple, are the same for all parts. A draw from a generator of
    its own is left alone. ``randn``, ``rand``, their ``_like`` and ``dropout`` are understood.

    Raises:
        NotImplementedError: Something else was drawn.
    """

    def __init__(self, first: int, rows: int, batch: int) -> None:
        """Take ``rows`` rows from ``first`` on of a batch of ``batch``, which ``rows`` divides."""
        super().__init__()
        self._first, self._rows, self._batch = first, rows, batch

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace what draws; pass on everything else."""
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in _SIZED:
            size = kwargs.pop("size", None) or args
            size = tuple(size[0]) if size and not isinstance(size[0], int) else tuple(size)
            return self._mine(func(self._whole(size), **kwargs), size)
        if func in _LIKE:
            like = args[0] if args else kwargs.pop("input")
            return self._mine(func(self._empty(like), **kwargs), like.shape)
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func in _REFUSED:
            raise NotImplementedError(
                f"{func.__name__} in a loss: not divided over processes and passes yet; "
                "draw with torch.rand or torch.randn"
            )
        return func(*args, **kwargs)

    def _shared(self, size: Sequence[int]) -> bool:
        return not size or size[0] == 0 or size[0] % self._rows != 0

    def _whole(self, size: Sequence[int]) -> tuple[int, ...]:
        if self._shared(size):
            return tuple(size)
        return (size[0] // self._rows * self._batch, *size[1:])

    def _mine(self, drawn: Tensor, size: Sequence[int]) -> Tensor:
        if self._shared(size):
            return drawn
        each = size[0] // self._rows
        return drawn[each * self._first : each * (self._first + self._rows)]

    def _empty(self, like: Tensor) -> Tensor:
        """A tensor of the whole batch's size, laid out in memory as ``like`` is."""
        layout = torch.contiguous_format
        if (
            like.dim() == 4
            and not like.is_contiguous()
            and like.is_contiguous(memory_format=torch.channels_last)
        ):
            layout = torch.channels_last
        return torch.empty(
            self._whole(like.shape), dtype=like.dtype, device=like.device, memory_format=layout
        )

    def _dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        kept = F.dropout(self._empty(input).fill_(1), p)
        factor = self._mine(kept, input.shape)
        return input.mul_(factor) if inplace else input * factor
