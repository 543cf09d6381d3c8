"""Asks a running recorder for something, for ``fog record``."""

from __future__ import annotations

import time
from typing import Final

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

_SERVICE_S: Final = 6.0
"""How long a recorder may take to be discovered."""
_ANSWER_S: Final = 120.0
"""How long it may take to answer: closing a bag waits for the disk."""


def ask(node: str, command: str) -> str:
    """Call one of the recorder's services.

    Args:
        node: Name of the recorder, with its namespace if it has one.
        command: ``start``, ``stop``, ``success``, ``failure`` or ``status``.

    Returns:
        What it answers: the bag, or its state in lines.

    Raises:
        FogError: No recorder answers, or it cannot do it; the message says why.
    """
    prepare()
    service = f"/{node.strip('/')}/{command}"
    context = Context()
    rclpy.init(args=[], context=context)
    try:
        client_node = rclpy.create_node("record_control", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(client_node)
        client = client_node.create_client(Trigger, service)
        deadline = time.monotonic() + _SERVICE_S
        while not client.service_is_ready():
            if time.monotonic() > deadline:
                raise FogError(
                    f"{service}: no recorder answers; start one (`fog_recorder_node`, or `ros2 "
                    "launch fog_bringup quadruped.launch.py mode:=record`), or name it with "
                    "--node. ROS_DOMAIN_ID has to be the same here and there."
                )
            executor.spin_once(timeout_sec=0.05)
        future = client.call_async(Trigger.Request())
        executor.spin_until_future_complete(future, timeout_sec=_ANSWER_S)
        if not future.done():
            raise FogError(f"{service}: the recorder has not answered in {_ANSWER_S:.0f} s")
        answer = future.result()
        if not answer.success:
            raise FogError(f"{node}: {answer.message}")
        return str(answer.message)
    finally:
        context.try_shutdown()
