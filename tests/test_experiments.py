"""The report's experiments: what a run changes, what is measured of it, and the page that shows it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.clips.shards import RATES
from pipeline.evaluation.score import EvaluateConfig, baselines_for, score_clips
from pipeline.experiments import circle, trial
from pipeline.experiments.runs import Run, listed, read_circle, read_pretraining, read_run
from pipeline.experiments.settings import Experiment, load_experiment, with_looks
from pipeline.pages import experiments
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.settings import ParamsError, from_dict
from pipeline.training.config import Phase, TrainConfig
from pipeline.training.interruption import stop_requests
from pipeline.training.loop import phase_clips
from tests.support.committed import of_committed_figures
from tests.support.import_closure import ROOT
from tests.support.killed import forked
from tests.support.project import call, copy_project, ran, wait_for

FILE, PARAMS = str(ROOT / "experiments/runs.yaml"), str(ROOT / "params.yaml")
RUNS = [read_run(model, name, file=FILE) for model, name in listed(file=FILE)]
CIRCLES = [read_circle(model, file=FILE) for model in ("lvln", "one_frame")]
TRAINING = {run.model: ROOT / f"plots/experiments/{run.model}/training.csv" for run in RUNS}


@pytest.mark.parametrize("run", [*RUNS, *CIRCLES], ids=lambda run: f"{run.model} {run.name}")
def test_a_run_is_one_line_of_dvc(run: Run, tmp_path: Path) -> None:
    """DVC's own way of applying the line to params.yaml gives the settings that the stage trains with."""
    from dvc.utils.hydra import apply_overrides

    experiment = load_experiment(run, params=PARAMS)
    words = shlex.split(experiments.command(run))
    assert words[:4] == ["dvc", "exp", "run", "--queue"]
    assert words[-1] == f"evaluate@{run.model}"
    assert set(words[4:-1:2]) == {"-S"}
    params = shutil.copy(PARAMS, tmp_path / "params.yaml")
    apply_overrides(params, words[5:-1:2])
    tree = yaml.safe_load(Path(params).read_text())
    train = from_dict(tree["train"][run.model], TrainConfig, where="")
    if run.looks:
        train = replace(train, curriculum=with_looks(train.curriculum, run.looks))
    assert train == experiment.train
    assert from_dict(tree["evaluate"], EvaluateConfig, where="") == experiment.evaluate


def test_the_stages_are_made_from_the_file() -> None:
    """A new run is an entry of runs.yaml and nothing else."""
    tree = yaml.safe_load((ROOT / "experiments/dvc.yaml").read_text())
    assert "runs.yaml" in tree["vars"]
    assert tree["stages"]["experiment"]["foreach"] == "${runs}"
    assert tree["stages"]["circle"]["foreach"] == "${circle}"


# --- looks -----------------------------------------------------------------------------------------------------------

LEVERS = ("lvln_match", "lvln_warp")  # models of which the runs say what each part gives

TRAINED = {  # epochs of each phase at 10 fps, or (fps, epochs), of the runs that the committed figures are of
    "lvln curriculum": [(25, 1), (15, 1), (10, 2)],
    "lvln only_25_fps": [(25, 2)] * 3,
    "lvln random_stride": [(25, 2)] * 3,
    "lvln overfit_5": [24] * 10,
    "lvln overfit_20": [8] * 10,
    "lvln overfit_40": [5] * 10,
    "lvln circle": [26],
    "one_frame spacing_5": [2, 1, 1],
    "one_frame spacing_4": [1, 1, 1],
    "one_frame spacing_15": [4, 4, 4],
    "one_frame all_data": [1, 1, 1],
    "one_frame quarter_of_data": [4, 4, 4],
    "one_frame circle": [50],
}


@pytest.mark.parametrize("run", [*RUNS, *CIRCLES], ids=lambda run: f"{run.model} {run.name}")
def test_a_phase_ends_with_each_look(run: Run) -> None:
    curriculum = load_experiment(run, params=PARAMS).train.curriculum
    others = [2] if run.model in LEVERS else [2, 2, 2]
    phases = TRAINED.get(f"{run.model} {run.name}", others)
    assert curriculum == tuple(Phase(*phase) if isinstance(phase, tuple) else Phase(10, phase) for phase in phases)


def test_looks_divide_the_epochs_before_the_last_phase() -> None:
    def lengths(*phases: tuple[int, int], looks: int) -> list[tuple[int, int]]:
        return [(phase.fps, phase.epochs) for phase in with_looks([Phase(*phase) for phase in phases], looks)]

    assert lengths((10, 7), (10, 2), looks=4) == [(10, 3), (10, 2), (10, 2), (10, 2)]
    assert lengths((25, 4), (10, 2), (10, 9), looks=4) == [(25, 2), (25, 2), (10, 2), (10, 9)]
    assert lengths((10, 9), looks=1) == [(10, 9)]
    for wrong in (1, 2, 6):  # the end alone, a part of two rates, a part of none
        with pytest.raises(ValueError, match=f"looks: {wrong} does not go with this curriculum: the epochs before its"):
            lengths((25, 2), (15, 2), (10, 1), looks=wrong)


# --- runs.yaml -------------------------------------------------------------------------------------------------------


@of_committed_figures
def test_runs_of_equal_length() -> None:
    """What is compared is trained for as many steps."""
    steps = {model: pd.read_csv(file, index_col="run")["steps"] for model, file in TRAINING.items()}
    compared = [run for run in RUNS if not run.name.startswith("overfit")]
    assert {(run.model in LEVERS, steps[run.model][run.name]) for run in compared} == {(False, 168), (True, 112)}
    assert all(set(found.index) == {run.name for run in RUNS if run.model == model} for model, found in steps.items())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("runs: {lvln: {a: {}}}", "runs.lvln.b is missing; there are a"),
        ("runs: {lvn: {b: {}}}", "runs.lvln is missing; there are lvn"),
        ("runs: {lvln: {b: 3}}", "runs.lvln.b: 3 is not allowed; allowed: a mapping"),
        ("runs: {lvln: {base: 3, b: {}}}", "runs.lvln.base: 3 is not allowed; allowed: a mapping"),
        ("runs: {lvln: 3}", "runs.lvln: 3 is not allowed; allowed: a mapping, each a mapping"),
        ("runs: {lvln: {b: {looks: 0}}}", "runs.lvln.b.looks: 0 is not allowed; allowed: an integer, at least 1"),
        ("runs: {lvln: {b: {looks: 5}}}", "params.yaml with lvln b: looks: 5 does not go with this curriculum"),
        ("runs: {lvln: {b: {clips: {space: 2}}}}", "train.lvln.clips.space: unknown key (value 2); allowed: spacing,"),
        ("runs: {lvln: {b: {batch: 0}}}", "train.lvln.batch: 0 is not allowed; allowed: an integer, at least 1"),
        ("runs: {lvln: {b: {early_stopping: {patience: 2}}}}", "train.lvln.early_stopping.patience must be 0"),
        ("seeds: []", "seeds: [] is not allowed; allowed: a list of different integers"),
        ("seeds: [0, 0]", "seeds: [0, 0] is not allowed; allowed: a list of different integers"),
        ("seeds: [-1]", "seeds.0: -1 is not allowed; allowed: an integer, at least 0"),
        ("seeds: null", "seeds: null is not allowed; allowed: a list, each an integer, at least 0"),
    ],
)
def test_bad_runs_and_seeds_are_refused(bad: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        load_experiment(read_run("lvln", "b", file=written(tmp_path, **yaml.safe_load(bad))), params=PARAMS)


def test_a_model_without_a_section_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, runs={"lvn": {"b": {}}})
    with pytest.raises(ParamsError, match=r"train\.lvn is missing"):
        load_experiment(read_run("lvn", "b", file=file), params=PARAMS)
    with pytest.raises(ParamsError, match=r"circle\.one_frame is missing; there are lvln"):
        read_circle("one_frame", file=file)


def test_base_lies_under_the_runs_own_changes(tmp_path: Path) -> None:
    base, own = {"batch": 2, "looks": 3, "clips": {"spacing": 5}}, {"clips": {"spacing": 7, "fraction": 0.5}}
    run = read_run("lvln", "a", file=written(tmp_path, seeds=[3], runs={"lvln": {"base": base, "a": own}}))
    assert run.own == own
    assert run.changes == {"batch": 2, "clips": {"spacing": 7, "fraction": 0.5}}
    experiment = load_experiment(run, params=PARAMS)
    assert (experiment.train.batch, experiment.train.clips.spacing, experiment.train.clips.fraction) == (2, 7, 0.5)
    assert (len(experiment.train.curriculum), experiment.seeds) == (3, (3,))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "pretraining.a: 3 is not allowed; allowed: a mapping"),
        ({"b": {}}, "pretraining.a is missing; there are b"),
        (
            {"a": {"model": "lvln", "train": {}, "features": {}, "probe": {}}},
            "pretraining.a.source: missing; allowed: one of 'orders' or null",
        ),
        (
            {"a": {"model": "lvln", "train": 3, "features": {}, "probe": {}, "source": None}},
            "pretraining.a.train: 3 is not allowed",
        ),
    ],
)
def test_bad_pretraining_is_refused(entry: dict, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, pretraining=entry or {"a": 3})
    with pytest.raises(ParamsError, match=re.escape(message)):
        read_pretraining("a", file=file)


def test_pretraining_reads_as_the_pipeline_trains() -> None:
    """Every entry's settings are valid; lvln and one_frame train with those of params.yaml, but for early stopping."""
    tree = yaml.safe_load(Path(PARAMS).read_text())
    for name in yaml.safe_load(Path(FILE).read_text())["pretraining"]:
        run, entry = read_pretraining(name, file=FILE)
        experiment = load_experiment(run, params=PARAMS)
        from_dict(tree["features"] | entry.features, FeaturesConfig, where="features")
        from_dict(tree["probe"] | entry.probe, ProbeConfig, where="probe")
        if name in ("lvln", "one_frame"):
            own = from_dict(tree["train"][name], TrainConfig, where="")
            stopping = replace(own.early_stopping, patience=0)
            assert experiment.train == replace(own, early_stopping=stopping)
            assert (entry.source, entry.features, entry.probe) == (None, {"choices": ["pooled", "attentive"]}, {})


def written(folder: Path, **parts: object) -> str:
    file = folder / "runs.yaml"
    tree = {"seeds": [0], "runs": {"lvln": {"b": {}}}, "circle": {"lvln": {}}, "pretraining": {}}
    file.write_text(yaml.safe_dump(tree | parts))
    return str(file)


# --- one run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Experiment:
    """one_frame's base at 32 × 32 pixels and two looks."""
    experiment = load_experiment(read_run("one_frame", "report", file=FILE), params=PARAMS)
    train = replace(
        experiment.train,
        net={"width": 4, "upsample": "pixel_shuffle"},
        height=32,
        width=32,
        context=2,
        clips=replace(experiment.train.clips, fraction=0.1),
        curriculum=(Phase(fps=10, epochs=1),) * 2,
    )
    evaluate = replace(experiment.evaluate, horizon=2, spacing=8)
    return replace(experiment, train=train, evaluate=evaluate, hardware=replace(experiment.hardware, device="cpu"))


@pytest.fixture(scope="module")
def folders(shards: Path) -> dict[int, Path]:
    return {rate: shards / str(rate) for rate in RATES}


@pytest.fixture(scope="module")
def trained(small: Experiment, folders: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> trial.Trial:
    return trial.run_trial(1, experiment=small, shards=folders, run=tmp_path_factory.mktemp("run"))


def test_a_trial(small: Experiment, folders: dict[int, Path], trained: trial.Trial) -> None:
    clips, _ = phase_clips(small.train, folders[10])
    epoch = -(-len(clips) // small.train.batch)
    assert trained.steps == [0, epoch, 2 * epoch]
    # the first look is at the untrained network, on validation clips
    fabric, net, card = trial.start(small, seed=1)
    held_back = trial.scored_clips(card, small, folders)
    assert {video.info.group for video in held_back.videos} == {22}
    beside = baselines_for(card, held_back, small.evaluate)
    expected, _ = score_clips(net, card, held_back, small.evaluate, beside, device=fabric.device)
    assert trained.tables[0]["model"]["psnr"] == expected["model"]["psnr"]
    assert trained.tables[0]["copy_last"] == trained.tables[-1]["copy_last"]
    losses = [table["model"]["loss"]["1"] for table in trained.tables]
    assert losses[-1] < losses[0]
    rows = trial.looks([trained], horizon=1)
    assert [row["loss"] for row in rows] == losses
    assert [row["step"] for row in rows] == trained.steps


def test_overfitting_is_scored_on_its_own_clips(small: Experiment, folders: dict[int, Path], tmp_path: Path) -> None:
    few = replace(small, train=replace(small.train, clips=replace(small.train.clips, overfit=3)))
    _, _, card = trial.start(few, seed=0)
    clips = trial.scored_clips(card, few, folders)
    assert len(clips) == 3
    trained, _ = phase_clips(few.train, folders[10])
    assert [clips.window(i) for i in range(3)] == [trained.window(i) for i in range(3)]
    table = trial.run_trial(0, experiment=few, shards=folders, run=tmp_path).tables[-1]
    assert table["model"]["psnr"].keys() == {"1"}  # what it was trained for is all there is of a clip


def test_a_finished_run_is_taken_over(
    small: Experiment,
    folders: dict[int, Path],
    trained: trial.Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def trained_again(name: str, experiment: Experiment) -> bool:
        (tmp_path / name).mkdir(exist_ok=True)  # as training does
        assert trial.scores_of(name, experiment, folders, tmp_path).items() >= expected.items()
        output, file = capsys.readouterr().out, tmp_path / f"{name}.json"
        assert output in (
            f"one_frame {name}: {text}\n" for text in (f"taken over from {file}", "training with seeds 0, 1")
        )
        return "training" in output

    expected = {"scores": trial.summarise([trained]), "looks": trial.looks([trained], horizon=1)}
    monkeypatch.setattr(trial, "every_seed", lambda *_: [trained])
    assert trained_again("report", small)
    assert not (tmp_path / "report").exists()
    assert not trained_again("report", small)
    assert trained_again("other", small)
    assert trained_again("report", replace(small, train=replace(small.train, batch=4)))
    (tmp_path / "report.json").write_text('{"fingerprint": "')
    assert trained_again("report", small)


def test_what_a_run_depends_on(small: Experiment, folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    known = trial.fingerprint_of(small, folders)
    assert trial.fingerprint_of(replace(small, hardware=replace(small.hardware, workers=1)), folders) == known
    other = replace(small.train, curriculum=(Phase(fps=15, epochs=1),))
    changed = [
        trial.fingerprint_of(replace(small, train=other), folders),
        trial.fingerprint_of(replace(small, evaluate=replace(small.evaluate, spacing=5)), folders),
        trial.fingerprint_of(replace(small, seeds=(0, 2)), folders),
        trial.fingerprint_of(small, folders | {10: folders[15]}),
    ]
    monkeypatch.setitem(sys.modules, "pipeline.more", experiments)  # other code
    changed.append(trial.fingerprint_of(small, folders))
    assert len({known, *changed}) == 1 + len(changed)


def test_summary_by_hand(trained: trial.Trial) -> None:
    better = json.loads(json.dumps(trained.tables[-1]))
    better["model"]["psnr"]["1"] += 2
    better["resembles"]["1"] = {"0": 9.0, "1": 20.0, "2": 3.0, "3": 1.0}
    found = trial.summarise([trained, replace(trained, tables=[better])])
    assert found["model"]["psnr"]["1"] == pytest.approx(trained.tables[-1]["model"]["psnr"]["1"] + 1)
    assert found["model"]["psnr_spread"]["1"] == pytest.approx(2**0.5)
    assert found["model"]["psnr_spread"]["2"] == 0
    assert sum(found["like"].values()) == 2
    assert found["like"]["1"] >= 1
    assert found["train"]["seeds"] == 2
    alone = trial.summarise([trained])
    assert alone["model"]["psnr"] == trained.tables[-1]["model"]["psnr"]
    assert set(alone["model"]["psnr_spread"].values()) == {0}


def patient(seed: int, *, folder: Path) -> None:
    """A trial that, as training does, notes a signal and goes on until it may stop."""
    (folder / str(os.getpid())).touch()
    with stop_requests() as stop:
        while not stop.signals:
            time.sleep(0.05)
    raise KeyboardInterrupt


def test_trials_end_with_a_stage_that_is_killed(small: Experiment, tmp_path: Path) -> None:
    def work() -> None:
        trial.every_seed(partial(patient, folder=tmp_path), replace(small, seeds=(0,)))

    stage = forked(work)
    try:
        trials = wait_for(lambda: list(tmp_path.iterdir()), "the trials")
    finally:
        os.kill(stage, signal.SIGKILL)
        os.waitpid(stage, 0)
    wait_for(lambda: not any(Path("/proc", each.name).exists() for each in trials), "their end")


# --- the circle --------------------------------------------------------------------------------------------------


def test_summary_of_the_circle() -> None:
    def trained(error: float) -> circle.CircleTrial:
        row = {"centre_error": {"1": error}, "lost": {"1": 0.5}}
        table = {"model": row, "copy_last": {"centre_error": {"1": 2.0}, "lost": {"1": 0.0}}, "data": {"clips": 4}}
        return circle.CircleTrial({"trained": table, "held_out": table}, 7, None, None, None)

    found = circle.summarise([trained(1.0), trained(3.0)])
    assert found["data"] == {"trained": {"clips": 4}, "held_out": {"clips": 4}}
    for where in ("trained", "held_out"):
        assert found[where]["model"]["centre_error"] == {"1": 2.0}
        assert found[where]["model"]["centre_error_spread"] == {"1": pytest.approx(2**0.5)}
        assert found[where]["copy_last"] == {"centre_error": {"1": 2.0}, "lost": {"1": 0.0}}


def test_errors_of_the_circle_as_tidy_rows() -> None:
    part = {"model": {"lost": {"1": 0.5}, "lost_spread": {"1": 0.1}}, "copy_last": {"lost": {"1": 0.0}}}
    rows = circle.error_rows({"trained": part, "held_out": part, "data": {}})
    assert rows[0] == {
        **{"sequences": "trained", "predictor": "model", "region": "whole", "metric": "lost"},
        **{"horizon_step": 1, "value": 0.5, "spread": 0.1},
    }
    assert len(rows) == 4
    assert rows[-1]["spread"] is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_stages_as_dvc_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tiny preset, by `dvc repro`. Killed after the first run, it takes that one over; a second time nothing
    runs; a new run of runs.yaml, tried alone first, makes its model stale, and is taken over too."""
    copy_project(tmp_path, without=("metrics/", "plots/", "docs/", "dvc.lock", "experiments/dvc.lock"))
    call(tmp_path, "python", "-m", "stages.preset", "tiny")
    file = tmp_path / "experiments/runs.yaml"
    short = {"curriculum": [{"fps": 10, "epochs": 2}, {"fps": 10, "epochs": 1}]}
    own = {"early_stopping": {"patience": 0, "validation_clips": 8}, **short}
    tree = {
        "seeds": [0, 1],
        "runs": {"one_frame": {"base": {"looks": 3, **own}, "report": {}, "icnr": {"net": {"upsample": "icnr"}}}},
        "circle": {"one_frame": {"clips": {"fraction": 1.0}, **own}},
        "pretraining": {
            "one_frame": {
                **{"model": "one_frame", "source": "orders", "train": own},
                **{"features": {"clips": 1, "frames": 0}, "probe": {"epochs": 2}},
            }
        },
    }
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    targets = [f"experiments/dvc.yaml:{stage}@one_frame" for stage in ("experiment", "circle", "pretraining")]
    first = tmp_path / "runs/experiments/one_frame/report.json"

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    killed = subprocess.Popen(["dvc", "repro", targets[0]], cwd=tmp_path, start_new_session=True)
    while not first.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    output = call(tmp_path, "dvc", "repro", *targets)
    assert ran(output) == set(targets)
    assert f"one_frame report: taken over from {first.relative_to(tmp_path)}" in output
    assert "one_frame icnr: training with seeds 0, 1" in output
    plots = tmp_path / "plots/experiments/one_frame"
    training = pd.read_csv(plots / "training.csv", index_col="run")
    assert list(training.index) == ["report", "icnr"]
    assert training.loc["icnr"]["seeds"] == 2
    scores = pd.read_csv(plots / "scores.csv")
    assert set(scores["predictor"]) == {"model", "copy_last"}
    assert set(scores[(scores["run"] == "icnr") & (scores["metric"] == "psnr")]["horizon_step"]) == {1, 2, 3}
    rows = pd.read_csv(plots / "looks" / "icnr.csv")
    assert list(rows["seed"]) == [0] * 4 + [1] * 4  # before training, and three looks
    assert (tmp_path / "plots/circle/one_frame/filter.png").stat().st_size > 10_000
    looks = pd.read_csv(tmp_path / "plots/pretraining/one_frame/steps.csv")
    followed = looks[looks["control"] == "probe"]
    assert followed["step"].tolist() == sorted(followed["step"])
    assert len(followed) == 3  # before training, and where the two phases end
    accuracy = pd.read_csv(tmp_path / "plots/pretraining/one_frame/accuracy.csv").set_index(
        ["features", "metric", "control"]
    )["value"]
    assert followed["value"].tolist()[::2] == [accuracy["attentive", "top1", name] for name in ("untrained", "probe")]
    gain = accuracy["pooled", "top1", "probe"] - accuracy["memoryless", "top1", "flow"]
    assert accuracy["pooled", "gain", "flow"] == pytest.approx(gain, abs=1e-5)
    assert sorted(file.name for file in first.parent.iterdir()) == ["icnr.json", "report.json"]
    assert not ran(call(tmp_path, "dvc", "repro", *targets))

    del tree["runs"]["one_frame"]["icnr"]
    tree["runs"]["one_frame"]["sgd"] = {"optimizer": {"kind": "sgd"}}
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert "psnr_moving" in call(tmp_path, "python", "-m", "stages.experiment", "one_frame", "sgd")
    pd.testing.assert_frame_equal(pd.read_csv(plots / "scores.csv"), scores)
    assert set(json.loads(call(tmp_path, "dvc", "status", "--json", *targets))) == {targets[0]}
    output = call(tmp_path, "dvc", "repro", *targets)
    assert output.count("taken over") == 2
    again = pd.read_csv(plots / "scores.csv")
    assert set(again["run"]) == {"report", "sgd"}
    pd.testing.assert_frame_equal(again[again["run"] == "report"], scores[scores["run"] == "report"])
    assert sorted(file.name for file in (plots / "looks").iterdir()) == ["report.csv", "sgd.csv"]
