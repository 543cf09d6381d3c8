"""The task of an import that names none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fog_world_model.data.bag_task import task_for_import
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


def bag(path: Path, custom: dict[str, str]) -> Path:
    with BagWriter(path, custom):
        pass
    return path


def renamed(task: TaskConfig, name: str) -> TaskConfig:
    return dataclasses.replace(task, name=name)


def test_bags_say_what_they_were_recorded_for(tmp_path: Path, tiny_task: TaskConfig) -> None:
    task = renamed(tiny_task, "another")
    bags = [bag(tmp_path / n, task_custom_data(task)) for n in "ab"]
    assert task_for_import(bags, tmp_path / "store") == task


def test_a_store_says_it_whatever_the_bags_carry(tmp_path: Path, coded_store: EpisodeStore) -> None:
    bags = [bag(tmp_path / "a", task_custom_data(renamed(coded_store.task, "another")))]
    assert task_for_import(bags, coded_store.path).hash == coded_store.task.hash


def test_what_cannot_be_known_is_asked_for(tmp_path: Path, tiny_task: TaskConfig) -> None:
    silent = bag(tmp_path / "silent", {})
    mine = bag(tmp_path / "mine", task_custom_data(tiny_task))
    faster = bag(
        tmp_path / "faster", task_custom_data(dataclasses.replace(tiny_task, control_hz=2.5))
    )
    other = bag(tmp_path / "other", task_custom_data(renamed(tiny_task, "another")))
    broken = bag(tmp_path / "broken", {"fog_task": "name: [", "fog_task_hash": ""})
    store = tmp_path / "store"
    with pytest.raises(FogError, match=r"silent: does not say which task.*--task"):
        task_for_import([mine, silent], store)
    with pytest.raises(FogError, match=rf"'{tiny_task.name}', 'another'.*--task"):
        task_for_import([mine, other], store)
    with pytest.raises(FogError, match=rf"versions of task '{tiny_task.name}'"):
        task_for_import([mine, faster], store)
    with pytest.raises(FogError, match=r"broken: the task that it carries is not of this version"):
        task_for_import([broken], store)
    with pytest.raises(FogError, match="name at least one bag"):
        task_for_import([], store)
