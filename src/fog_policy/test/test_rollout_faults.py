"""Whatever is not finite stops the update, and is named where it came about first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.outcome import Outcome

NAN = float("nan")


class Broken(GlobalModel):
    """Stands still; from the second step on a part of what it shows in environment 2 is NaN."""

    part = ""
    taken = 0

    def step(
        self, state: WorldState, action: Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        self.taken += 1
        frames, vector = state.frames.clone(), state.proprioception.clone()
        reward = torch.zeros(len(action))
        if self.taken > 1:
            {"frame": frames[:, -1], "proprioception": vector, "reward": reward}[self.part][2] = NAN
        after = replace(state, frames=frames, proprioception=vector)
        return after, Outcome(reward, torch.zeros(len(action)), vector)


@pytest.mark.parametrize("part", ["frame", "proprioception", "reward"])
def test_of_the_global_model(
    make_trainer: Callable[..., FogTrainer], tiny_config: FogConfig, part: str
) -> None:
    kind = type("Broken", (Broken,), {"part": part})
    made = make_trainer(tiny_config, kind)
    with pytest.raises(
        FogError,
        match=rf"^update 0: the global model's {part} is not finite at step 1 of the rollout, in "
        r"1 of 4 environments; its weights or the contexts are at fault",
    ):
        made.update()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("actor", "the actor's action is not finite at step 0 .* lower actor_rate"),
        ("reward", "the local model's reward is not finite at step 0 .* lower refresh_rate"),
        ("prior", "the local model's next state is not finite at step 0 .* lower refresh_rate"),
        ("target", "the critic's value of the last states is not finite; lower critic_rate"),
        ("critic", "the gradient of the critic is not finite .*; lower critic_rate"),
        ("decoder", "the gradient of the local model is not finite .*; lower refresh_rate"),
        ("temperature", "the temperature of the entropy is not finite; lower temperature_rate"),
    ],
)
def test_of_a_network(
    make_trainer: Callable[..., FogTrainer], tiny_config: FogConfig, network: str, message: str
) -> None:
    made = make_trainer(tiny_config)
    outcome = made.env.model.outcome
    last = outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[outcome.config.bins] = -100.0  # no ends: the buffer is not empty
        broken: dict[str, Tensor] = {
            "actor": made.actor.body[0].weight,
            "reward": made.local_model.reward_head[0].weight,
            "prior": made.local_model.rssm.prior_head[0].weight,
            "target": made.target.body[0].weight,
            "critic": made.critic.body[0].weight,
            "decoder": next(made.local_model.decoder.parameters()),
            "temperature": made.log_temperature,
        }
        broken[network].fill_(NAN)
    with pytest.raises(FogError, match=f"^update 0: {message}"):
        made.update()


def test_the_first_of_several_is_named(
    make_trainer: Callable[..., FogTrainer], tiny_config: FogConfig
) -> None:
    """A frame that is NaN at step 1 spoils the state after it and all that follows."""
    made = make_trainer(
        replace(tiny_config, horizon=6), type("Broken", (Broken,), {"part": "frame"})
    )
    with pytest.raises(FogError, match="the global model's frame is not finite at step 1"):
        made.update()
