"""What the baselines score on each clip: kept once for all models, whatever the number of processes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.evaluation.baseline_values import BaselineSettings, BaselineValues, baseline_values
from pipeline.evaluation.baselines import BASELINES, baselines
from pipeline.evaluation.metrics import REGIONS, regions_of
from pipeline.images import mean_over
from pipeline.training.interruption import only_one
from pipeline.training.losses import LOSSES, loss_per_image
from tests.support.import_closure import ROOT

SETTINGS = BaselineSettings(context=3, height=32, width=32, moving_threshold=0.1, lpips=None, flow=True, batch=3)
LOSS = {"dssim": 0.6, "l1": 0.3, "moving_l1": 0.2}


def ten(shards: Path) -> Clips:
    return Clips(open_videos(shards / "10", "test")[:5], length=5, spacing=4, at_most=10)


@pytest.fixture
def clips(shards: Path) -> Clips:
    return ten(shards)


def same(a: BaselineValues, b: BaselineValues) -> bool:
    return a.columns == b.columns and np.array_equal(a.rows, b.rows, equal_nan=True)


def test_the_values_are_those_of_each_clip_by_itself(clips: Clips) -> None:
    """The loss too, though its weights are not known when the values are made."""
    found = baseline_values(clips, SETTINGS, losses=LOSS)
    for number in (0, 7):
        images = clips[number][None] / 255
        context, targets = images[:, :3], images[:, 3:]
        regions = regions_of(images, 3, threshold=0.1).flatten(1, 2)
        values = found.of(range(number, number + 1), LOSS)
        assert set(values) == {"truth", *BASELINES}
        for name, predictions in baselines(context, targets).items():
            difference = (predictions - targets).flatten(0, 1)
            for region, mask in zip(REGIONS, regions, strict=True):
                psnr = -10 * torch.log10(mean_over(difference.square(), mask[None])[0])
                key = "psnr" if region == "whole" else f"psnr_{region}"
                torch.testing.assert_close(values[name][key][0], psnr, equal_nan=True, atol=1e-3, rtol=0)
            moving = regions[REGIONS.index("moving")]
            loss = loss_per_image(predictions.flatten(0, 1), targets.flatten(0, 1), LOSS, moving)
            torch.testing.assert_close(values[name]["loss"][0], loss)
            assert not any(metric.startswith("loss_") for metric in values[name])


def test_processes_and_files_change_nothing(clips: Clips, tmp_path: Path) -> None:
    alone = baseline_values(clips, SETTINGS, losses=LOSS)
    assert same(alone, baseline_values(clips, SETTINGS, losses=LOSS, workers=2))
    assert same(alone, baseline_values(clips, SETTINGS, losses=LOSS, workers=1, folder=tmp_path))


def test_the_next_model_takes_what_is_there(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = baseline_values(clips, SETTINGS, losses=LOSS, folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.evaluation.baseline_values.baselines", None)  # none is computed
        assert same(kept, baseline_values(clips, SETTINGS, losses=["l1"], folder=tmp_path))
    more = baseline_values(clips, SETTINGS, losses=["l2"], folder=tmp_path)
    terms = {metric for name, metric in more.columns if metric.startswith("loss_")}
    assert terms == {"loss_l2", "loss_dssim", "loss_l1", "loss_moving_l1"}  # those of the first model still among them
    for number in range(len(clips)):
        one = range(number, number + 1)
        torch.testing.assert_close(more.of(one, LOSS), kept.of(one, LOSS), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"moving_threshold": 0.2}, {"context": 2}, {"flow": False}, {"batch": 4}])
def test_what_was_made_otherwise_is_made_anew(changes: dict, clips: Clips, tmp_path: Path) -> None:
    settings = replace(SETTINGS, **changes)
    baseline_values(clips, SETTINGS, losses=LOSS, folder=tmp_path)
    found = baseline_values(clips, settings, losses=LOSS, folder=tmp_path)
    assert same(found, baseline_values(clips, settings, losses=LOSS))


def test_other_frames_are_scored_anew(clips: Clips, shards: Path, tmp_path: Path) -> None:
    baseline_values(clips, SETTINGS, losses=LOSS, folder=tmp_path)
    others = Clips(open_videos(shards / "10", "test")[5:10], length=5, spacing=4, at_most=10)
    found = baseline_values(others, SETTINGS, losses=LOSS, folder=tmp_path)
    assert same(found, baseline_values(others, SETTINGS, losses=LOSS))


# Runs that are killed in their third batch and begun again.
KILLED = """
import signal, sys
from functools import partial
from pathlib import Path
from pipeline.evaluation import baseline_values as module
from tests.support.killed import calls_in_a_fork
from tests.test_baseline_values import LOSS, SETTINGS, ten

shards, folder = Path(sys.argv[1]), Path(sys.argv[2])
for name, module.SAVE_SECONDS in (("recorded", 0), ("unrecorded", 1000)):
    run = partial(module.baseline_values, ten(shards), SETTINGS, losses=LOSS, folder=folder / name)
    assert calls_in_a_fork(module, "baselines", run, dies_in=3) == -signal.SIGKILL
    (folder / name / "calls").write_text(str(calls_in_a_fork(module, "baselines", run)))
"""


def test_a_killed_run_carries_on(clips: Clips, shards: Path, tmp_path: Path) -> None:
    """Ten clips in four batches, killed in the third: the rest is two, if the progress was recorded."""
    command = [sys.executable, "-c", KILLED, str(shards), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = baseline_values(clips, SETTINGS, losses=LOSS).rows
    for name, calls in (("recorded", "2"), ("unrecorded", "4")):
        assert (tmp_path / name / "calls").read_text() == calls
        assert np.array_equal(np.load(tmp_path / name / "values.npy"), expected, equal_nan=True)


def test_two_at_once_are_refused(clips: Clips, tmp_path: Path) -> None:
    with only_one(tmp_path / "lock"), pytest.raises(RuntimeError, match="another process is at work in"):
        baseline_values(clips, SETTINGS, losses=LOSS, folder=tmp_path)


def test_every_loss_can_be_given_to_a_baseline(clips: Clips) -> None:
    found = baseline_values(clips, SETTINGS, losses=list(LOSSES)).of(range(2), dict.fromkeys(LOSSES, 1.0))
    assert all(found[name]["loss"].isfinite().all() for name in BASELINES)
