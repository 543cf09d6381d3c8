"""The operator's page with real nodes: what the robot does is seen over HTTP, and stops there."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import Twist
from lifecycle_msgs.srv import ChangeState, GetState
from processes import NodeProcess
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from synthetic_robot import SyntheticRobot
from toy_bundle import write_toy_bundle
from websockets.sync.client import connect

from fog_world_model.task import TaskConfig

LINEAR_X = 0.4
"""What the toy policy's 0.5 is within the task's bounds of +-0.8 m/s."""


def start(environment: dict[str, str], *parameters: str) -> NodeProcess:
    given = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", "fog_bringup.dashboard_node", "--ros-args", *given]
    return NodeProcess(command, environment, limit_s=240.0)


def url_of(process: NodeProcess) -> str:
    return process.wait_for(r"page on (http://\S+:\d+)/", 60.0)[1]


def get(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/api/state", timeout=10.0) as answer:
        return json.load(answer)


def post(url: str, path: str, token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{url}/api/{path}", b"", headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=100.0) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def token_of(url: str) -> str:
    """As the page gets it, with the first state behind it."""
    with connect(url.replace("http", "ws") + "/watch") as page:
        hello = json.loads(page.recv(10.0))
        assert json.loads(page.recv(10.0))["type"] == "state"
    return str(hello["token"])


@pytest.fixture
def robot(task: TaskConfig) -> Iterator[SyntheticRobot]:
    synthetic = SyntheticRobot(task)
    yield synthetic
    synthetic.close()


def test_what_the_robot_does_is_seen_and_stopped_over_http(
    task: TaskConfig,
    robot: SyntheticRobot,
    node_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    # Both nodes find it by its name, as they find a policy that ships.
    policies, bundle = tmp_path / "share" / "fog_bringup" / "policies", "walks_ahead"
    policies.mkdir(parents=True)
    write_toy_bundle(task, policies / bundle, (0.5, -0.5, 0.25))
    places = f"{tmp_path}{os.pathsep}{node_environment['AMENT_PREFIX_PATH']}"
    node_environment = {**node_environment, "AMENT_PREFIX_PATH": places}
    heard: list[bool] = []
    robot.node.create_subscription(Bool, "/stop", lambda message: heard.append(message.data), 10)
    proposed = robot.node.create_publisher(Twist, "/policy_node/proposed_command", 10)
    with start(node_environment, f"bundle:={bundle}", "port:=0", "emergency_stop_topic:=/stop") as (
        dashboard
    ):
        url = url_of(dashboard)
        token = token_of(url)

        def wait(what: str, **expected: Any) -> Any:
            """Until parts of the state are as expected, and return all of it."""
            found: list[Any] = []

            def there() -> bool:
                found[:] = [get(url)]
                return all(found[0][k] | v == found[0][k] for k, v in expected.items())

            try:
                robot.wait(there, what, 60.0)
            except AssertionError:
                print(json.dumps(found[0], indent=1))
                raise
            return found[0]

        # Nobody is there: the page says so, loudly.
        assert get(url)["safety"]["level"] == "unknown"
        wait("the camera comes", camera={"stale": False})
        status, stop = post(url, "emergency_stop")
        assert status == 202 and stop["state"] == "unconfirmed"
        robot.wait(lambda: True in heard, "nothing came on the emergency stop's topic")
        status, answer = post(url, "reset", token)
        assert status == 502 and "does the policy node run" in answer["detail"]
        robot.wait(lambda: heard[-1] is False, "the reset did not come")

        command = ["policy_node", "--ros-args", "-p", f"bundle:={bundle}"]
        with NodeProcess([*command, "-p", "diagnostics_period_s:=0.2"], node_environment) as node:
            wait("the node", safety={"level": "warn"}, lifecycle={"state": "unconfigured"})
            assert post(url, "lifecycle/activate", token)[0] == 502  # not configured yet
            assert post(url, "lifecycle/configure", token)[0] == 200
            wait("configured", lifecycle={"state": "inactive", "transition": ""})
            assert post(url, "lifecycle/activate")[0] == 401
            commands = len(robot.commands)
            time.sleep(0.5)
            assert len(robot.commands) == commands
            assert post(url, "lifecycle/activate", token)[0] == 200
            robot.wait_until_driving()
            state = wait(
                "driving",
                safety={"level": "ok", "headline": "Driving", "emergency_stop": False},
                lifecycle={"state": "active"},
                stop={"state": "none"},
            )
            assert state["figures"]["task"] == "reach_cube"
            robot.wait(
                lambda: abs((get(url)["command"]["values"] or [0])[0] - LINEAR_X) < 1e-6,
                "the command in force is not shown",
            )
            wait("measured", command={"stale": False}, camera={"stale": False, "problem": ""})
            assert get(url)["camera"]["rate_hz"] > 2.0
            twist = Twist()
            twist.linear.x = 0.75
            proposed.publish(twist)
            wait("proposed", proposed={"values": [0.75, 0.0, 0.0]})

            robot.silent = {"/camera/image_raw"}
            state = wait("no camera", camera={"stale": True}, safety={"level": "error"})
            assert "no camera picture" in [r["what"] for r in state["safety"]["reasons"]]
            robot.silent = set()
            wait("driving again", camera={"stale": False}, safety={"headline": "Driving"})

            status, stop = post(url, "emergency_stop")
            if status == 202:  # a busy machine: it is confirmed all the same, and shown as late
                stop = wait("confirmed late", stop={"state": "confirmed"})["stop"]
            assert stop["state"] == "confirmed" and stop["after_s"] > 0.0
            # /diagnostics says so, and every command is zero.
            assert "stopped by service" in robot.wait_for_stop("emergency_stop")
            wait("stopped", safety={"level": "error", "emergency_stop": True})
            assert post(url, "reset")[0] == 401
            assert post(url, "reset", "guessed")[0] == 401
            assert get(url)["safety"]["emergency_stop"] is True
            assert post(url, "reset", token) == (200, {"text": "released"})
            robot.wait_until_driving()

            # Somebody else deactivates it: seen here too.
            assert robot.change_state("deactivate")
            wait("inactive", lifecycle={"state": "inactive"}, safety={"level": "warn"})
            assert node.stop() == 0
        wait("it is gone", safety={"level": "unknown"}, lifecycle={"state": "unknown"})
        assert "dashboard_node" in robot.diagnosed
        assert dashboard.stop() == 0, dashboard.output()
        assert "Traceback" not in dashboard.output()


def test_a_policy_node_that_is_stuck_and_then_gone(
    robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    """Its services are there, and nobody carries them out."""
    stuck = rclpy.create_node("stuck", namespace="dog", context=robot.node.context)
    kinds = {"emergency_stop": Trigger, "reset_emergency_stop": Trigger, "get_state": GetState}
    for name, kind in {**kinds, "change_state": ChangeState}.items():
        stuck.create_service(kind, f"policy_node/{name}", lambda request, response: response)
    with start(
        node_environment, "task:=reach_cube", "port:=0", "policy_node:=/dog/policy_node"
    ) as (dashboard):
        url = url_of(dashboard)
        token = token_of(url)
        status, stop = post(url, "emergency_stop")
        assert status == 202 and stop["state"] == "unconfirmed"
        assert "/dog/policy_node/emergency_stop did not answer within 1 s" in stop["text"]
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(post, url, "lifecycle/activate", token)
            robot.wait(
                lambda: get(url)["lifecycle"]["transition"] == "activate", "it is not asked for"
            )
            assert post(url, "lifecycle/activate", token)[0] == 409
            stuck.destroy_node()
            status, answer = asked.result(60.0)
        assert status == 502 and "/dog/policy_node/change_state: nobody answers" in answer["detail"]
        assert get(url)["lifecycle"] == {"state": "unknown", "transition": "", "age_s": None}
        with connect(url.replace("http", "ws") + "/watch") as page:
            page.recv(10.0)  # somebody watches, and shows nothing
            begin = time.monotonic()
            assert dashboard.stop(grace_s=20.0) == 0
        assert time.monotonic() - begin < 10.0


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ([], "give -p task:=reach_cube or -p bundle:=FOLDER"),
        (["task:=no_task"], "known names are .*reach_cube"),
        (["bundle:=/no/bundle"], "bundle /no/bundle: no such folder"),
        (["task:=reach_cube", "prot:=1"], "unknown parameter prot; known are task, bundle"),
        (["task:=reach_cube", "host:=192.0.2.1"], "host:=192.0.2.1: cannot be bound"),
    ],
)
def test_what_the_user_can_put_right_ends_with_status_2(
    parameters: list[str], expected: str, node_environment: dict[str, str]
) -> None:
    with start(node_environment, *parameters) as process:
        process.wait_for(expected)
        assert process.wait() == 2
        assert "Traceback" not in process.output()


def test_a_port_that_is_taken_and_one_that_the_network_reaches(
    node_environment: dict[str, str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with start(node_environment, "task:=reach_cube", f"port:={port}") as process:
            process.wait_for(f"port:={port}: taken by another program")
            assert process.wait() == 2
    with start(node_environment, "task:=pusht", "port:=0", "host:=0.0.0.0") as process:
        url_of(process)
        assert "EVERYBODY who reaches this" in process.output()
        assert "and START it" in process.output()
        assert process.stop() == 0
