"""Messages: built by name, encoded as ROS encodes them, read by dotted paths."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

from fog_world_model.data.messages import (
    TYPESTORE,
    deserialise,
    header,
    header_stamp_ns,
    make,
    read_fields,
    serialise,
)
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

USED = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CameraInfo",
    "sensor_msgs/msg/JointState",
    "sensor_msgs/msg/Imu",
    "sensor_msgs/msg/Joy",
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/Twist",
    "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/PoseStamped",
    "diagnostic_msgs/msg/DiagnosticArray",
    "rosgraph_msgs/msg/Clock",
    "std_msgs/msg/Float32",
    "std_msgs/msg/Bool",
    "std_msgs/msg/Int32",
)


def filled(typename: str, numbers: Any) -> Any:
    """A message in which every field differs from its neighbours, sequences have two items."""
    fields = {}
    for name, description in TYPESTORE.get_msgdef(typename).fields:
        fields[name] = _filled(description, numbers)
    return make(typename, **fields)


def _filled(description: Any, numbers: Any) -> Any:
    kind, argument = int(description[0]), description[1]
    if kind == 2:
        return filled(argument, numbers)
    if kind == 1:
        value = next(numbers)
        name = argument[0]
        if name == "string":
            return f"text {value}"
        return bool(value % 2) if name == "bool" else float(value) if "float" in name else value
    (item_kind, item), length = argument
    count = length if kind == 3 else 2
    items = [_filled((item_kind, item), numbers) for _ in range(count)]
    if int(item_kind) == 1 and item[0] != "string":
        return np.asarray(items, dtype=np.dtype(item[0]))
    return items


def plain(value: Any) -> Any:
    """A message as nested dicts and lists, so that two can be compared."""
    if hasattr(value, "__msgtype__"):
        return {k: plain(v) for k, v in vars(value).items() if k != "__msgtype__"}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


@pytest.mark.parametrize("typename", USED)
def test_round_trip_of_every_field(typename: str) -> None:
    message = filled(typename, itertools.count(1))
    data = serialise(message)
    again = deserialise(data, typename)
    assert plain(again) == plain(message)
    assert serialise(again) == data


@pytest.mark.parametrize("typename", USED)
def test_what_is_not_given_is_zero(typename: str) -> None:
    def check(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                check(item, f"{where}.{key}")
        elif isinstance(value, list):
            for item in value:
                check(item, where)
        else:
            assert not value, where

    check(plain(deserialise(serialise(make(typename)), typename)), typename)


def test_nested_fields_and_header() -> None:
    twist = make("geometry_msgs/msg/Twist", angular=make("geometry_msgs/msg/Vector3", z=0.5))
    assert read_fields(twist, ["angular.z", "linear.x"]).tolist() == [0.5, 0.0]
    stamped = make("sensor_msgs/msg/Imu", header=header(12_000_000_345, "imu_link"))
    assert (stamped.header.stamp.sec, stamped.header.stamp.nanosec) == (12, 345)
    assert header_stamp_ns(stamped) == 12_000_000_345
    assert stamped.header.frame_id == "imu_link"
    assert header_stamp_ns(twist) is None


def test_read_fields_in_the_order_asked_for() -> None:
    odometry = make("nav_msgs/msg/Odometry")
    odometry.twist.twist.linear.x = 1.5
    odometry.pose.pose.position.y = -2.0
    values = read_fields(odometry, ["pose.pose.position.y", "twist.twist.linear.x"])
    assert values.tolist() == [-2.0, 1.5]
    assert values.dtype == np.float32
    assert read_fields(make("std_msgs/msg/Bool", data=True), ["data"]).tolist() == [1.0]


def joint_state(order: list[str]) -> Any:
    """Joints a, b, c at 1, 2, 3 rad and 10, 20, 30 rad/s, listed in some order; no efforts."""
    position = {"a": 1.0, "b": 2.0, "c": 3.0}
    message = make(
        "sensor_msgs/msg/JointState",
        name=order,
        position=np.array([position[n] for n in order]),
        velocity=np.array([10 * position[n] for n in order]),
    )
    return deserialise(serialise(message), "sensor_msgs/msg/JointState")


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_joints_are_found_by_name(order: tuple[str, ...]) -> None:
    values = read_fields(joint_state(list(order)), ["position.c", "velocity.a", "position.b"])
    assert values.tolist() == [3.0, 10.0, 2.0]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("position.d", "'position.d'; its joints are a, b, c"),
        ("effort.a", "'effort.a'.* effort has 0 values"),
        ("name.a", "'name.a'"),
        ("header.a", "'header.a'"),
        ("speed.a", "'speed.a'"),
        ("position", "'position'"),
    ],
)
def test_a_joint_that_is_not_there(field: str, message: str) -> None:
    with pytest.raises(FogError, match=message):
        read_fields(joint_state(["a", "b", "c"]), ["position.a", field])


@pytest.mark.parametrize(
    ("field", "message"),
    [("linear.w", "linear.w"), ("linear", "no number in one of linear"), ("speed", "speed")],
)
def test_a_field_that_is_no_number(field: str, message: str) -> None:
    with pytest.raises(FogError, match=rf"geometry_msgs/msg/Twist.*{message}"):
        read_fields(make("geometry_msgs/msg/Twist"), [field])


def test_unknown_interface_and_field() -> None:
    with pytest.raises(FogError, match="my_msgs/msg/Mine: not one of the standard"):
        make("my_msgs/msg/Mine")
    with pytest.raises(FogError, match="std_msgs/msg/Bool has no field date"):
        make("std_msgs/msg/Bool", date=True)


def test_bytes_that_do_not_decode() -> None:
    data = serialise(filled("nav_msgs/msg/Odometry", itertools.count(1)))
    with pytest.raises(FogError, match="20 bytes do not decode as nav_msgs/msg/Odometry"):
        deserialise(data[:20], "nav_msgs/msg/Odometry")
    with pytest.raises(FogError, match="0 bytes do not decode as std_msgs/msg/Float32"):
        deserialise(b"", "std_msgs/msg/Float32")


# Defined only where ROS can be imported: there is nothing to compare with elsewhere.
if importlib.util.find_spec("rclpy") is not None:

    def as_ros(value: Any) -> Any:
        """The same message as an instance of the class that ROS generated."""
        if not hasattr(value, "__msgtype__"):
            return [as_ros(v) for v in value] if isinstance(value, list) else value
        package, _, name = value.__msgtype__.split("/")
        kind = getattr(importlib.import_module(f"{package}.msg"), name)
        fields = {k: as_ros(v) for k, v in vars(value).items() if k != "__msgtype__"}
        for name, typename in kind.get_fields_and_field_types().items():
            if typename == "octet":  # which rclpy has as bytes of length 1
                fields[name] = bytes([fields[name]])
        return kind(**fields)

    @pytest.mark.parametrize("typename", USED)
    def test_bytes_are_those_of_ros(typename: str) -> None:
        """Bytes may differ only in alignment padding, which ROS leaves as it finds the memory."""
        prepare()
        from rclpy.serialization import deserialize_message, serialize_message

        ours = filled(typename, itertools.count(1))
        theirs = as_ros(ours)
        data, reference = serialise(ours), serialize_message(theirs)
        assert deserialize_message(data, type(theirs)) == theirs
        assert plain(deserialise(reference, typename)) == plain(ours)
        assert 0 <= len(reference) - len(data) < 4  # padding at the end
        for i in range(len(data)):
            if data[i] != reference[i]:
                changed = data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :]
                assert deserialize_message(changed, type(theirs)) == theirs, f"byte {i}"
