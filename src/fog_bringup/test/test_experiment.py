"""``fog experiment``: a tiny one, from the command line."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fog_bringup import experiment_jobs as module
from fog_bringup.cli import main
from fog_bringup.experiment_jobs import Job
from fog_bringup.experiment_run import ExperimentRun, RunPlan
from fog_bringup.experiment_verdict import interval, success
from fog_bringup.method_options import configuration
from fog_bringup.tasks import find_task
from fog_bringup.zero_shot import FIRST_SEED
from fog_policy.bundle import load_bundle
from fog_policy.methods import Sources, require_methods
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter, Normalisation
from fog_world_model.task import TaskConfig
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import train_global, train_local

torch.set_num_threads(1)
METHODS = ("fog", "ppo", "local", "bc")
SMALL = ["--options", "fog.environments=2", "fog.horizon=4", "fog.check_every=0",
         "fog.precision=float32", "local.environments=2", "local.horizon=4", "ppo.environments=2",
         "ppo.horizon=4", "ppo.segment=4", "ppo.minibatches=2", "ppo.precision=float32",
         "bc.patience=1"]  # fmt: skip
UNIFORM = Normalisation.from_dict({"mean": [0.25, 0.25], "std": [0.1, 0.1]})


@pytest.fixture(scope="module")
def task() -> TaskConfig:
    """Push-T in episodes of three steps."""
    task = find_task("pusht_easy")
    return dataclasses.replace(task, episode=dataclasses.replace(task.episode, max_steps=3))


@pytest.fixture(scope="module")
def folder(task: TaskConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file, made-up recordings, and world models that have hardly been trained."""
    folder = tmp_path_factory.mktemp("experiment")
    task.save(folder / "task.yaml")
    generator = np.random.default_rng(0)
    with EpisodeWriter(folder / "store", task) as writer:
        for number in range(6):
            length = 12 + number
            writer.append(
                Episode(
                    image=generator.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8),
                    proprioception=generator.uniform(0, 0.5, (length, 2)).astype(np.float32),
                    action=generator.uniform(-1, 1, (length, 2)).astype(np.float32),
                    reward=generator.uniform(size=length).astype(np.float32),
                    end=np.zeros(length, bool),
                    stamp_ns=np.arange(length) * task.period_ns,
                ),
                source=f"made_up#{number}",
            )
        store = writer.finish(validation_fraction=0.3, report={})
    loop = LoopConfig(max_steps=1, batch_size=2, device="cpu", threads=1)
    train_global(store, folder / "first", loop, preset="tiny")
    train_global(store, folder / "global", loop, start_from=folder / "first")
    train_local(store, folder / "local", loop, preset="tiny", window=5)
    return folder


def command(folder: Path, *more: str) -> list[str]:
    """Of two evaluations after the first; learning ends after 16 imagined steps, or 1.5 s."""
    return [
        "experiment", str(folder / "task.yaml"), "--output", str(folder / "out"),
        "--store", str(folder / "store"), "--global-model", str(folder / "global"),
        "--local-model", str(folder / "local"), "--time-budget", "1.5s", "--imagined-steps", "16",
        "--evaluations", "2", "--episodes", "4", "--episodes-along", "2", "--device", "cpu",
        "--threads", "1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    """The folder of a finished experiment, and what is in it."""
    assert main(command(folder, "--methods", ",".join(METHODS), "--seeds", "1", *SMALL)) == 0
    return folder / "out"


def read(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


def test_results(out: Path, folder: Path, task: TaskConfig) -> None:
    results = read(out)
    assert list(results["methods"]) == list(METHODS)
    assert results["task"]["success_percent"] == 80
    for name, method in results["methods"].items():
        (run,) = method["seeds"]
        wanted = {"imagined_steps", "seconds", "success_95", "success_80", "mean_max_coverage",
                  "low", "high", "curve"}  # fmt: skip
        assert wanted <= set(run)
        assert run["low"] <= run["mean_max_coverage"] <= run["high"]
        assert run["mean_max_coverage"] == pytest.approx(np.mean(run["max_coverage"]))
        assert [len(e["max_coverage"]) for e in run["curve"]][-1] == 4
        assert all(len(e["max_coverage"]) == 2 for e in run["curve"][:-1])
        assert (run["curve"][0]["share"], run["curve"][-1]["share"]) == (0.0, 1.0)
        assert run["imagined_steps"] == 0 if name == "bc" else 8 <= run["imagined_steps"] <= 16
        # The same start states: nobody has moved the block before the first step.
        standing = results["baselines"]["standing"]["max_coverage"]
        assert all(a >= b - 1e-9 for a, b in zip(run["max_coverage"], standing, strict=True))
        bundle = load_bundle(out / "runs" / f"{name}_0" / "policy.bundle", task)
        assert bundle.manifest["method"] == name
        assert not (out / "runs" / f"{name}_0" / "policy").exists()
    models = results["world_models"]
    # The global model has cost what the one did that it started from, too.
    for kind, runs in (("global", ("first", "global")), ("local", ("local",))):
        spent = [
            json.loads((folder / run / "manifest.json").read_text())["seconds"] for run in runs
        ]
        assert models[kind]["seconds"] == pytest.approx(sum(spent))
        assert models[kind]["step"] == len(runs)
    assert models["data"]["hash"] == EpisodeStore(folder / "store").data_hash
    assert {c["against"] for c in results["comparisons"]} == {"ppo", "local", "bc"}
    assert "bc" not in {
        c["against"] for c in results["comparisons"] if c["measure"] == "imagined_steps"
    }
    assert results["machine"]["cores"]
    assert results["commit"]


def test_the_bundle_gives_the_figures_again(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, film = out / "runs" / "fog_0" / "policy.bundle", tmp_path / "film.webp"
    arguments = ["evaluate", "zero-shot", str(bundle), "--episodes", "4", "--film", str(film)]
    assert main(arguments) == 0
    found, results = json.loads(capsys.readouterr().out), read(out)
    run = results["methods"]["fog"]["seeds"][0]
    assert found["policy"]["max_coverage"] == pytest.approx(run["max_coverage"], abs=1e-4)
    driver = results["baselines"]["driver"]
    assert found["driver"] == {k: v for k, v in driver.items() if k != "max_coverage"}
    with Image.open(film) as picture:
        assert picture.size == (4 * 96 + 3 * 2, 96)


def test_the_page_says_what_the_results_say(out: Path) -> None:
    results, text = read(out), (out / "experiment.html").read_text()
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text), "it needs nothing but itself"
    rows = {}
    for row in re.findall(r"<tr>(.*?)</tr>", text):
        first, *others = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        rows[html.unescape(first)] = [html.unescape(cell) for cell in others]
    everyone = {m["title"]: m["pooled"] for m in results["methods"].values()}
    everyone |= {f"{m['title']}, seed 0": m["seeds"][0] for m in results["methods"].values()}
    everyone["scripted driver"] = results["baselines"]["driver"]
    for title, figures in everyone.items():
        assert rows[title][-3:] == [success(figures, 95), success(figures, 80), interval(figures)]
    run = results["methods"]["fog"]["seeds"][0]
    assert rows["FoG, seed 0"][:2] == [f"{run['updates']:,}", f"{run['imagined_steps']:,}"]
    assert text.count('class="film"') == 4 + 3
    assert html.escape(json.dumps(results["methods"]["fog"]["pooled"]["low"])) in text


def test_a_finished_run_is_not_repeated_and_another_seed_is_added(
    out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(out)
    made: list[tuple[str, int]] = []
    make = module.make_learner

    def spy(name: str, sources: Any, config: Any, start_from: Path | None) -> Any:
        made.append((name, config.seed))
        return make(name, sources, config, start_from)

    monkeypatch.setattr(module, "make_learner", spy)
    assert main(command(folder, "--methods", ",".join(METHODS), "--seeds", "1", *SMALL)) == 0
    assert made == []
    again = read(out)
    assert again["methods"] == before["methods"]
    assert main(command(folder, "--methods", "bc", "--seeds", "2", *SMALL)) == 0
    assert made == [("bc", 1)]
    assert read(out)["methods"]["bc"]["pooled"]["training_seeds"] == 2


def test_runs_side_by_side_learn_the_same(
    out: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In processes of their own, with the same numbers; one that fails does not stop another."""
    both = command(folder, "--methods", "local,ppo,bc", "--seeds", "1", "--jobs", "2", *SMALL)
    both[both.index("--output") + 1] = str(folder / "out_jobs")
    assert main([*both, "ppo.learning_rate=1e30"]) == 2
    said = capsys.readouterr().err
    assert "ppo, seed 0: update" in said and "not finite" in said
    beside = folder / "out_jobs"
    assert read(beside)["methods"]["ppo"]["seeds"] == []
    for name in ("local", "bc"):
        one, other = (
            json.loads((place / "runs" / f"{name}_0" / "run.json").read_text())
            for place in (out, beside)
        )
        assert one["config"] == other["config"]
        assert (one["updates"], one["imagined_steps"]) == (
            other["updates"],
            other["imagined_steps"],
        )
        coverages = [[e["max_coverage"] for e in run["evaluations"]] for run in (one, other)]
        assert coverages[0] == coverages[1], name


def test_methods_begin_with_the_cloned_policy_of_their_seed(folder: Path) -> None:
    """Which is trained first, though it is not compared itself."""
    begin = [f"{name}.start_from=bc" for name in ("fog", "ppo", "local")]
    arguments = command(folder, "--methods", "fog,local", "--seeds", "1", *SMALL, *begin)
    arguments[arguments.index("--output") + 1] = str(folder / "out_start")
    assert main(arguments) == 0
    place = folder / "out_start"
    results = read(place)
    assert list(results["methods"]) == ["fog", "local"]
    cloned = load_bundle(place / "runs" / "bc_0" / "policy.bundle")
    for name, method in results["methods"].items():
        assert method["start_from"] == "bc"
        assert "begins with the policy of cloning of the same seed" in method["words"]
        (run,) = method["seeds"]
        assert run["config"]["critic_first"] == 20, "which is longer than the run is"
        bundle = load_bundle(place / "runs" / f"{name}_0" / "policy.bundle")
        assert bundle.manifest["made_from"]["started_from"]["method"] == "bc"
        # The same local model and actor, as nothing but the critic has learned: the same policy.
        weights, others = (b.checkpoint.tensors("weights") for b in (bundle, cloned))
        assert all(torch.equal(value, others[key]) for key, value in weights.items())
        assert run["max_coverage"] == cloned_coverage(place)


def cloned_coverage(place: Path) -> Any:
    content = json.loads((place / "runs" / "bc_0" / "run.json").read_text())
    return content["evaluations"][-1]["max_coverage"]


def test_jobs_side_by_side_end_when_asked_to(folder: Path, task: TaskConfig) -> None:
    store = EpisodeStore(folder / "store")
    sources = Sources(store, folder / "global", folder / "local")
    plan = RunPlan(60.0, evaluations=1, episodes=2, episodes_along=2)
    jobs = [
        Job(
            "local",
            configuration("local", SMALL[1:], seed=seed, threads=1),
            ExperimentRun(folder / "stopped" / str(seed), task, plan, [FIRST_SEED, FIRST_SEED + 1]),
        )
        for seed in range(3)
    ]
    learned: set[str] = set()

    def tell(job: Job, share: float, text: str) -> None:
        if "imagined steps" in text:
            learned.add(job.name)

    with pytest.raises(KeyboardInterrupt):
        list(
            module.carry_out(jobs, sources, at_once=2, show=tell, stopped=lambda: len(learned) == 2)
        )
    for job in jobs[:2]:
        assert (job.run.folder / "policy" / "manifest.json").exists()  # saved, to go on from
        assert job.run.finished() is None
    assert not jobs[2].run.folder.exists()  # never begun


def test_other_settings_are_refused(
    out: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*command(folder, "--methods", "fog", "--seeds", "1", *SMALL), "fog.gamma=0.9"]
    changed[changed.index("--episodes") + 1] = "5"
    assert main(changed) == 2
    said = capsys.readouterr().err
    assert "settings.episodes was 4, is 5" in said
    assert "fog.gamma=0.9" in said
    other = command(folder, "--methods", "fog", "--seeds", "1", *SMALL)
    other[other.index("--local-model") + 1] = str(folder / "local2")
    store = EpisodeStore(folder / "store")
    loop = LoopConfig(max_steps=2, batch_size=2, device="cpu", threads=1)
    train_local(store, folder / "local2", loop, preset="tiny", window=5)
    assert main(other) == 2
    assert "sources.local was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "fog,sac"], "method 'sac': known are fog, ppo, local, bc"),
        (["--methods", "fog,fog"], "give each method once"),
        (["--methods", "fog", "--options", "fog.gama=1"], "fog has no setting 'gama'; known are"),
        (
            ["--methods", "fog", "--options", "fog.horizon=x"],
            "'x' is no value for it; expected int",
        ),
        (
            ["--methods", "fog", "--options", "fog.precision=half"],
            "expected auto, float32, bfloat16",
        ),
        (["--methods", "fog", "--options", "horizon=3"], "expected METHOD.SETTING=VALUE"),
        (["--methods", "fog", "--options", "sac.rate=3"], "no method 'sac'"),
        (["--methods", "fog", "--options", "bc.start_from=bc"], "bc begins anew; fog, ppo, local"),
        (["--methods", "fog", "--options", "fog.start_from=ppo"], "expected bc; the others"),
        (
            ["--methods", "fog", "--options", "fog.start_from=bc", "bc.gamma=1"],
            "bc has no setting 'gamma'",
        ),
        (["--seeds", "0"], "seeds is 0; expected more than 0"),
    ],
)
def test_bad_options(
    folder: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(folder, *more)
    arguments[arguments.index("--output") + 1] = str(tmp_path / "new")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_options_are_read_by_type() -> None:
    options = ["fog.horizon=32", "fog.gamma=0.9", "fog.sample_prior=true", "ppo.environments=3"]
    config = configuration("fog", options, seed=5, device="cpu", threads=1)
    assert (config.horizon, config.gamma, config.sample_prior) == (32, 0.9, True)
    assert (config.seed, config.device, config.threads) == (5, "cpu", 1)
    assert configuration("ppo", options, seed=0).environments == 3
    assert configuration("local", [], seed=0).local_share == 1.0
    require_methods(METHODS)
