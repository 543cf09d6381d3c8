"""A bundle for a repository: whole, checked, and small enough."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save

from fog_policy.bundle import WEIGHTS, Bundle, load_bundle, write_weights
from fog_world_model.errors import FogError
from fog_world_model.training.checkpoint import MANIFEST
from fog_world_model.training.export import LARGEST_FILE, PRECISIONS, rounded


def copy_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str | None = None,
    largest: int = LARGEST_FILE,
) -> Bundle:
    """Write a bundle anew elsewhere, if its weights are those that were exported.

    Args:
        bundle: The bundle's folder.
        output: Folder to write; an older bundle there is replaced.
        precision: ``float16`` or ``bfloat16`` rounds matrices and convolutions, which makes
            another policy of it, if only slightly: it has to be evaluated again. None: the weights
            stay as they are, bit for bit, and so does their hash.
        largest: Bytes that the whole bundle does not exceed.

    Returns:
        The bundle that was written; its manifest says how it was made, as the first one's does.

    Raises:
        FogError: The bundle is damaged or was changed since its export, a weight is no finite
            number or does not fit float16, all together are too large, or nothing can be written;
            what was in ``output`` is then as it was.
    """
    if precision is not None and precision not in PRECISIONS:
        raise FogError(f"--precision {precision}: known are {', '.join(PRECISIONS)}")
    found = load_bundle(bundle)
    if Path(output).resolve() == Path(bundle).resolve():
        raise FogError(f"export {output}: is the bundle itself; choose another folder")
    found.networks()
    weights = found.checkpoint.tensors(WEIGHTS)
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise FogError(f"bundle {bundle}: weight {name} is not finite; train the policy again")
    manifest = found.manifest
    if precision is not None:
        weights = {k: rounded(k, v, PRECISIONS[precision]) for k, v in weights.items()}
        manifest = {**manifest, "exported": {"precision": precision}}
    size = len(save(weights)) + (found.checkpoint.path / MANIFEST).stat().st_size
    if size > largest:
        advice = "a smaller local model makes a smaller one"
        if precision is None:
            advice = f"--precision float16 makes it smaller; evaluate what that writes, or {advice}"
        raise FogError(
            f"bundle {bundle}: {size / 1e6:.1f} MB are more than {largest / 1e6:g}; {advice}"
        )
    return write_weights(weights, output, manifest)
