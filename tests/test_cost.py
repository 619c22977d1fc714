"""What a run will take: the work of each stage against counts by hand, the hours on a machine, and what check says."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.cost.data_set import DataSet
from pipeline.cost.heads import counted, passes
from pipeline.cost.machines import MACHINES, Machine
from pipeline.cost.source import data_set
from pipeline.cost.work import Work, prediction_flop, step_flop, train_flop, work_of
from pipeline.datasets import motions
from pipeline.nets.build import build_net
from pipeline.nets.rollout import predict
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.settings import from_dict, overlay
from pipeline.training.config import TrainConfig
from stages.check import needs
from stages.preset import with_preset
from tests.support import training
from tests.support.import_closure import ROOT
from tests.support.project import run_stage_here, write_params
from tests.support.videos import write

PRESET = with_preset(ROOT / "presets/ucf101.yaml", ROOT / "params.yaml")


@pytest.fixture(scope="module")
def works() -> list[Work]:
    """Of the tiny preset."""
    return work_of(tiny(), few())


def tiny(**source: object) -> dict:
    tree = with_preset(ROOT / "presets/tiny.yaml", ROOT / "params.yaml")
    overlay(tree, {"source": source})
    return tree


def few(**changes: object) -> DataSet:
    sizes = {"train": 10, "validation": 4, "test": 6, "classes": 2, "seconds": 20 * 4.0, "source_frames": 2000}
    return DataSet(**{"name": "", "archives": 0, "files": 0, **sizes, **changes})


def test_generated_videos_are_counted_before_they_are_made(raw_motions: Path) -> None:
    tree = tiny(kind="motions", motions={"seed": 3, "groups": 22, "clips": 1, "frames": 30})
    found = data_set(tree)
    table = pd.read_csv(raw_motions / "videos.csv")
    splits = Counter(table["split1"].where(~table["group"].isin([22]), "validation"))
    assert (found.train, found.validation, found.test) == tuple(
        splits[name] for name in ("train", "validation", "test")
    )
    assert found.classes == len(motions.CLASSES)
    assert found.source_frames == len(table) * 30 == found.seconds * 25
    assert found.files == pytest.approx(sum(file.stat().st_size for file in raw_motions.rglob("*.avi")), rel=0.5)


@pytest.mark.parametrize("kind", ["folder", "table", "circles"])
def test_the_length_of_other_videos_is_not_known(kind: str) -> None:
    assert data_set(tiny(kind=kind)) is None


def test_clips_of_a_video_are_those_that_fit_into_it() -> None:
    """Videos of four seconds are 40 frames at 10 fps."""
    data = few()
    assert data.clips(6, fps=10, length=6, spacing=7) == 6 * 5  # at 0, 7, 14, 21, 28
    assert data.clips(6, fps=10, length=40, spacing=7) == 6
    assert data.clips(6, fps=10, length=41, spacing=7) == 0


def test_flop_do_not_depend_on_the_frames_they_are_counted_on() -> None:
    config = from_dict(PRESET["train"]["lvln_match"] | {"height": 64, "width": 96}, TrainConfig, where="train")
    net = build_net("lvln_match", config.net, height=64, width=96).eval()
    feeding = {"horizon": 2, "clip_feedback": True, "off_by_one": False}
    with torch.no_grad():
        whole = counted(lambda: predict(net, torch.rand(1, config.context, 3, 64, 96), **feeding))
    assert prediction_flop("lvln_match", config, horizon=2) == pytest.approx(whole, rel=0.02)


def test_a_step_of_the_reports_model_has_the_flop_that_its_benchmark_counts() -> None:
    """benchmarks/README.md: 467 GFLOP a clip of L-VLN at 128×160, and 108 of one_frame at 64×96."""
    for name, expected in (("lvln", 467e9), ("one_frame", 108e9)):
        config = from_dict(PRESET["train"][name], TrainConfig, where=f"train.{name}")
        assert step_flop(name, config) == pytest.approx(expected, rel=0.01)


def test_training_is_epochs_times_clips_with_their_validation() -> None:
    changes = {"curriculum": training.curriculum((10, 2)), "clips": {"spacing": 7, "fraction": 0.5, "overfit": 0}}
    config = training.config("lvln", **changes)
    one = step_flop("lvln", config)
    length = config.context + config.horizon
    clips = few().clips(5, fps=10, length=length, spacing=7)
    validation = min(few().clips(4, fps=10, length=length, spacing=7), config.early_stopping.validation_clips)
    assert train_flop("lvln", config, few()) == pytest.approx(2 * (clips + validation / 3) * one)
    overfit = replace(config, clips=replace(config.clips, overfit=3))
    assert train_flop("lvln", overfit, few()) == pytest.approx(2 * (3 + validation / 3) * one)


def test_baselines_are_counted_once_for_the_models_that_share_them(works: list[Work]) -> None:
    """lvln sees three frames, one_frame and full_res five, and the other two see two."""
    flows = {work.stage: work.amounts.get("flow") for work in works if "evaluate" in work.stage}
    assert [stage for stage, count in flows.items() if count] == [
        f"evaluate@{n}" for n in ("lvln", "one_frame", "lvln_match")
    ]
    assert flows["evaluate@lvln"] == 4 * 6 * 5  # the last frame before the horizon, and three of it, of five clips


def test_the_samples_that_heads_see_by_hand() -> None:
    """Two seeds and two pairs of settings, two clips a video."""
    tree = PRESET["probe"] | {"seeds": [0, 1], "lr": [0.1], "weight_decay": [0.0, 0.5], "epochs": 3}
    probe = from_dict(tree | {"validate_every": 0.5, "validation_share": 0.25}, ProbeConfig, where="probe")
    features = from_dict(PRESET["features"] | {"untrained": 3, "clips": 2}, FeaturesConfig, where="features")
    data = few(train=500, validation=100, test=25)
    heads = 3 * 4 + 3 * 2  # of trained, still and shuffled; and of three draws
    curve = 4 * 3 * 2 * 50  # twice an epoch, of a quarter of the validation clips
    assert passes(probe, data, features, times=None) == (heads * 3 * 1000, heads * (3 * 200 + 50) + curve)
    assert passes(probe, data, features, times=6) == (6 * 4 * 3 * 1000, 6 * 4 * (3 * 200 + 50))


def test_hours_are_work_over_rate() -> None:
    machine = Machine("", {"flow": 2.0, "measure": 10.0})
    assert machine.hours(Work("", {"flow": 7200.0, "measure": 36000.0})) == 2
    assert machine.hours(Work("", {"flow": 7200.0, "heads": 1.0})) is None


def test_every_kind_of_work_was_measured_on_a_cpu(works: list[Work]) -> None:
    assert all(MACHINES[0].hours(work) > 0 for work in works)


def test_check_warns_where_the_disk_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/shards/25/a.tar", bytes(3_000_000))
    monkeypatch.setattr("stages.check.work_of", lambda *_: [])

    def lines(free: float) -> list[str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": int(free)}))
        return list(needs(tiny(), tmp_path))

    enough, *times = lines(1e12)
    assert enough.startswith("disk: some ")
    assert times == ["time: at least 0 hours on two CPU cores"]
    needed = float(enough.split()[2])
    _, warning, *_ = lines(needed * 1e9 - 1e9)
    assert warning == "WARNING: 1.0 GB too few: the disk will be full before the run ends; make room on it"
    assert not any("WARNING" in line for line in lines(needed * 1e9 + 1e8))


def test_check_says_what_it_does_not_know(tmp_path: Path) -> None:
    assert list(needs(tiny(kind="folder"), tmp_path)) == ["disk and time: not known for source.kind folder"]
    whole = tiny()
    overlay(whole, {"features": {"frames": 0, "clips": 1, "states": "last"}})
    (line,) = needs(whole, tmp_path)
    assert line.startswith("disk and time: not known: features.frames: 0, whole videos")


def test_check_names_a_larger_machine_for_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"train@lvln": "train lvln", "train@full_res": "train full_res", "evaluate@lvln": "predict"}
    works = [Work(stage, {kind: 1e18}) for stage, kind in (kinds | {"evaluate@full_res": "predict"}).items()]
    monkeypatch.setattr("stages.check.work_of", lambda *_: works)
    _, cores, gpu = needs(tiny(), tmp_path)
    assert cores == "time: at least 4,495 hours on two CPU cores"
    assert gpu == "time: at least 1.7 hours on one H100; not measured: train@full_res, evaluate"


def test_check_as_it_is_called(tmp_path: Path) -> None:
    write_params(tmp_path, {})
    done = run_stage_here(tmp_path, "check")
    valid, disk, *times = done.stdout.splitlines()
    assert valid == "params.yaml: every section is valid"
    assert disk.startswith("disk: some ")
    assert all(line.startswith("time: at least ") for line in times)
    assert done.returncode == 0
