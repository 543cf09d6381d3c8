"""Tasks by name and by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from fog_bringup.tasks import find_task, task_names
from fog_world_model.errors import FogError


def test_find_task_by_name_and_by_path(tmp_path: Path) -> None:
    assert {"reach_cube", "push_cube", "pusht"} <= set(task_names())
    path = tmp_path / "mine.yaml"
    task = find_task("reach_cube")
    task.save(path)
    assert find_task(path).hash == task.hash
    for name in task_names():
        assert find_task(name).name == name


@pytest.mark.parametrize("name", ["no_such_task", "folder/no_such_file.yaml"])
def test_find_task_lists_what_there_is(name: str) -> None:
    with pytest.raises(FogError, match=f"{name}.*push_cube, .*pusht, .*reach_cube"):
        find_task(name)
