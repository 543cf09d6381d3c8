"""What was found good for a task's experiment: set where the user sets nothing.

How it was found, and what else was tried, is in docs/pusht.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from fog_world_model.task import TaskConfig


@dataclass(frozen=True)
class FoundGood:
    """Settings of an experiment; those of this class itself serve where nothing was tried."""

    steps: int = 20_000
    """Control steps to record."""
    global_preset: str = "small"
    """Size of the global model."""
    global_options: tuple[str, ...] = ()
    """Further options of 'fog train global'."""
    local_options: tuple[str, ...] = ()
    """Further options of 'fog train local'."""
    world_model_time: str = "15m"
    """For each world model."""
    options: tuple[str, ...] = ()
    """``METHOD.SETTING=VALUE``; what the user gives comes after them and counts."""


_TASKS = {
    # At 32x32, 16 steps ahead, after the same time of two cores: 30 dB and an action sensitivity of
    # 2.5, where "small" has 27 dB and 1.3.
    "pusht_easy": FoundGood(
        steps=60_000,
        # A local model of nine minutes points the right way for two steps only, and no method
        # climbs with it.
        world_model_time="45m",
        global_preset="medium",
        global_options=(
            "--moving-windows", "0.6", "--batch-size", "16", "--learning-rate", "8e-4",
        ),
        local_options=("--reward-std", "0.03"),
        options=(
            "fog.sampling_steps=1", "fog.environments=64", "fog.horizon=8", "fog.actor_passes=2",
            "fog.actor_rate=5e-4", "fog.actor_rate_end=0.1", "fog.temperature=0.003",
            "fog.entropy_target=-2", "fog.gamma=0.95", "fog.imagined_episode=24",
            "fog.refresh_steps=6",
            # First where steps are cheap; the global model goes on from there.
            "fog.local_share=0.3",
            "ppo.sampling_steps=1", "ppo.environments=64", "ppo.horizon=16", "ppo.segment=8",
            "ppo.gamma=0.95", "ppo.actor_average=0.97", "ppo.imagined_episode=24",
            "local.environments=64", "local.horizon=8", "local.actor_rate=5e-4",
            "local.actor_rate_end=0.1", "local.temperature=0.003", "local.entropy_target=-2",
            "local.gamma=0.95", "local.imagined_episode=24",
        ),
    ),
}  # fmt: skip


def found_good(task: TaskConfig) -> FoundGood:
    """What was found good for a task, by its name."""
    return _TASKS.get(task.name, FoundGood())
