"""Interfaces of other packages: once their .msg files are installed, they can be recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fog_bringup.interface_definitions import learn_interface
from fog_world_model.data import messages
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.message_head import has_header
from fog_world_model.errors import FogError


def install(prefix: Path, package: str, **definitions: str) -> None:
    folder = prefix / "share" / package / "msg"
    folder.mkdir(parents=True)
    for name, text in definitions.items():
        (folder / f"{name}.msg").write_text(text)


def test_an_installed_interface_can_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path,
        "robot_of_test",
        Legs="std_msgs/Header header\nLeg[4] legs  # of each\ngeometry_msgs/Vector3 force\n",
        Leg="uint8 LEFT=1\nfloat32[3] angles\nstring name\n",
    )
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    typename = "robot_of_test/msg/Legs"
    assert not has_header("robot_of_test/msg/Nothing")
    learn_interface(typename)
    learn_interface(typename)  # again: nothing happens
    legs = [
        messages.make("robot_of_test/msg/Leg", angles=np.full(3, k, np.float32), name=f"leg {k}")
        for k in range(4)
    ]
    message = messages.make(typename, header=messages.header(5, "base"), legs=legs)
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/legs", typename, messages.serialise(message), 7)
    with BagReader(tmp_path / "bag") as bag:
        (recorded,) = bag.messages()
        assert recorded.type == typename
        assert [leg.name for leg in recorded.decode().legs] == ["leg 0", "leg 1", "leg 2", "leg 3"]
    assert has_header(typename)


def test_what_is_not_installed_or_not_readable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken_of_test", Bad="float33[ x\n", Outer="missing_of_test/Part part\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(FogError, match=r"nobody/msg/Knows: neither a standard .* Source"):
        learn_interface("nobody/msg/Knows")
    with pytest.raises(FogError, match=r"Bad\.msg: cannot be read as an interface"):
        learn_interface("broken_of_test/msg/Bad")
    with pytest.raises(FogError, match="missing_of_test/msg/Part"):
        learn_interface("broken_of_test/msg/Outer")
