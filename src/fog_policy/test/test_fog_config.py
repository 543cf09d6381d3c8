"""Settings that cannot be are refused where they are made, with their name."""

from __future__ import annotations

from typing import Any

import pytest

from fog_policy.fog_config import FogConfig
from fog_world_model.errors import FogError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environments": 0}, "environments is 0; expected more than 0"),
        ({"gamma": 1.01}, "gamma is 1.01; expected 0 to 1"),
        ({"gamma": float("nan")}, "gamma is nan; expected"),
        ({"horizon_end": -1}, "horizon_end is -1; expected 0 or more"),
        ({"local_share": 2.0}, "local_share is 2.0; expected 0 to 1"),
        ({"entropy_target": 0.0}, "entropy_target is 0.0; expected less than 0"),
        ({"anchor": -1.0}, "anchor is -1.0; expected 0 or more"),
        ({"actor_average": 1.0}, "actor_average is 1.0; expected 0 or more, and less than 1"),
        ({"actor_rate_end": 1.5}, "actor_rate_end is 1.5; expected 0 to 1"),
        ({"precision": "half"}, "precision half: expected auto, float32 or bfloat16"),
        ({"check_directions": 0}, "check_directions is 0; expected more than 0"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FogError) as failure:
        FogConfig(**changes)
    assert str(failure.value).startswith(message)


def test_defaults_are_what_the_loop_can_use() -> None:
    config = FogConfig()
    assert config.horizon_at(0.0) == config.horizon_at(1.0) == config.refresh_window == 16


def test_the_rate_of_the_actor_falls_in_equal_steps() -> None:
    config = FogConfig(actor_rate=1e-3, actor_rate_end=0.2)
    rates = [config.actor_rate_at(share) for share in (0.0, 0.25, 1.0, 1.1)]
    assert rates == pytest.approx([1e-3, 8e-4, 2e-4, 2e-4])
