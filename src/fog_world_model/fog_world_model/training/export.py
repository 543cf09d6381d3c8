"""Weights for use alone: averaged, in 16 bits, in files small enough for a repository."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from fog_world_model.errors import FogError
from fog_world_model.training.checkpoint import open_checkpoint, save_checkpoint

LARGEST_FILE = 16_000_000
"""Bytes; what hosts of repositories and reviewers still take without complaint."""
PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_DROPPED = ("sampler", "averages", "curve")
"""Parts of the manifest that only the training needs."""


def export_weights(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str = "float16",
    largest_file: int = LARGEST_FILE,
) -> list[Path]:
    """Write the averaged weights of a world model in 16 bits, with the manifest of how it was made.

    Matrices and convolutions are rounded; vectors and scalars (biases, scales of norms), few and
    delicate, stay in float32. float16 is the more accurate of the two for weights, whose range is
    small; bfloat16 is what a model trained in it already is. What is written is opened with
    ``load_global`` and ``load_local`` as any checkpoint is, and computes in float32 again.

    Args:
        checkpoint: Folder of a global or local model's checkpoint.
        output: Folder to write.
        precision: ``float16`` or ``bfloat16``.
        largest_file: Bytes that no file exceeds.

    Returns:
        The files of weights.

    Raises:
        FogError: The checkpoint cannot be read, is of a policy (its bundle is what is deployed),
            a weight does not fit float16 or a file, or nothing can be written.
    """
    if precision not in PRECISIONS:
        raise FogError(f"--precision {precision}: known are {', '.join(PRECISIONS)}")
    found = open_checkpoint(checkpoint, None)
    manifest = found.manifest
    if manifest.get("kind") not in ("global", "local"):
        raise FogError(
            f"checkpoint {found.path}: kind is {manifest.get('kind')!r}, expected 'global' or "
            "'local'"
        )
    if Path(output).resolve() == Path(checkpoint).resolve():
        raise FogError(f"export {output}: is the checkpoint itself; choose another folder")
    tensors = {k: rounded(k, v, PRECISIONS[precision]) for k, v in found.tensors("ema").items()}
    groups = _groups(tensors, largest_file)
    names = [
        "ema" if len(groups) == 1 else f"ema-{i + 1:05d}-of-{len(groups):05d}"
        for i in range(len(groups))
    ]
    parts = dict(zip(names, groups, strict=True))
    save_checkpoint(
        output,
        parts,
        {
            **{k: v for k, v in manifest.items() if k not in _DROPPED},
            "exported": {
                "precision": precision,
                "losses": manifest.get("averages"),
                "parameters": sum(v.numel() for v in tensors.values()),
            },
            "parts": {"ema": names},
            "sha256": {k: hashlib.sha256(save(dict(v))).hexdigest() for k, v in parts.items()},
        },
    )
    return [Path(output) / f"{name}.safetensors" for name in names]


def rounded(name: str, value: Tensor, to: torch.dtype) -> Tensor:
    """A weight in 16 bits, if it is a matrix or a convolution; others stay as they are.

    Args:
        name: For the message.
        value: The weight, of any shape.
        to: ``torch.float16`` or ``torch.bfloat16``.

    Raises:
        FogError: A number is too large for it.
    """
    if not value.dtype.is_floating_point or value.dim() < 2:
        return value
    found = value.to(to)
    if not bool(torch.isfinite(found).all()):
        raise FogError(f"weight {name}: does not fit {to}; export with --precision bfloat16")
    return found


def _groups(tensors: Mapping[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """Tensors in their order, a group a file."""

    def size(name: str) -> int:
        # The header of a file spends some 100 bytes on a tensor besides its name.
        return tensors[name].numel() * tensors[name].element_size() + len(name) + 128

    for name in tensors:
        if size(name) > largest:
            raise FogError(
                f"weight {name}: {size(name)} bytes do not fit a file of {largest}; a smaller "
                "preset has smaller weights"
            )
    groups: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, value in tensors.items():
        if groups[-1] and used + size(name) > largest:
            groups.append({})
            used = 0
        groups[-1][name] = value
        used += size(name)
    return groups
