"""How a policy's commands in a replay compare with the recorded ones. No ROS here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_world_model.errors import FogError

Array = npt.NDArray[np.float64]

MIN_FOR_CORRELATION = 3


@dataclass(frozen=True)
class FieldComparison:
    """One field of the command, over all pairs; in the field's own unit."""

    field: str
    recorded_mean: float
    policy_mean: float
    mean_absolute_difference: float
    rms_difference: float
    largest_difference: float
    correlation: float | None
    """Pearson's; None with fewer than three pairs or where one side is constant."""
    same_sign: float | None
    """Share of the pairs whose recorded command is not zero in which both point the same way."""


@dataclass(frozen=True)
class ReplayComparison:
    """What :func:`compare_commands` finds."""

    fields: tuple[FieldComparison, ...]
    pairs: int
    policy_commands: int
    recorded_commands: int
    policy_zero: int
    """Commands of the policy that are zero in every field, as those of a stop are."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "pairs": self.pairs,
            "policy_commands": self.policy_commands,
            "recorded_commands": self.recorded_commands,
            "policy_zero": self.policy_zero,
            "fields": {
                f.field: {k: v for k, v in vars(f).items() if k != "field"} for f in self.fields
            },
        }

    def table(self) -> str:
        """The same as text, one line a field."""
        lines = [
            (
                f"{self.pairs} commands of the policy beside recorded ones "
                f"({self.policy_commands} of the policy, {self.policy_zero} of them zero; "
                f"{self.recorded_commands} recorded)"
            ),
            (
                f"{'field':<12}{'recorded':>10}{'policy':>10}{'mean |d|':>10}{'rms d':>10}"
                f"{'max |d|':>10}{'corr.':>8}{'same sign':>11}"
            ),
        ]
        for f in self.fields:
            numbers = (
                *(f.recorded_mean, f.policy_mean, f.mean_absolute_difference),
                *(f.rms_difference, f.largest_difference),
            )
            correlation = "-" if f.correlation is None else f"{f.correlation:.2f}"
            sign = "-" if f.same_sign is None else f"{100 * f.same_sign:.0f} %"
            lines.append(
                f"{f.field:<12}"
                + "".join(f"{x:>10.3f}" for x in numbers)
                + f"{correlation:>8}{sign:>11}"
            )
        return "\n".join(lines)


def compare_commands(
    fields: Sequence[str],
    recorded_ns: npt.ArrayLike,
    recorded: npt.ArrayLike,
    policy_ns: npt.ArrayLike,
    policy: npt.ArrayLike,
    *,
    tolerance_ns: int,
) -> ReplayComparison:
    """Pair every command of the policy with the recorded one that is nearest in time.

    Args:
        fields: Names of the command's fields, for example ``linear.x``.
        recorded_ns: ``[recorded]``, arrival in the recording's time, ns, ascending.
        recorded: ``[recorded, field]``, physical units.
        policy_ns: ``[policy]``, the same clock's time at which the policy's command came, ns.
        policy: ``[policy, field]``, physical units.
        tolerance_ns: Two commands further apart than this are no pair; half a control period
            gives each at most one partner of the same step.

    Raises:
        FogError: The shapes do not agree, or a value is not finite.
    """
    r_ns, p_ns = np.asarray(recorded_ns, np.int64), np.asarray(policy_ns, np.int64)
    r = np.asarray(recorded, np.float64).reshape(-1, len(fields))
    p = np.asarray(policy, np.float64).reshape(-1, len(fields))
    if r_ns.shape != (len(r),) or p_ns.shape != (len(p),):
        raise FogError(
            f"commands and their times do not agree: {r_ns.shape} times for {r.shape} recorded, "
            f"{p_ns.shape} for {p.shape} of the policy"
        )
    if not (np.isfinite(r).all() and np.isfinite(p).all()):
        raise FogError("a command is not finite: nothing can be compared with it")
    near, found = _nearest(r_ns, p_ns, tolerance_ns)
    pairs_r, pairs_p = r[near[found]], p[found]
    return ReplayComparison(
        fields=tuple(_field(name, pairs_r[:, i], pairs_p[:, i]) for i, name in enumerate(fields)),
        pairs=int(found.sum()),
        policy_commands=len(p),
        recorded_commands=len(r),
        policy_zero=int((p == 0).all(axis=1).sum()) if len(p) else 0,
    )


def _nearest(
    times: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], tolerance_ns: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Index of the nearest of ``times`` for each of ``wanted``, and whether it is near enough."""
    if not len(times) or not len(wanted):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), bool)
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    near = np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)
    return near, np.abs(times[near] - wanted) <= tolerance_ns


def _field(name: str, recorded: Array, policy: Array) -> FieldComparison:
    if not len(recorded):
        return FieldComparison(name, 0.0, 0.0, 0.0, 0.0, 0.0, None, None)
    difference = policy - recorded
    varies = len(recorded) >= MIN_FOR_CORRELATION and recorded.std() > 0 and policy.std() > 0
    moves = recorded != 0
    return FieldComparison(
        field=name,
        recorded_mean=float(recorded.mean()),
        policy_mean=float(policy.mean()),
        mean_absolute_difference=float(np.abs(difference).mean()),
        rms_difference=float(np.sqrt(np.mean(difference**2))),
        largest_difference=float(np.abs(difference).max()),
        correlation=float(np.corrcoef(recorded, policy)[0, 1]) if varies else None,
        same_sign=float((np.sign(recorded) == np.sign(policy))[moves].mean())
        if moves.any()
        else None,
    )
