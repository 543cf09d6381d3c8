"""Labellers: rewards and ends computed from recorded images."""

from __future__ import annotations

from fog_world_model.data.labellers.labeller import CameraModel, Labeller, Labels, PlanarPose
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

__all__ = ["CameraModel", "Labeller", "Labels", "PlanarPose", "make_labeller"]

LABELLERS = ("pusht_image", "push_cube_markers")


def make_labeller(task: TaskConfig) -> Labeller | None:
    """Make the labeller that a task names.

    Args:
        task: ``labeller`` names it and gives its options; a labeller is made in every process
            that looks at images, and holds nothing but the task's numbers.

    Returns:
        The labeller; None when the task takes its rewards from topics, or has none.

    Raises:
        FogError: No such labeller, or an option that it does not know or that is impossible.
    """
    config = task.labeller
    if config is None:
        return None
    # Imported on demand: OpenCV is slow to load, and most tasks need neither.
    if config.name == "pusht_image":
        from fog_world_model.data.labellers.pusht_image import PushTLabeller

        return PushTLabeller(config)
    if config.name == "push_cube_markers":
        from fog_world_model.data.labellers.push_cube_markers import PushCubeLabeller

        return PushCubeLabeller(config)
    raise FogError(
        f"task '{task.name}': labeller.name: no labeller '{config.name}'; "
        f"known are {', '.join(LABELLERS)}"
    )
