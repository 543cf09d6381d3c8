"""``fog play``: its options, and what it calls."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from fog_world_model.errors import FogError

if TYPE_CHECKING:
    from fog_bringup.play.world import PlayedWorld

# Everything heavy (torch, the web server) is imported by the command, so that --help is immediate.


@dataclass
class Play:
    """Drive a learned world by hand, on a page in the browser, or from a program over HTTP."""

    checkpoint: Positional[Path]
    """Checkpoint of a global model, or the name of a shipped world such as pusht."""
    store: Path | None = None
    """Episode store that worlds start from. Without it, the one that the model was trained on is
    looked for near the checkpoint, or else the only one there of the same task."""
    host: str = "127.0.0.1"
    """Name or address to listen on. Any other than this machine's own lets the network in."""
    port: int = 8710
    """TCP port; 0: any that is free."""
    name: tuple[str, ...] = ()
    """Further names by which browsers may call this machine, beside localhost and --host."""
    device: str = "auto"
    """Where to imagine: auto, cpu, cuda."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""
    idle_timeout: str = "5m"
    """A visitor who does nothing for so long loses the world to the next: 30s, 5m, 1h."""
    open: bool = False
    """Open the page in a browser."""

    def run(self) -> int:
        """Serve until Ctrl-C."""
        from fog_bringup.cli_training import seconds
        from fog_bringup.play import server
        from fog_bringup.play.worker import Worker
        from fog_bringup.web import server as web

        try:
            idle_s = seconds(self.idle_timeout)
        except FogError as error:
            raise FogError(str(error).replace("--time-budget", "--idle-timeout")) from None
        if idle_s <= 0:
            raise FogError(f"--idle-timeout {self.idle_timeout}: expected more than 0")
        with web.listen(self.host, self.port) as listener:
            public = web.is_public(listener)
            worker = Worker()
            world = worker.wait_for(self._world)
            notes = _say_speed(world, worker.wait_for(world.step_seconds))
            if public:
                notes.append("The network can reach this world: --host is not this machine's own.")
                danger = "can drive this\nworld and see the recordings it starts from."
                warning = web.network_warning(listener, "fog play", danger, "--host")
                print(warning, file=sys.stderr, flush=True)
            app = server.make_app(
                world,
                worker,
                idle_timeout_s=idle_s,
                names=web.guarded_names(self.host, self.name, public),
                public=public,
                notes=notes,
            )
            url = web.page_url(listener)
            print(f"fog play: {url} (Ctrl-C ends it)", flush=True)
            if self.open:
                import webbrowser

                webbrowser.open(url)
            web.serve(app, listener, idle_timeout_s=idle_s)
        return 0

    def _world(self) -> PlayedWorld:
        import torch

        from fog_bringup.play.find_store import find_store
        from fog_bringup.play.world import PlayedWorld
        from fog_bringup.worlds import find_part
        from fog_world_model.training.loop import device_of
        from fog_world_model.training.train_world_models import load_global

        if self.threads > 0:
            torch.set_num_threads(self.threads)
        device = device_of(self.device)
        model, checkpoint = load_global(find_part(self.checkpoint, "global"))
        store = find_store(checkpoint, self.store)
        world = PlayedWorld(model, store, device)
        trained = store.data_hash == checkpoint.manifest.get("data_hash")
        note = "the model was trained on it" if trained else "not what the model was trained on"
        print(f"{store.path}: {len(world.choices)} episodes to start from ({note})")
        return world


def _say_speed(world: PlayedWorld, took: float) -> list[str]:
    """Say whether the device keeps up with steps that take so long, s; notes for the page."""
    period = 1.0 / world.store.task.control_hz
    print(
        f"{world.device}: a step takes {1e3 * took:.0f} ms of the {1e3 * period:.0f} ms between "
        f"two steps at {world.store.task.control_hz:g} Hz"
    )
    if took <= period:
        return []
    slow = f"This device needs {1e3 * took:.0f} ms a step: the world runs slower than it should."
    print(f"fog play: {slow}", file=sys.stderr)
    return [slow]
