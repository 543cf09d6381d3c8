"""Random numbers of a divided batch: the parts, put together, are those of the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fog_world_model.training.global_draws import GlobalDraws

BATCH, ROWS = 12, 3


def channels_last(rows: int) -> Tensor:
    return torch.zeros(rows, 2, 5, 3).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "draw",
    [
        torch.randn,
        lambda rows: torch.randn(rows, 3, 1, 1, device="cpu"),
        lambda rows: torch.randn((rows, 7), dtype=torch.float64),
        lambda rows: torch.randn(size=(rows, 7)),
        lambda rows: torch.rand(torch.zeros(rows, 9).shape[:2]),
        lambda rows: torch.rand(rows * 5, 4),  # [batch, time] flattened
        lambda rows: torch.randn_like(torch.zeros(rows, 5)),
        lambda rows: torch.rand_like(input=torch.zeros(rows, 5), dtype=torch.float64),
        lambda rows: torch.randn_like(channels_last(rows)),
        lambda rows: F.dropout(torch.ones(rows, 40), 0.3),
        lambda rows: nn.Dropout(0.5)(torch.ones(rows, 4, 4)),
    ],
)
def test_parts_are_the_whole(draw: Callable[[int], Tensor]) -> None:
    torch.manual_seed(5)
    whole, after = draw(BATCH), torch.get_rng_state()
    parts = []
    for first in range(0, BATCH, ROWS):
        torch.manual_seed(5)
        with GlobalDraws(first, ROWS, BATCH):
            parts.append(draw(ROWS))
        assert torch.equal(torch.get_rng_state(), after)  # the processes stay in step
    assert torch.equal(torch.cat(parts), whole)
    assert parts[0].dtype == whole.dtype
    assert not torch.equal(parts[0], parts[1])


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()), lambda: torch.randn(4, 2), lambda: torch.randn(0, 2)]
)
def test_what_has_no_batch_axis_is_the_same_for_all(draw: Callable[[], Tensor]) -> None:
    torch.manual_seed(5)
    expected = draw()
    for first in (0, 9):
        torch.manual_seed(5)
        with GlobalDraws(first, ROWS, BATCH):
            assert torch.equal(draw(), expected)


def test_what_is_left_alone() -> None:
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    before = torch.get_rng_state()
    with GlobalDraws(3, ROWS, BATCH):
        own = torch.randn(ROWS, generator=generators[0])
        kept = F.dropout(torch.ones(ROWS, 4), 0.5, training=False)
    assert torch.equal(own, torch.randn(ROWS, generator=generators[1]))
    assert torch.equal(kept, torch.ones(ROWS, 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randint(5, (ROWS,)),
        lambda: torch.randperm(ROWS),
        lambda: torch.zeros(ROWS).normal_(),
        lambda: torch.bernoulli(torch.full((ROWS,), 0.5)),
        lambda: torch.distributions.Normal(torch.zeros(ROWS), 1.0).sample(),
        lambda: nn.Dropout2d()(torch.ones(ROWS, 2, 4, 4)),
    ],
)
def test_what_would_differ_silently_is_refused(draw: Callable[[], Tensor]) -> None:
    with (
        pytest.raises(NotImplementedError, match=r"in a loss: not divided"),
        GlobalDraws(0, ROWS, BATCH),
    ):
        draw()


def test_gradients_pass_through_dropout() -> None:
    torch.manual_seed(0)
    x = torch.ones(ROWS, 50, requires_grad=True)
    with GlobalDraws(6, ROWS, BATCH):
        y = F.dropout(x, 0.5)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # 0 where dropped, 2 elsewhere
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}
