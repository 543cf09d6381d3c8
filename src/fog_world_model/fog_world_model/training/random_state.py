"""The states of all global random generators, as tensors for a checkpoint."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

_PREFIX = "random."


def capture(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators (processor, and GPU if ``device`` is one), NumPy's, Python's."""
    # The old global generator of NumPy is not used here, but a library might.
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    assert kind == "MT19937"
    version, words, next_gauss = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_rest": torch.tensor(
            [version, next_gauss is not None, next_gauss or 0.0], dtype=torch.float64
        ),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {_PREFIX + name: state for name, state in states.items()}


def restore(states: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`capture` returned.

    A state of a GPU's generator is put back where there is a GPU; training that moves between the
    processor and a GPU goes on, with other random numbers.

    Raises:
        KeyError: One of them is missing.
    """
    torch.set_rng_state(states[_PREFIX + "torch"])
    position, has_gauss, gauss = states[_PREFIX + "numpy_rest"].tolist()
    keys = states[_PREFIX + "numpy"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        ("MT19937", keys, int(position), int(has_gauss), gauss)
    )
    version, has_gauss, gauss = states[_PREFIX + "python_rest"].tolist()
    words = tuple(int(word) for word in states[_PREFIX + "python"].tolist())
    random.setstate((int(version), words, gauss if has_gauss else None))
    if device.type == "cuda" and _PREFIX + "cuda" in states:
        torch.cuda.set_rng_state(states[_PREFIX + "cuda"], device)
