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
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.clips.shards import RATES
from pipeline.evaluation.score import EvaluateConfig, score_clips
from pipeline.experiments import tables
from pipeline.experiments.circle import CircleTrial
from pipeline.experiments.circle import summarise as summarise_circle
from pipeline.experiments.settings import changes, listed_runs, load_experiment, own_changes
from pipeline.experiments.trial import looks, run_trial, scored_clips, start, summarise
from pipeline.settings import ParamsError, from_dict
from pipeline.training.config import Phase, TrainConfig
from pipeline.training.interruption import stop_requests
from pipeline.training.loop import phase_clips
from tests.committed import of_committed_figures
from tests.import_closure import ROOT
from tests.test_pipeline import call

RUNS = listed_runs(str(ROOT / "experiments/runs.yaml"))
FILES = {"params": str(ROOT / "params.yaml"), "runs": str(ROOT / "experiments/runs.yaml")}
STAGES = yaml.safe_load((ROOT / "experiments/dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("which", RUNS, ids=" ".join)
def test_a_run_is_one_line_of_dvc(which: tuple[str, str], tmp_path: Path) -> None:
    """DVC's own way of applying the line to params.yaml gives the settings that the stage trains with."""
    from dvc.utils.hydra import apply_overrides

    experiment = load_experiment(*which, **FILES)
    words = shlex.split(tables.command(*which, file=FILES["runs"]))
    assert words[:4] == ["dvc", "exp", "run", "--queue"]
    assert words[-1] == f"evaluate@{which[0]}"
    assert set(words[4:-1:2]) == {"-S"}
    params = shutil.copy(FILES["params"], tmp_path / "params.yaml")
    apply_overrides(params, words[5:-1:2])
    tree = yaml.safe_load(Path(params).read_text())
    assert from_dict(tree["train"][which[0]], TrainConfig, where="") == experiment.train
    assert from_dict(tree["evaluate"], EvaluateConfig, where="") == experiment.evaluate


def test_every_run_has_its_stage() -> None:
    staged = []
    for stage in STAGES.values():
        _, _, module, *arguments = stage["cmd"].split()
        if module not in ("stages.experiment", "stages.circle"):
            continue
        for key, items in stage["matrix"].items():
            placed = [[word.replace(f"${{item.{key}}}", str(item)) for word in arguments] for item in items]
            staged += [(words[0], "circle") if module == "stages.circle" else tuple(words) for words in placed]
    assert sorted(staged) == sorted(RUNS)


@of_committed_figures
def test_runs_of_equal_length() -> None:
    """What is compared is trained for as many steps; levers of lvln_warp may be "not measured" in README."""
    measured = [
        which for which in RUNS if which[1] != "circle" and (which[0] != "lvln_warp" or metrics(which).exists())
    ]
    found = {which: json.loads(metrics(which).read_text())["train"]["steps"] for which in measured}
    lengths = {(model == "lvln_warp", steps) for (model, run), steps in found.items() if not run.startswith("overfit")}
    assert lengths == {(False, 168), (True, 112)}


def metrics(which: tuple[str, str]) -> Path:
    return ROOT / "metrics/experiments" / f"{'_'.join(which)}.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\nlvln: {a: {}}", "there is no run lvln b; there are lvln a"),
        ("seeds: []\nlvln: {b: {}}", "seeds: [] is not allowed; allowed: a list of integers, at least 0"),
        ("seeds: [-1]\nlvln: {b: {}}", "seeds: [-1] is not allowed"),
        ("seeds: [0]\nlvln: {b: {clips: {stepp: 2}}}", "train.lvln.clips.stepp is not a key of params.yaml"),
        ("seeds: [0]\nlvln: {b: {batch: 0}}", "train.lvln.batch: 0 is out of range; allowed: at least 1"),
        ("seeds: [0, 0]\nlvln: {b: {}}", "seeds: [0, 0] names one twice"),
        ("seeds: [0]\nlvn: {b: {}}", "lvn is not allowed; allowed: seeds, lvln, one_frame, full_res, lvln_warp"),
        ("seeds: [0]\nlvln: {b: 3}", "lvln is not a mapping of runs, each a mapping of changes"),
        ("seeds: [0]\nlvln: {base: 3, b: {}}", "lvln is not a mapping of runs"),
        ("seeds: [0]\nlvln: {b: {early_stopping: {patience: 2}}}", "train.lvln.early_stopping.patience must be 0"),
    ],
)
def test_a_bad_run_is_refused(text: str, message: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs.yaml"
    runs.write_text(text)
    with pytest.raises(ParamsError, match=re.escape(message)):
        load_experiment("lvln", "b", params=FILES["params"], runs=str(runs))


def test_base_lies_under_the_runs_own_changes(tmp_path: Path) -> None:
    runs = tmp_path / "runs.yaml"
    runs.write_text("seeds: [3]\nlvln:\n  base: {batch: 2, clips: {step: 5}}\n  a: {clips: {step: 7, flip: true}}")
    assert own_changes("lvln", "a", runs=str(runs)) == {"train.lvln.clips.step": 7, "train.lvln.clips.flip": True}
    assert changes("lvln", "a", runs=str(runs))["train.lvln.batch"] == 2
    experiment = load_experiment("lvln", "a", params=FILES["params"], runs=str(runs))
    assert (experiment.train.batch, experiment.train.clips.step, experiment.train.clips.flip) == (2, 7, True)
    assert experiment.seeds == (3,)


@pytest.fixture(scope="module")
def small() -> object:
    """one_frame's base at 32 × 32 pixels and two looks."""
    experiment = load_experiment("one_frame", "report", **FILES)
    train = replace(
        experiment.train,
        net={"width": 4, "upsample": "pixel_shuffle"},
        height=32,
        width=32,
        seeds=2,
        clips=replace(experiment.train.clips, fraction=0.1),
        curriculum=(Phase(fps=10, epochs=1),) * 2,
    )
    return replace(experiment, train=train, evaluate=replace(experiment.evaluate, horizon=2, step=8))


def test_a_trial(small, shards: Path, tmp_path: Path) -> None:
    folders = {rate: shards / str(rate) for rate in RATES}
    trial = run_trial(1, model="one_frame", experiment=small, shards=folders, run=tmp_path)
    clips, _ = phase_clips(small.train, folders[10])
    epoch = -(-len(clips) // small.train.batch)
    assert trial.steps == [0, epoch, 2 * epoch]
    # the first look is at the untrained network, on validation clips
    _, net, card = start("one_frame", replace(small.train, seed=1))
    held_back = scored_clips(card, small, folders)
    assert {video.info.group for video in held_back.videos} == {22}
    expected, _ = score_clips(net, card, held_back, small.evaluate)
    assert trial.tables[0]["model"]["psnr"] == expected["model"]["psnr"]
    assert trial.tables[0]["copy_last"] == trial.tables[-1]["copy_last"]
    losses = [table["model"]["loss"]["1"] for table in trial.tables]
    assert losses[-1] < losses[0]
    rows = looks([trial], horizon=1)
    assert [row["loss"] for row in rows] == losses
    assert [row["step"] for row in rows] == trial.steps


def patient(seed: int, *, folder: Path) -> None:
    """A trial that, as training does, notes a signal and goes on until it may stop."""
    (folder / str(os.getpid())).touch()
    with stop_requests() as stop:
        while not stop.signals:
            time.sleep(0.05)
    raise KeyboardInterrupt


def test_trials_end_with_a_stage_that_is_killed(tmp_path: Path) -> None:
    code = (
        "from pipeline.experiments.trial import every_seed; from tests.test_experiments import *; "
        "from functools import partial; "
        "every_seed(partial(patient, folder=Path(sys.argv[1])), load_experiment('lvln', 'curriculum'), key='')"
    )
    stage = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not (trials := list(tmp_path.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert trials
        stage.send_signal(signal.SIGKILL)
        while any(Path("/proc", trial.name).exists() for trial in trials) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(Path("/proc", trial.name).exists() for trial in trials)
    finally:
        stage.kill()
        stage.wait()


def test_overfitting_is_scored_on_its_own_clips(small, shards: Path, tmp_path: Path) -> None:
    few = replace(small, train=replace(small.train, clips=replace(small.train.clips, overfit=3)))
    folders = {rate: shards / str(rate) for rate in RATES}
    _, _, card = start("one_frame", few.train)
    clips = scored_clips(card, few, folders)
    assert len(clips) == 3
    trained, _ = phase_clips(few.train, folders[10])
    assert [clips.window(i) for i in range(3)] == [trained.window(i) for i in range(3)]
    trial = run_trial(0, model="one_frame", experiment=few, shards=folders, run=tmp_path)
    assert trial.tables[-1]["model"]["psnr"].keys() == {"1"}  # what it was trained for is all there is of a clip


def test_summary_by_hand(small, shards: Path, tmp_path: Path) -> None:
    folders = {rate: shards / str(rate) for rate in RATES}
    trial = run_trial(1, model="one_frame", experiment=small, shards=folders, run=tmp_path)
    better = json.loads(json.dumps(trial.tables[-1]))
    better["model"]["psnr"]["1"] += 2
    better["resembles"]["1"] = {"0": 9.0, "1": 20.0, "2": 3.0, "3": 1.0}
    found = summarise([trial, replace(trial, tables=[better])])
    assert found["model"]["psnr"]["1"] == pytest.approx(trial.tables[-1]["model"]["psnr"]["1"] + 1)
    assert found["model"]["psnr_std"]["1"] == pytest.approx(2**0.5)
    assert found["model"]["psnr_std"]["2"] == 0
    assert sum(found["like"].values()) == 2
    assert found["like"]["1"] >= 1
    assert found["train"]["seeds"] == 2
    alone = summarise([trial])
    assert alone["model"]["psnr"] == trial.tables[-1]["model"]["psnr"]
    assert set(alone["model"]["psnr_std"].values()) == {0}


def test_summary_of_the_circle() -> None:
    def trial(error: float) -> CircleTrial:
        row = {"centre_error": {"1": error}, "lost": {"1": 0.5}}
        table = {"model": row, "copy_last": {"centre_error": {"1": 2.0}, "lost": {"1": 0.0}}, "data": {"clips": 4}}
        return CircleTrial({"trained": table, "held_out": table}, 7, None, None, None)

    found = summarise_circle([trial(1.0), trial(3.0)])
    assert found["train"] == {"steps": 7, "seeds": 2}
    for where in ("trained", "held_out"):
        assert found[where]["model"]["centre_error"] == {"1": 2.0}
        assert found[where]["model"]["centre_error_std"] == {"1": pytest.approx(2**0.5)}
        assert found[where]["copy_last"] == {"centre_error": {"1": 2.0}, "lost": {"1": 0.0}}


@of_committed_figures
def test_the_page_is_what_the_metrics_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    template = Path("experiments/template.md").read_text()
    page = tables.fill(template)
    assert page == Path("docs/experiments.md").read_text()
    shown = set(template.split())
    reported = [run for model, run in RUNS if run != "circle" and model != "lvln_warp"]  # whose table is in README
    assert all(run in shown or f"{run}," in shown for run in reported)
    one = json.loads(Path("metrics/experiments/one_frame_sgd.json").read_text())["model"]["psnr"]
    assert " / ".join(f"{value:.2f}" for value in one.values()) in page


def test_tables_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    curve = {
        "seed": [0, 0, 0],
        "step": [0, 10, 20],
        "loss": [0.2, 0.08, 0.02],
        "psnr_moving": [10.0, 12.0, 15.5],
        "copy_last_psnr_moving": [14.0] * 3,
        "nyquist_ratio": [1500.0, 3.0, 1.25],
    }
    Path("plots/experiments").mkdir(parents=True)
    pd.DataFrame(curve).to_csv("plots/experiments/lvln_overfit_5.csv", index=False)
    page = tables.fill("before\n<!-- motion: lvln overfit_5 -->\n<!-- grid: lvln overfit_5 -->\nafter\n")
    assert "| lvln overfit_5 | 0 | step 10 | -2.00 dB | step 20 | 0.020 | 0.020 | +1.50 dB |" in page
    assert "| lvln overfit_5 | 1,500.00 | 3.00 | 1.25 |" in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    with pytest.raises(
        ValueError, match="grids is not allowed; allowed: runs, grid, motion, circle, probe, gain, real_probe"
    ):
        tables.fill("<!-- grids: lvln overfit_5 -->")


def test_a_gain_without_an_interval_is_shown_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few groups in every class."""
    monkeypatch.chdir(tmp_path)
    ends = {"top1": 0.25, "top1_low": -0.125, "top1_high": 0.5}
    row = {name: ends for name in ("chance", "encoder", "untrained", "still")} | {"shuffled": {"top1": 0.25}}
    Path("metrics").mkdir()
    Path("metrics/probe_pooled.json").write_text(json.dumps({"gain": row}))
    page = tables.fill("<!-- gain: pooled -->")
    assert f"| pooled |{' +25.0 [-12.5, +50.0] |' * 4} +25.0 |" in page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_stages_as_dvc_runs_them(tmp_path: Path) -> None:
    """Two runs and the circle on the tiny preset, by `dvc repro`; a second time nothing runs; a change of one run's
    settings makes that one stale."""
    for name in call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").split("\n"):
        if name and (ROOT / name).is_file() and not name.startswith(("metrics/", "plots/", "docs/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith("dvc.lock"):
                shutil.copy2(ROOT / name, tmp_path / name)
    shutil.copy(tmp_path / "presets/tiny.yaml", tmp_path / "params.yaml")
    call(tmp_path, "git", "init", "-q")
    targets = [f"experiments/dvc.yaml:{name}" for name in ("one_frame@icnr", "lvln@overfit_5", "circle@one_frame")]
    runs = tmp_path / "experiments/runs.yaml"
    tree = yaml.safe_load(runs.read_text())
    for which in (tree["one_frame"]["base"], tree["one_frame"]["circle"], tree["lvln"]["overfit_5"]):
        which["curriculum"] = [{"fps": 10, "epochs": 1}, {"fps": 10, "epochs": 1}]
    runs.write_text(yaml.safe_dump(tree, sort_keys=False))
    output = call(tmp_path, "dvc", "repro", *targets)
    assert "one_frame@icnr" in output
    found = json.loads((tmp_path / "metrics/experiments/one_frame_icnr.json").read_text())
    assert found["train"]["seeds"] == 2
    assert found["model"]["psnr"].keys() == {"1", "2", "3"}
    assert (tmp_path / "plots/circle/circle_one_frame_filter.png").stat().st_size > 10_000
    assert not (tmp_path / "runs/experiments/one_frame_icnr").exists()
    assert "Running stage" not in call(tmp_path, "dvc", "repro", *targets)
    tree["one_frame"]["icnr"]["batch"] = 4
    runs.write_text(yaml.safe_dump(tree, sort_keys=False))
    status = json.loads(call(tmp_path, "dvc", "status", "--json", *targets))
    assert set(status) == {"experiments/dvc.yaml:one_frame@icnr"}
