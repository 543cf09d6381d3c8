"""Record a simulated robot over ROS topics, as a person would record a real one.

    python datasets/record.py reach_cube 30

starts robot_node, driver_node and recorder_node, each a process of its own, for 30 seconds in real
time, and leaves a bag in datasets/<task>, with JPEG images. This is how the recordings in this
folder were made.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from fog_bringup.closed_loop import free_domain_id
from fog_bringup.node_processes import NodeProcesses
from fog_bringup.tasks import find_task
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.errors import FogError

HERE = Path(__file__).resolve().parent
SETTLE_S = 6.0
"""Until the nodes have found each other; it is not recorded."""


def record(task_name: str, seconds: float, target: Path) -> None:
    """Record for some seconds.

    Args:
        task_name: Task name or file.
        seconds: Length of the recording, s.
        target: Bag folder to be; it must not exist.

    Raises:
        FogError: A node does not work here, or a topic of the task stayed silent.
    """
    task = find_task(task_name)
    if target.exists():
        raise FogError(f"bag {target}: exists already; move it away first")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        node = [sys.executable, "-m"]
        with NodeProcesses(made / "logs", free_domain_id()) as nodes:
            nodes.start(
                "robot",
                [*node, "fog_bringup.robot_node"],
                {"task": task_name, "auto_reset": True},
            )
            nodes.start(
                "driver",
                [*node, "fog_bringup.driver_node"],
                {"task": task_name, "use_sim_time": True, "seek": 0.8, "random": 0.2, "stand": 0.0},
            )
            time.sleep(SETTLE_S)
            nodes.start(
                "recorder",
                [*node, "fog_bringup.recorder_node"],
                {
                    "task": task_name,
                    "output": str(made / "bags"),
                    "start": True,
                    "use_sim_time": True,
                    "image_format": "jpeg",
                    "jpeg_quality": 90,
                    "min_free_mb": 100,
                },
            )
            time.sleep(seconds + SETTLE_S)
        # Leaving the block has ended the recorder, which closes its bag.
        bags = sorted((made / "bags").glob("*"))
        if len(bags) != 1:
            said = (made / "logs" / "recorder.log").read_text()
            raise FogError(f"expected one bag, found {len(bags)}; the recorder said:\n{said}")
        with BagReader(bags[0]) as bag:
            silent = [t for t, account in bag.account.items() if not account["written"]]
            if silent:
                raise FogError(f"nothing came from {', '.join(silent)}")
            for sentence in bag.warnings:
                print(sentence)
        shutil.move(bags[0], target)
    print(f"{target}: task '{task.name}', {seconds:g} s")


if __name__ == "__main__":
    try:
        record(sys.argv[1], float(sys.argv[2]), HERE / Path(sys.argv[1]).stem)
    except IndexError:
        sys.exit("usage: python datasets/record.py TASK SECONDS")
    except FogError as error:
        print(f"record.py: {error}", file=sys.stderr)
        sys.exit(2)
