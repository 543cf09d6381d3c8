"""What an experiment says, on figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fog_bringup.experiment_verdict import (
    AHEAD,
    BEHIND,
    OPEN,
    at_budget,
    bootstrap_two_level,
    budgets,
    claims,
    comparisons,
    interval,
    pooled,
    pooled_curve,
    sentence,
    success,
    verdict,
)
from fog_policy.evaluation import bootstrap_mean


def evaluation(share: float, seconds: float, steps: int, *covered: float) -> dict[str, Any]:
    return {
        "share": share, "seconds": seconds, "imagined_steps": steps, "max_coverage": list(covered)
    }  # fmt: skip


def run(*curve: dict[str, Any]) -> dict[str, Any]:
    return {"curve": list(curve), **curve[-1]}


def test_one_training_seed_is_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(1).uniform(size=40)
    mine, other = bootstrap_two_level([values]), bootstrap_mean(values)
    assert mine.mean == pytest.approx(values.mean())
    assert (mine.low, mine.high) == pytest.approx((other.low, other.high), abs=0.01)


def test_training_seeds_that_disagree_widen_the_interval() -> None:
    # Two seeds, of which one always fails: a quarter of the draws take it twice, a quarter never.
    found = bootstrap_two_level([[0.0] * 50, [1.0] * 50])
    assert (found.low, found.mean, found.high) == pytest.approx((0.0, 0.5, 1.0))
    # Two that agree: the interval is that of the start states alone.
    values = np.random.default_rng(2).uniform(size=50)
    agree, once = bootstrap_two_level([values, values]), bootstrap_mean(values)
    assert agree.high - agree.low == pytest.approx(once.high - once.low, rel=0.1)


def test_pooled_by_hand() -> None:
    rows = [evaluation(1, 1, 1, 0.96, 0.5, 0.1, 0.3), evaluation(1, 1, 1, 0.8, 0.7)]
    figures = pooled(rows)
    assert (figures["training_seeds"], figures["episodes"]) == (2, 4), "start states of both"
    assert figures["mean_max_coverage"] == pytest.approx((0.96 + 0.5 + 0.8 + 0.7) / 4)
    assert (figures["success_95"], figures["success_80"]) == (0.25, 0.5)
    assert pooled(rows, 1)["mean_max_coverage"] == pytest.approx(0.88)
    figures |= {"low": 0.5, "high": 0.961}
    assert interval(figures) == "0.74 [0.50, 0.96]"
    assert success(pooled([evaluation(1, 1, 1, *[0.9] * 10)]), 80) == "100\u00a0% [72, 100]"


def test_the_curve_is_over_the_same_start_states_all_the_way() -> None:
    runs = [
        run(evaluation(0.0, 0, 0, 0.1, 0.3), evaluation(1.0, 10, 100, 0.5, 0.7, 0.0, 0.0)),
        run(evaluation(0.0, 0, 0, 0.3, 0.5), evaluation(0.5, 7, 60, 0.6, 0.6),
            evaluation(1.0, 12, 140, 0.7, 0.9, 0.0, 0.0)),
    ]  # fmt: skip
    start, end = pooled_curve(runs)
    assert (start["share"], end["share"]) == (0.0, 1.0), "0.5 is not there for both"
    assert start["mean_max_coverage"] == pytest.approx(0.3)
    assert end["mean_max_coverage"] == pytest.approx(0.7), "without the zeros of later states"
    assert (end["seconds"], end["imagined_steps"]) == (11.0, 120.0)
    assert pooled_curve([]) == []


def test_what_a_budget_pays_for() -> None:
    curve = [evaluation(s, 100 * s, 0, s) for s in (0.0, 0.25, 0.5, 1.0)]
    chosen = [at_budget(curve, "seconds", b) for b in (0, 24.5, 23, 49, 94, 96, 1000)]
    shares = [None if c is None else c["share"] for c in chosen]
    # 24.5 s pay for the evaluation at 25 s, which is less than a twentieth late; 23 s do not.
    assert shares == [0.0, 0.25, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert at_budget(curve[1:], "seconds", 10) is None


def test_budgets() -> None:
    fog = [run(evaluation(1, 80, 400, 1.0)), run(evaluation(1, 84, 600, 1.0))]
    other = [run(evaluation(1, 8, 200, 1.0))]
    # A method that has finished stays what it is; but nobody has imagined more than it did.
    assert budgets(fog, other, "seconds") == [20, 40, 60, 80]
    assert budgets(fog, other, "imagined_steps") == [50, 100, 150, 200]
    assert budgets(fog, [run(evaluation(1, 80, 0, 1.0))], "imagined_steps") == []


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [((0.5, 0.7), (0.2, 0.4), AHEAD), ((0.5, 0.7), (0.2, 0.5), OPEN),
     ((0.1, 0.3), (0.2, 0.5), OPEN), ((0.1, 0.3), (0.31, 0.5), BEHIND)],
)  # fmt: skip
def test_verdict(mine: tuple[float, float], other: tuple[float, float], expected: str) -> None:
    sides = [dict(zip(("low", "high"), ends, strict=True)) for ends in (mine, other)]
    assert verdict(sides[0], sides[1]) == expected


def methods() -> dict[str, Any]:
    """FoG learns; PPO does, but later; cloning is there at once and imagines nothing."""
    spread = np.linspace(-0.02, 0.02, 20)

    def rows(level: float, more: int = 0) -> list[float]:
        return [*(level + spread).tolist(), *[0.0] * more]

    fog = [
        run(evaluation(0.0, 0, 0, *rows(0.2)), evaluation(0.5, 50, 1000, *rows(0.6)),
            evaluation(1.0, 100, 2000, *rows(0.9, 5)))
        for _ in range(2)
    ]  # fmt: skip
    ppo = [
        run(evaluation(0.0, 0, 0, *rows(0.2)), evaluation(0.12, 12, 1000, *rows(0.2)),
            evaluation(0.5, 50, 4000, *rows(0.3)), evaluation(1.0, 101, 8000, *rows(0.9, 5)))
        for _ in range(2)
    ]  # fmt: skip
    bc = [run(evaluation(0.0, 0, 0, *rows(0.2)), evaluation(1.0, 5, 0, *rows(0.7, 5)))]
    found: dict[str, Any] = {}
    for name, runs in (("fog", fog), ("ppo", ppo), ("bc", bc)):
        found[name] = {"title": name, "seeds": runs, "pooled": pooled(runs)}
    return found


def test_comparisons_by_hand() -> None:
    found = comparisons(methods())
    verdicts = {
        (against, measure): [
            c["verdict"] for c in found if (c["against"], c["measure"]) == (against, measure)
        ]
        for against in ("ppo", "bc")
        for measure in ("seconds", "imagined_steps")
    }
    # At 25 and 75 s: the evaluations at 0 and 50 s. At 100 s both are at 0.9.
    assert verdicts["ppo", "seconds"] == [OPEN, AHEAD, AHEAD, OPEN]
    # At 500 samples nobody was evaluated. 1000, 1500 and 2000 pay for FoG's 0.6, 0.6 and 0.9, and
    # for PPO's 0.2 after 1000.
    assert verdicts["ppo", "imagined_steps"] == [AHEAD, AHEAD, AHEAD]
    assert verdicts["bc", "seconds"] == [BEHIND, BEHIND, BEHIND, OPEN]
    assert verdicts["bc", "imagined_steps"] == []
    last = next(c for c in found if c["against"] == "bc" and c["budget"] == 100)
    assert last["fog"]["mean_max_coverage"] == pytest.approx(0.9 * 20 / 25), "all 25 states"
    half = next(c for c in found if c["measure"] == "imagined_steps" and c["budget"] == 2000)
    assert half["fog"]["mean_max_coverage"] == pytest.approx(0.9), "the 20 that PPO had as well"
    assert sentence(half).startswith("After 2,000 samples FoG is ahead of PPO: 0.90 [0.8")
    assert comparisons({"ppo": methods()["ppo"]}) == []


def test_a_method_is_not_judged_by_what_it_was_before_it_learned() -> None:
    """By samples, one that is first evaluated after 4000 of them is not compared at 2000."""
    content = methods()
    for late in content["ppo"]["seeds"]:
        del late["curve"][1]
    assert [c for c in comparisons(content) if c["measure"] == "imagined_steps"] == []


def test_claims_count_budgets() -> None:
    content = methods()
    results = {
        "task": {"success_percent": 80}, "methods": content, "comparisons": comparisons(content)
    }  # fmt: skip
    level, seconds, samples, cloning = claims(results)
    assert level.holds is False
    assert level.figure == "80\u00a0%", "20 of 25 start states"
    assert (seconds.holds, seconds.figure) == (False, "2 of 4")
    assert (samples.holds, samples.figure) == (True, "3 of 3")
    assert (cloning.holds, cloning.figure) == (False, "0 of 4")
    assert "Ahead at 2, not separated at 2 of 4 budgets." in seconds.detail
    assert claims({**results, "methods": {}})[0].holds is None
