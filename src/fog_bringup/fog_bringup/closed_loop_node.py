"""Runs closed-loop episodes: resets the robot, lets the policy drive, writes down what happens.

Started by :func:`fog_bringup.closed_loop.evaluate_over_ros` beside robot_node and policy_node.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

from fog_bringup.base_node import FogNode, message_class, run
from fog_bringup.closed_loop import episode_record, make_record
from fog_bringup.closed_loop_takes import FilmCamera
from fog_bringup.live_scene import (
    ODOMETRY,
    POSE,
    SIM_PREFIX,
    SIM_SUFFIX,
    LiveScene,
    object_name,
    stamp_of,
)
from fog_bringup.robots import Observation
from fog_bringup.tasks import find_task
from fog_policy.control_report import write_json
from fog_world_model.data import messages
from fog_world_model.errors import FogError
from fog_world_model.task import StreamConfig

_CAMERA_INFO, _IMAGE = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/Image"
_SILENCE_S = 15.0
"""Wall time without a picture after which the robot counts as gone."""
_LAST_IMAGE_S = 1.0
_LOOK_FOR_OBJECTS_S = 0.25
_DEPTH = 50
"""Deep enough that nothing is dropped while this process waits for the processor: rewards, which
have no stamp, stay in step with the pictures that they come with."""


@dataclass(frozen=True)
class _Moment:
    """What was known when a picture came."""

    stamp_ns: int
    commands: int
    command: bytes | None
    """The newest one, serialised."""
    observation: Observation
    stopped_by: tuple[str, ...]
    """Why the policy's node stopped the robot; empty where it drives."""


class _Ended(Exception):
    """The node is being shut down."""


class ClosedLoopNode(FogNode):
    """Configures and activates the policy, and runs one episode per seed."""

    def __init__(self) -> None:
        super().__init__("closed_loop_node")
        task_name = self.declare("task", "reach_cube", "name of a task, or path of a task file")
        self._seeds = self.declare("seeds", [0], "one episode starts from each seed")
        self._output = Path(self.declare("output", "closed_loop.json", "JSON file to write"))
        robot = self.declare("robot", "/robot_node", "name of the robot's node")
        policy = self.declare(
            "policy",
            "/policy_node",
            "name of the policy's lifecycle node; empty: something else drives, by itself",
        )
        odometry = self.declare("odometry_topic", "/odom", "nav_msgs/msg/Odometry of the base")
        self._timeout_s = self.declare(
            "timeout_s", 120.0, "how long a service may take, s", low=1.0, high=3600.0
        )
        max_steps = self.declare(
            "max_steps", 0, "control steps after which an episode is cut; 0: the task's", low=0
        )
        count_images = self.declare(
            "count_images", False, "count the images that arrive, beside the pictures taken"
        )
        films = self.declare("films", "", "folder for the pictures of episodes, <seed>.npz")
        filmed = self.declare("filmed", [-1], "seeds of those episodes; -1: none")
        self.check_parameters()
        self._task = find_task(task_name)
        self._max_steps = max_steps or self._task.episode.max_steps
        self._drives_itself = not policy
        self._status_name = f"{policy.rsplit('/', 1)[-1]}: control"
        if self._task.reward is None:
            raise FogError(f"task '{self._task.name}' names no reward topic: nothing to measure")
        self._change_state = self.create_client(ChangeState, f"{policy}/change_state")
        self._set_parameters = self.create_client(SetParameters, f"{robot}/set_parameters")
        self._reset = self.create_client(Trigger, f"{robot}/reset")
        self._scene = LiveScene()
        self._numbers: dict[str, float] = {}
        self._commands = 0
        self._command: bytes | None = None
        self._stopped_by: tuple[str, ...] = ()
        self._moments: list[_Moment] = []
        self._heard = threading.Condition()
        self._closing = False
        self._objects: set[str] = set()

        self._camera: Subscription[Any] | None = None
        self._listen(ODOMETRY, odometry, self._scene.receive_odometry)
        for stream in (self._task.reward, self._task.end):
            if stream is not None:
                self._listen(stream.type, stream.topic, functools.partial(self._on_number, stream))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _DEPTH)
        action = self._task.action
        self._listen(action.type, action.topic, self._on_command)
        self._image_stamps: list[int] | None = [] if count_images else None
        self._films, self._filmed = Path(films), frozenset(filmed) if films else frozenset()
        self._film = FilmCamera(self._task)
        if count_images or self._filmed:
            self._listen(_IMAGE, self._task.image.topic, self._on_image)
        self._look_for_objects()
        self.every(_LOOK_FOR_OBJECTS_S, self._look_for_objects)
        self._thread = threading.Thread(target=self._run, name="episodes")
        self._thread.start()

    def close(self) -> None:
        """End the thread that runs the episodes."""
        self._closing = True
        with self._heard:
            self._heard.notify_all()
        if hasattr(self, "_thread"):
            self._thread.join()

    def _listen(self, typename: str, topic: str, callback: Any) -> Any:
        qos = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self.create_subscription(message_class(typename), topic, callback, qos, raw=True)

    def _look_for_objects(self) -> None:
        """Subscribe to ground truth as it appears, and to the pictures' stamps last of all.

        What is ready together is taken in the order of subscription, so that a picture finds what
        was published with it.
        """
        names = {
            topic: object_name(topic, types[0]) for topic, types in self.get_topic_names_and_types()
        }
        new = {topic: name for topic, name in names.items() if name and name not in self._objects}
        for topic, name in new.items():
            self._objects.add(str(name))
            self._listen(POSE, topic, functools.partial(self._scene.receive_pose, name))
        if new or self._camera is None:
            if self._camera is not None:
                self.destroy_subscription(self._camera)
            topic = self._task.image.camera_info_topic
            self._camera = self._listen(_CAMERA_INFO, topic, self._on_picture)

    def _on_number(self, stream: StreamConfig, data: bytes) -> None:
        message = messages.deserialise(data, stream.type)
        self._numbers[stream.topic] = float(messages.read_fields(message, stream.fields)[0])

    def _on_command(self, data: bytes) -> None:
        self._commands += 1
        self._command = data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._status_name:
                causes = next((v.value for v in status.values if v.key == "stopped_by"), "")
                self._stopped_by = tuple(causes.split(", ")) if causes else ()

    def _on_image(self, data: bytes) -> None:
        stamp_ns = stamp_of(data)
        self._film.receive(stamp_ns, data)
        if self._image_stamps is not None:
            self._image_stamps.append(stamp_ns)

    def _on_picture(self, data: bytes) -> None:
        task, stamp_ns = self._task, stamp_of(data)
        observation = self._scene.observation(stamp_ns)
        assert task.reward is not None
        reward = self._numbers.get(task.reward.topic)
        if observation is None or reward is None:
            return
        end = task.end is not None and self._numbers.get(task.end.topic, 0.0) != 0.0
        observation = replace(observation, reward=reward, end=end)
        moment = _Moment(stamp_ns, self._commands, self._command, observation, self._stopped_by)
        with self._heard:
            self._moments.append(moment)
            self._heard.notify_all()

    # The rest runs in a thread of its own, so that it can wait while callbacks go on.

    def _run(self) -> None:
        try:
            self._transition(Transition.TRANSITION_CONFIGURE, "configure")
            self._transition(Transition.TRANSITION_ACTIVATE, "activate")
            self._await_commands()
            self._await_ground_truth()
            episodes: list[dict[str, Any]] = []
            for seed in self._seeds:
                episodes.append(self._episode(seed))
                record = make_record(self._task, "policy", episodes, self._max_steps)
                write_json(self._output, record)
                print(
                    f"episode {len(episodes)}/{len(self._seeds)} seed {seed} "
                    f"return {episodes[-1]['return']:.3f}",
                    flush=True,
                )
            self._transition(Transition.TRANSITION_DEACTIVATE, "deactivate")
        except _Ended:
            return
        except OSError as error:
            self.fail(FogError(f"output {self._output}: cannot be written ({error.strerror})"))
        except Exception as error:
            self.fail(error)
        else:
            self.done.set_result(None)

    def _transition(self, number: int, name: str) -> None:
        if self._drives_itself:
            return
        request = ChangeState.Request(transition=Transition(id=number))
        if not self._call(self._change_state, request).success:
            raise FogError(f"policy_node refuses to {name}; its log says why")

    def _await_commands(self) -> None:
        """An episode that began before the policy does would be none of its own."""
        deadline = time.monotonic() + self._timeout_s
        while self._commands == 0:
            if time.monotonic() > deadline:
                raise FogError(
                    f"the policy is active, but nothing has come on {self._task.action.topic} "
                    f"within {self._timeout_s:g} s"
                )
            self._pause()

    def _await_ground_truth(self) -> None:
        """Subscriptions to objects come after the robot has been found.

        A robot that publishes none is soon known: its topics are announced together.
        """
        deadline = time.monotonic() + self._timeout_s
        self._next_moment()
        earliest = time.monotonic() + 3 * _LOOK_FOR_OBJECTS_S
        while True:
            with self._heard:
                self._moments.clear()
            seen = self._next_moment().observation.objects
            missing = self._objects - set(seen)
            if not missing and time.monotonic() > earliest:
                return
            if time.monotonic() > deadline:
                topics = ", ".join(f"{SIM_PREFIX}{name}{SIM_SUFFIX}" for name in sorted(missing))
                raise FogError(f"nothing has come on {topics} within {self._timeout_s:g} s")

    def _pause(self) -> None:
        if self._closing:
            raise _Ended
        time.sleep(0.02)

    def _episode(self, seed: int) -> dict[str, Any]:
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
        request = SetParameters.Request(parameters=[Parameter(name="seed", value=value)])
        result = self._call(self._set_parameters, request).results[0]
        if not result.successful:
            raise FogError(f"robot_node refuses seed {seed}: {result.reason}")
        with self._heard:
            self._moments.clear()
        if seed in self._filmed:
            self._film.start()
        answer = self._call(self._reset, Trigger.Request())
        if not answer.success:
            raise FogError(f"robot_node does not reset: {answer.message}")
        start = json.loads(answer.message)
        if start["seed"] != seed:
            raise FogError(f"robot_node began with seed {start['seed']} instead of {seed}")
        return self._measure(seed, start["stamp_ns"], start.get("conditions", {}))

    def _measure(self, seed: int, start_ns: int, conditions: dict[str, float]) -> dict[str, Any]:
        """Follow an episode, and pick the pictures nearest to its control steps."""
        period_ns, steps = self._task.period_ns, self._max_steps
        seen: list[_Moment] = []
        missed, taken = 0, list[int]()
        while len(seen) <= steps and not (seen and seen[-1].observation.end):
            moment = self._next_moment()
            taken.append(moment.stamp_ns)
            step = round((moment.stamp_ns - start_ns) / period_ns)
            if abs(moment.stamp_ns - start_ns - step * period_ns) > period_ns / 4:
                continue  # between two control steps
            if step < len(seen):
                continue  # before the reset, or this step has its picture
            # A lost picture counts with the next one, so that the number of steps stays right.
            missing = min(step, steps) - len(seen)
            missed += missing
            seen += [moment] * (1 + missing)
        seen = seen[: steps + 1]
        if seed in self._filmed:
            self._keep_film(seed, seen)
        commands = seen[-1].commands - seen[0].commands
        stops = [m.stopped_by for m in seen[1:] if m.stopped_by]
        record = episode_record(
            self._task,
            seed,
            [m.observation for m in seen],
            commands=commands,
            missed=missed,
            max_steps=steps,
            conditions=conditions,
        )
        if not self._drives_itself:
            causes = Counter(cause for stop in stops for cause in stop)
            record["stopped"] = {"steps": len(stops), "causes": dict(sorted(causes.items()))}
        if self._image_stamps is not None:
            # The last ones may still be under way.
            stamps, last_ns = set(self._image_stamps), moment.stamp_ns - period_ns
            self._image_stamps.clear()
            record["pictures"] = sum(start_ns <= p <= last_ns for p in taken)
            record["images"] = sum(start_ns <= stamp <= last_ns for stamp in stamps)
        return record

    def _keep_film(self, seed: int, seen: Sequence[_Moment]) -> None:
        # The last image may still be under way.
        deadline = time.monotonic() + _LAST_IMAGE_S
        while not self._film.has(seen[-1].stamp_ns) and time.monotonic() < deadline:
            self._pause()
        take = self._film.stop([(m.stamp_ns, m.command) for m in seen])
        if take is not None:
            take.save(self._films / f"{seed}.npz")

    def _next_moment(self) -> _Moment:
        deadline = time.monotonic() + _SILENCE_S
        with self._heard:
            while not self._moments:
                if self._closing:
                    raise _Ended
                if not self._heard.wait(deadline - time.monotonic()):
                    raise FogError(
                        f"nothing has come for {_SILENCE_S:g} s from one of "
                        f"{self._task.image.camera_info_topic}, /odom and the reward topic"
                    )
            return self._moments.pop(0)

    def _call(self, client: Client[Any, Any], request: Any) -> Any:
        deadline = time.monotonic() + self._timeout_s
        while not client.service_is_ready():
            self._check(client, deadline, "is not offered")
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        while not done.wait(0.1):
            self._check(client, deadline, "does not answer")
        return future.result()

    def _check(self, client: Client[Any, Any], deadline: float, trouble: str) -> None:
        if time.monotonic() > deadline:
            raise FogError(f"service {client.srv_name} {trouble} within {self._timeout_s:g} s")
        self._pause()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(ClosedLoopNode, args)


if __name__ == "__main__":
    sys.exit(main())
