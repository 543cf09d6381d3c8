"""The world of a running ``fog play`` as a Gymnasium environment, from any process.

    with ImaginedEnvClient("http://127.0.0.1:8710") as env:
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

It needs no torch. What it says is what an :class:`.ImaginedEnv` of one world says in the server's
own process with the same seed, bit for bit.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from typing import Any, Literal
from urllib.parse import urlsplit

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict

Array = npt.NDArray[Any]
Observation = dict[str, Array]


class WorldTakenError(FogError):
    """Somebody else has the world; the message says since when."""


class ImaginedEnvClient(gymnasium.Env[Any, Array]):
    """One imagined environment over HTTP.

    An observation holds ``image`` and ``proprioception``, ``[field]``, normalised as the model was
    trained, float32. ``info`` of a reset holds ``context``: what was recorded before, for policies
    that are warmed up on it (``image``, ``proprioception`` and ``action`` ``[time, ...]``; the last
    observation is the one that is returned, and the action of the last row is not used).

    Attributes:
        task: The task of the world.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8710",
        *,
        split: str = "training",
        max_steps: int | None = None,
        images: Literal["uint8", "float32"] = "uint8",
        timeout_s: float = 30.0,
    ) -> None:
        """Take the world.

        Args:
            url: What ``fog play`` printed.
            split: Of the episodes that worlds start from: ``training`` or ``validation``.
            max_steps: Steps after which a world is cut (``truncated``); the task's limit when
                not given.
            images: ``uint8``: ``[height, width, channel]``; ``float32``: ``[channel, height,
                width]`` in [-1, 1], as the models have them.
            timeout_s: Longest wait for an answer.

        Raises:
            WorldTakenError: Somebody else has it.
            FogError: Nobody answers there, or it is not ``fog play``.
        """
        address = urlsplit(url)
        if address.scheme != "http" or not address.hostname:
            raise FogError(f"{url}: expected an address such as http://127.0.0.1:8710")
        self._url, self._token = url, ""
        self._connection = http.client.HTTPConnection(
            address.hostname, address.port or 80, timeout=timeout_s
        )
        opened = self._ask(
            "POST", "/api/env", {"split": split, "max_steps": max_steps, "images": images}
        )
        try:
            self._token = str(opened["token"])
            self.task: TaskConfig = task_from_dict(opened["task"], source=url)
            fields, size = tuple(opened["proprioception"]), tuple(opened["action"])
            height, width, channels = opened["image"]
        except (KeyError, TypeError) as error:
            raise FogError(f"{url}: is not a fog play of this version ({error!r})") from error
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.task.control_hz}
        self.render_mode = "rgb_array"
        self._shown: Array | None = None
        image = (
            spaces.Box(0, 255, (height, width, channels), np.uint8)
            if images == "uint8"
            else spaces.Box(-1.0, 1.0, (channels, height, width), np.float32)
        )
        proprioception = spaces.Box(-np.inf, np.inf, fields, np.float32)
        self.observation_space = spaces.Dict({"image": image, "proprioception": proprioception})
        self.action_space = spaces.Box(-1.0, 1.0, size, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start another world.

        Args:
            seed: Of the imagination and of the contexts from now on; without one the next context
                is drawn.
            options: ``episode``: index of an episode in the store to start from instead of a
                context that is drawn; ``row``: the first observation of the context there.

        Raises:
            FogError: There is no such episode or row, or the world was lost (idle for too long, or
                the server has ended).
        """
        super().reset(seed=seed)
        chosen = {key: int(value) for key, value in (options or {}).items()}
        if unknown := chosen.keys() - {"episode", "row"}:
            raise FogError(f"options: {', '.join(sorted(unknown))}: known are episode and row")
        answer = self._ask("POST", "/api/env/reset", {"seed": seed, **chosen})
        context = {name: _array(value) for name, value in answer["context"].items()}
        return self._observation(answer), {"context": context}

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Imagine one step.

        Args:
            action: ``[field]`` in [-1, 1].

        Returns:
            Observation, reward, whether the episode has ended, whether it is as long as it may
            be, and nothing more (``info`` is empty).

        Raises:
            FogError: The action does not fit, or the world was lost.
        """
        values = np.asarray(action, np.float32).tolist()
        answer = self._ask("POST", "/api/env/step", {"action": values})
        return (
            self._observation(answer),
            float(answer["reward"]),
            bool(answer["terminated"]),
            bool(answer["truncated"]),
            {},
        )

    def render(self) -> Array:
        """What the world shows now, uint8 ``[height, width, channel]``."""
        if self._shown is None:
            raise gymnasium.error.ResetNeeded("reset the environment before it is rendered")
        if self._shown.dtype == np.uint8:
            return self._shown
        levels = (self._shown.clip(-1.0, 1.0) + 1.0) * 127.5
        return np.moveaxis(levels.round().astype(np.uint8), 0, -1)

    def close(self) -> None:
        """Give the world back; a second time does nothing."""
        if self._token:
            # The server may have ended first.
            with contextlib.suppress(FogError):
                self._ask("DELETE", "/api/env", None)
            self._token = ""
        self._connection.close()

    def _observation(self, answer: dict[str, Any]) -> Observation:
        found = {name: _array(answer[name]) for name in ("image", "proprioception")}
        self._shown = found["image"]
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        try:
            # Not sent again after an error: a step that was lost may have been made.
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise FogError(
                f"{self._url}: no answer ({error or type(error).__name__}); is 'fog play' running "
                "there?"
            ) from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"detail": text.decode(errors="replace").strip()}
        if response.status == 200 and isinstance(answer, dict):
            return answer
        detail = answer.get("detail", "") if isinstance(answer, dict) else ""
        kind = WorldTakenError if response.status == 409 else FogError
        raise kind(f"{self._url}: {detail or f'answered with status {response.status}'}")


def _array(content: dict[str, Any]) -> Array:
    data = base64.b64decode(content["data"])
    return np.frombuffer(data, np.dtype(content["dtype"])).reshape(content["shape"]).copy()
