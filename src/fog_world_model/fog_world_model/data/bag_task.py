"""Which task bags were recorded for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.store_index import read_index
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict


def task_for_import(
    bags: Sequence[str | os.PathLike[str]], store: str | os.PathLike[str]
) -> TaskConfig:
    """The task that nobody has to name: the store's, or for a new store that of all the bags.

    Args:
        bags: rosbag2 folders.
        store: Episode store; it need not exist.

    Raises:
        FogError: A bag carries no task, or the bags carry different ones; the message asks to name
            one.
    """
    if (Path(store) / "index.json").exists():
        return read_index(Path(store))[0].task
    found: dict[str, tuple[Path, TaskConfig]] = {}
    for path in map(Path, bags):
        with BagReader(path) as bag:
            content = bag.custom.get("fog_task", "")
        if not content:
            raise FogError(
                f"bag {path}: does not say which task it was recorded for (fog_recorder_node did "
                "not make it); name the task with --task"
            )
        try:
            task = task_from_dict(yaml.safe_load(content), source=f"bag {path}: its task")
        except (yaml.YAMLError, FogError) as error:
            raise FogError(
                f"bag {path}: the task that it carries is not of this version ({error}); name the "
                "task with --task"
            ) from error
        found.setdefault(task.hash, (path, task))
    if not found:
        raise FogError("fog import: name at least one bag")
    if len(found) > 1:
        (one, first), (other, second), *_ = found.values()
        same = first.name == second.name
        names = f"versions of task '{first.name}'" if same else f"'{first.name}', '{second.name}'"
        raise FogError(
            f"bags {one} and {other} were recorded for different tasks ({names}); import them into "
            "stores of their own, or name the task with --task"
        )
    return next(task for _, task in found.values())
