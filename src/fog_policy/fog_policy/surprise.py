"""The out-of-distribution guard: how much each observation surprises the local model.

At every step the local model predicts its stochastic state before it sees the observation (prior),
and corrects it after (posterior). The information that the observation brought is

    KL(posterior || prior) = sum log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2   [nats]

with means m and standard deviations s of the posterior (q) and the prior (p): the closed form for
diagonal Gaussians (:func:`fog_world_model.local_model.rssm.kl_divergence`), and the term that the
model's own evidence bound charges for a step (Hafner et al. 2019, arXiv 1811.04551, equation 3).
On the recordings it has a range; outside it the model sees what it was not fitted to, and a policy
that acts on its state is not to be trusted.

Two things stop the robot, for the measure alone forgets: the state soon takes a camera that went
black for granted, and then nothing is surprising any more.

- A shock: one step above ``shock_nats``. The robot stays stopped until a person resets it or a new
  episode begins, for that the steps after it are calm means nothing.
- ``steps`` steps in a row above ``threshold_nats``, that is, the smallest of the last ``steps``
  values above it. The robot goes on after as many calm steps.

Each limit is a quantile of just what is compared with it - one value, and the smallest of ``steps``
in a row - over the recordings, with half of ``false_alarm`` for either. So the share of recorded
steps at which the guard begins to stop is at most ``false_alarm`` by construction, however
neighbouring steps hang together (for which the power of a quantile would be wrong).

The guard sees changes, not states: a camera that was frozen or half covered from the start of an
episode on may look like any other recording to it. It does not replace the bounds on ages.

The node gives :class:`SurpriseGuard` what the controller says after every ``act``
(``Controller.surprise``), and puts the reason that comes back among the ``faults`` of the tick's
:class:`fog_policy.safety.Situation`. It calls ``reset`` upon activation, when a new episode begins
and when a person resets the emergency stop, and ``restart`` when it resets the controller for
another reason (a gap in a stream).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_policy.safety import Reason
from fog_world_model.errors import FogError

Nats = npt.NDArray[np.float64]

STEPS = 3
"""Steps in a row above the threshold before the robot stops: 0.6 s at 5 Hz."""
WARM_UP = 5
"""Steps after a reset that are not judged: the state knows nothing yet, so everything is new."""
FALSE_ALARM = 1e-4
"""Share of steps like the recorded ones at which the guard may stop: at 5 Hz one in 2000 s."""


@dataclass(frozen=True)
class SurpriseRange:
    """The range of the surprise on the recordings, as a bundle's manifest holds it."""

    threshold_nats: float
    """Steps above it are surprising."""
    shock_nats: float
    """One step above it stops the robot."""
    steps: int
    """This many of them in a row stop the robot."""
    warm_up: int
    """Steps after a reset that are not judged."""
    false_alarm: float
    """Largest share of the judged recorded steps at which the guard stops, as asked for: half of it
    by shocks, half by steps in a row."""
    judged: int
    """Recorded steps that end ``steps`` in a row: what the threshold is a quantile of."""
    episodes: int
    """Episodes that they came from."""
    median_nats: float
    """Median surprise of the recorded steps after the warm-up."""
    largest_nats: float
    """Largest surprise among them."""
    data_hash: str = ""
    """Of the episode store."""

    @property
    def rate(self) -> float:
        """False alarms per step that the recordings can vouch for.

        What was asked for, but no less than 2 / (N + 1) after N judged steps: of N + 1 exchangeable
        values the last exceeds all the others with probability 1 / (N + 1), and there are two
        limits to exceed.
        """
        return max(self.false_alarm, 2.0 / (self.judged + 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(content: object, source: str) -> SurpriseRange:
        """Read what :meth:`to_dict` gave.

        Args:
            content: Plain data.
            source: Named in the message.

        Raises:
            FogError: A value is missing, unknown, or makes no range.
        """
        try:
            if not isinstance(content, Mapping):
                raise TypeError(f"{content!r} is no mapping")
            found = SurpriseRange(**content)
            numbers = (
                found.threshold_nats, found.shock_nats, found.median_nats, found.largest_nats,
            )  # fmt: skip
            whole = (found.steps, found.warm_up, found.judged, found.episodes)
            valid = all(math.isfinite(v) for v in numbers) and all(
                isinstance(v, int) and v >= 0 for v in whole
            )
            if not (valid and found.steps >= 1 and 0 <= found.false_alarm < 1):
                raise ValueError(f"{dict(content)} is no range")
        except (TypeError, ValueError) as error:
            raise FogError(
                f"{source}: surprise in the manifest cannot be read: {error}; export the policy "
                "again"
            ) from error
        return found

    def describe(self, control_hz: float) -> str:
        """The range and its false alarms in a sentence, for the log."""
        return (
            f"stops at a step above {self.shock_nats:.3g} nats or {self.steps} in a row above "
            f"{self.threshold_nats:.3g} nats (recordings: "
            f"median {self.median_nats:.3g}, largest {self.largest_nats:.3g}, {self.judged} steps "
            f"of {self.episodes} episodes); on what is like them a false stop about once in "
            f"{1 / (self.rate * control_hz):.0f} s or less often"
        )


def fit_range(
    nats: Sequence[Nats],
    *,
    steps: int = STEPS,
    warm_up: int = WARM_UP,
    false_alarm: float = FALSE_ALARM,
    data_hash: str = "",
) -> SurpriseRange:
    """Compute the range of the surprise from recorded episodes.

    Args:
        nats: For each episode ``[step]``: :func:`.recorded_surprise.surprise_of_store`.
        steps: Steps in a row above the threshold that stop the robot.
        warm_up: Steps at the start of each episode that are not judged.
        false_alarm: Largest share of the judged steps at which the guard may stop, in [0, 1).
        data_hash: Of the store that they came from.

    Raises:
        FogError: A setting is impossible, a value is not finite, or no episode is long enough.
    """
    if steps < 1 or warm_up < 0 or not 0 <= false_alarm < 1:
        raise FogError(
            f"surprise: steps {steps}, warm_up {warm_up} and false_alarm {false_alarm} must be at "
            "least 1, at least 0 and in [0, 1)"
        )
    judged = [n[warm_up:] for n in nats if len(n) >= warm_up + steps]
    if not judged:
        raise FogError(
            f"surprise: no episode has {warm_up + steps} steps or more, so there is no range; "
            "record longer episodes"
        )
    values = np.concatenate(judged)
    if not np.isfinite(values).all():
        raise FogError("surprise: the local model's KL on the recordings is not finite")
    smallest = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(n, steps).min(axis=1) for n in judged]
    )
    # The next higher recorded value: no more than the share asked for lies above it.
    threshold, shock = (
        float(np.quantile(v, 1.0 - false_alarm / 2, method="higher")) for v in (smallest, values)
    )
    return SurpriseRange(
        threshold_nats=threshold,
        shock_nats=shock,
        steps=steps,
        warm_up=warm_up,
        false_alarm=false_alarm,
        judged=len(smallest),
        episodes=len(judged),
        median_nats=float(np.median(values)),
        largest_nats=float(values.max()),
        data_hash=data_hash,
    )


class SurpriseGuard:
    """Watches the surprise from step to step.

    Args:
        found: The bundle's range; None where an older bundle holds none: the guard is off.
        margin: The task's ``safety.surprise_margin``: factor on the threshold; 0: off.
    """

    def __init__(self, found: SurpriseRange | None, margin: float = 1.0) -> None:
        self.range, self._margin = found, margin
        self.off: str | None = None
        """Why nothing is watched, for the log; None: the guard is on."""
        if margin <= 0:
            self.off = "safety.surprise_margin is 0"
        elif found is None:
            self.off = (
                "the bundle does not hold the range of the surprise on the recordings; export it "
                "again with a newer version"
            )
        self.reset()

    def reset(self) -> None:
        """Begin anew, and let the robot go on after a shock."""
        self._shock: Reason | None = None
        self.restart()

    def restart(self) -> None:
        """Begin anew with a controller that was reset; a shock still stops the robot."""
        self._seen = 0
        self._above = 0
        self._calm = 0
        self._stopped = False

    def update(self, nats: float | None) -> Reason | None:
        """Take in a step.

        Args:
            nats: Surprise of the step; None where the controller did not say.

        Returns:
            Why the robot has to stop: after a shock until the reset, else until as many steps in a
            row are calm as had to be surprising. None: it may go on.
        """
        found = self.range
        if found is None or self.off is not None:
            return None
        if nats is None:
            return Reason(
                "out_of_distribution", "the policy did not say how surprising the step is"
            )
        self._seen += 1
        if self._seen <= found.warm_up:
            return self._shock
        limit, shock = found.threshold_nats * self._margin, found.shock_nats * self._margin
        # Written so that NaN is surprising.
        if self._shock is None and not nats <= shock:
            self._shock = Reason(
                "out_of_distribution",
                f"the local model's surprise was {nats:.3g} nats at one step (limit {shock:.3g} "
                "nats); reset it to go on",
            )
        surprising = not nats <= limit
        self._above = self._above + 1 if surprising else 0
        self._calm = 0 if surprising else self._calm + 1
        if self._above >= found.steps:
            self._stopped = True
        elif self._calm >= found.steps:
            self._stopped = False
        if self._shock is not None or not self._stopped:
            return self._shock
        after = f"for {self._above} steps" if surprising else f"calm for {self._calm} steps only"
        return Reason(
            "out_of_distribution",
            f"the local model's surprise is {nats:.3g} nats (limit {limit:.3g} nats over "
            f"{found.steps} steps), {after}",
        )
