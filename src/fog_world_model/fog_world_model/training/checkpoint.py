"""Checkpoints: a folder of safetensors and a JSON manifest; no pickle, never half-written."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fog_world_model.data.episodes import Normalisation
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict

FORMAT = 1
MANIFEST = "manifest.json"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a checkpoint depends on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "diffusers", "accelerate", "numpy", "safetensors", "zarr"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_commit() -> str:
    """Git commit of the sources, or ``unknown`` outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's manifest, and where its tensors are."""

    path: Path
    manifest: dict[str, Any]

    @property
    def task(self) -> TaskConfig:
        """The task it was made for."""
        return task_from_dict(self.manifest["task"], source=f"checkpoint {self.path}")

    @property
    def normalisation(self) -> Normalisation:
        """How its proprioception is normalised."""
        return Normalisation.from_dict(self.manifest["normalisation"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Load one set of tensors (``model``, ``ema``, ``training``).

        Raises:
            FogError: The file is missing or damaged.
        """
        file = self.path / f"{name}.safetensors"
        try:
            return load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise FogError(f"checkpoint file {file}: cannot be read: {error}") from error

    def load_into(self, model: nn.Module, name: str = "ema") -> None:
        """Load weights into a model of the same configuration.

        Raises:
            FogError: A weight is missing, superfluous or of another shape.
        """
        try:
            model.load_state_dict(self.tensors(name))
        except RuntimeError as error:
            raise FogError(f"checkpoint {self.path}: does not fit the model: {error}") from error


def save_checkpoint(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Mapping[str, Tensor]],
    manifest: Mapping[str, Any],
) -> None:
    """Write a checkpoint aside and swap it in, so that ``path`` is whole at any moment.

    Args:
        path: The checkpoint's folder; an older one there is replaced.
        tensors: File name without suffix -> tensors.
        manifest: Everything else, as JSON values.

    Raises:
        FogError: It cannot be written, for example because the disk is full; the older checkpoint
            stays as it was.
    """
    path = Path(path)
    part, old = path.with_name(path.name + ".part"), path.with_name(path.name + ".old")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, values in tensors.items():
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in values.items()},
                part / f"{name}.safetensors",
            )
        content = {"format": FORMAT, "versions": versions(), "commit": source_commit(), **manifest}
        (part / MANIFEST).write_text(json.dumps(content, indent=1))
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        part.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise FogError(f"checkpoint {path}: cannot be written: {error}") from error


def open_checkpoint(
    path: str | os.PathLike[str], kind: str, task: TaskConfig | None = None
) -> Checkpoint:
    """Open a checkpoint and check what it is.

    Args:
        path: The checkpoint's folder.
        kind: ``global``, ``local`` or ``policy``.
        task: When given, the checkpoint must belong to this task.

    Raises:
        FogError: It is missing, damaged, of another kind, format or task.
    """
    path = Path(path)
    old = path.with_name(path.name + ".old")
    if not path.exists() and old.exists():  # killed between the two renames
        old.rename(path)
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FogError(
            f"checkpoint {path}: has no {MANIFEST} ({error.strerror}); "
            f"make one with 'fog train {kind}'"
        ) from error
    except ValueError as error:  # not JSON, or not even text
        raise FogError(f"checkpoint file {file}: not valid JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise FogError(f"checkpoint file {file}: not a manifest but {type(manifest).__name__}")
    for key, expected in (("format", FORMAT), ("kind", kind)):
        if manifest.get(key) != expected:
            raise FogError(
                f"checkpoint {path}: {key} is {manifest.get(key)!r}, expected {expected!r}"
            )
    if missing := {"task", "normalisation"} - set(manifest):
        raise FogError(f"checkpoint file {file}: {', '.join(sorted(missing))} is missing")
    checkpoint = Checkpoint(path, manifest)
    if task is not None:
        task.require_same(checkpoint.task, f"checkpoint {path}")
    return checkpoint
