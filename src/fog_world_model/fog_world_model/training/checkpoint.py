"""Checkpoints: a folder of safetensors and a JSON manifest; no pickle, never half-written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from fog_world_model.data.durable import sync_file, sync_folder
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
    return _source()[0]


def source_dirty() -> bool | None:
    """Whether the sources differ from their commit; None outside a checkout."""
    return _source()[1]


@cache  # the sources that count are those that were loaded, not what they are changed to later
def _source() -> tuple[str, bool | None]:
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.strip()

    try:
        # Installed sources may lie within a checkout of something else.
        git("ls-files", "--error-unmatch", here.name)
        commit = git("rev-parse", "HEAD")
        return commit, bool(git("status", "--porcelain", "--untracked-files=no", ":/src"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", None


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
        """Load one set of tensors (``model``, ``ema``, ``training``), from one file or several.

        Raises:
            FogError: A file is missing, damaged, or not the one that the manifest speaks of.
        """
        found: dict[str, Tensor] = {}
        for part in self.manifest.get("parts", {}).get(name, [name]):
            file = self.path / f"{part}.safetensors"
            try:
                if expected := self.manifest.get("sha256", {}).get(part):
                    content = file.read_bytes()
                    if hashlib.sha256(content).hexdigest() != expected:
                        raise FogError(
                            f"checkpoint file {file}: not the file that {MANIFEST} speaks of "
                            "(another SHA-256); fetch or export it again"
                        )
                    found |= load(content)
                else:
                    found |= load_file(file)
            except (OSError, safetensors.SafetensorError) as error:
                raise FogError(f"checkpoint file {file}: cannot be read: {error}") from error
        return found

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
    *,
    unchanged: Collection[str] = (),
) -> None:
    """Write a checkpoint aside, bring it to the disk and swap it in.

    Whenever the process or the machine stops, a whole checkpoint is left: at ``path``, or between
    two renames at ``path`` with ``.old`` after its name, where :func:`open_checkpoint` finds it.

    Args:
        path: The checkpoint's folder; an older one there is replaced.
        tensors: File name without suffix -> tensors.
        manifest: Everything else, as JSON values.
        unchanged: Names among ``tensors`` that the checkpoint at ``path`` holds already, just as
            they are: its files are taken over and not written again.

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
            file = path / f"{name}.safetensors"
            if name in unchanged and file.exists():
                _take_over(file, part / file.name)
                continue
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in values.items()},
                part / f"{name}.safetensors",
            )
        content = {
            "format": FORMAT,
            "versions": versions(),
            "commit": source_commit(),
            "dirty": source_dirty(),
            **manifest,
        }
        (part / MANIFEST).write_text(json.dumps(content, indent=1))
        mode = (part / MANIFEST).stat().st_mode
        for file in part.iterdir():
            # safetensors writes for its owner alone, whatever the umask: others may read as they
            # may read every other file that this user makes.
            file.chmod(mode)
            sync_file(file)
        sync_folder(part)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        part.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise FogError(
            f"checkpoint {path}: cannot be written: {error}; what was there before is whole. Make "
            "room and run it again"
        ) from error


def _take_over(file: Path, target: Path) -> None:
    """The same file under another name, or a copy where a file system cannot do that."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copy2(file, target)


def open_checkpoint(
    path: str | os.PathLike[str],
    kind: str | tuple[str, ...] | None,
    task: TaskConfig | None = None,
) -> Checkpoint:
    """Open a checkpoint and check what it is.

    Args:
        path: The checkpoint's folder.
        kind: ``global``, ``local``, ``policy`` or ``bundle``, or several of them, the usual one
            first; None takes any.
        task: When given, the checkpoint must belong to this task.

    Raises:
        FogError: It is missing, damaged, of another kind, format or task.
    """
    path = Path(path)
    kinds = (kind,) if isinstance(kind, str) else kind or ()
    old = path.with_name(path.name + ".old")
    # Killed between the two renames; or right between them, which is why nothing is moved here.
    if not path.exists() and old.exists():
        path = old
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FogError(
            f"checkpoint {path}: has no {MANIFEST} ({error.strerror}); "
            f"make one with 'fog train {kinds[0] if kinds else 'global'}'"
        ) from error
    except ValueError as error:  # not JSON, or not even text
        raise FogError(f"checkpoint file {file}: not valid JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise FogError(f"checkpoint file {file}: not a manifest but {type(manifest).__name__}")
    if manifest.get("format") != FORMAT:
        raise FogError(
            f"checkpoint {path}: format is {manifest.get('format')!r}, expected {FORMAT}; use the "
            f"version of this software that made it (commit {manifest.get('commit', 'unknown')}), "
            "or train it anew"
        )
    if kinds and manifest.get("kind") not in kinds:
        raise FogError(
            f"checkpoint {path}: kind is {manifest.get('kind')!r}, expected "
            f"{' or '.join(map(repr, kinds))}"
        )
    if missing := {"task", "normalisation"} - set(manifest):
        raise FogError(f"checkpoint file {file}: {', '.join(sorted(missing))} is missing")
    checkpoint = Checkpoint(path, manifest)
    if task is not None:
        task.require_same(checkpoint.task, f"checkpoint {path}")
    return checkpoint
