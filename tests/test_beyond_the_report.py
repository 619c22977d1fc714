"""Training beyond the report, of lvln_warp: loss while observing, scheduled sampling, a mean of the weights, varied
clips, every phase's weights; and that all of it survives a kill and is the same over ranks."""

import re
import signal
import subprocess
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from torch import Tensor

from benchmarks.cases import moving_textures
from pipeline.clips.batches import EpochOrder, vary_pixels
from pipeline.clips.shards import RATES
from pipeline.evaluation.metrics import REGIONS, regions_of
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict, predict_every_frame
from pipeline.settings import ParamsError, overlay
from pipeline.training.config import TrainConfig
from pipeline.training.loop import STATE, phase_clips
from pipeline.training.losses import loss_per_image
from pipeline.training.step import RolloutLoss, Step, sampling_mask, trained_weights
from tests.support import training
from tests.support.training import (
    Trained,
    assert_equal,
    assert_same,
    curriculum,
    finish,
    losses,
    results,
    signal_after,
    trainable,
)
from tests.support.videos import write_shard

EVERYTHING = {
    "context_loss": 0.5,
    "sampling": {"context_predicted": 0.5, "horizon_true": 0.5, "steps": 5},
    "clips": {"spacing": 2, "fraction": 1.0},
    "augmentation": {"max_stride": 3, "reverse": True, "flip": True, "crop": 0.8},
    "batch": 5,
    "loss": {"dssim": 0.0, "l1": 1.0, "ms_dssim": 1.0, "laplacian": 1.0, "gradient": 1.0},
    "optimizer": {"ema": 0.7},
}
STEPS = 9  # of a run with them: three epochs of three batches

fresh, run = (partial(form, model="lvln_warp") for form in (training.fresh, training.run))
start_training = partial(training.start_training, model="lvln_warp")


def config(**changes: object) -> TrainConfig:
    settings = deepcopy(EVERYTHING)
    overlay(settings, changes)
    return training.config("lvln_warp", **settings)


def begun(settings: TrainConfig) -> Ladder:
    """With a head that is no longer zero at its end."""
    net = fresh(settings)
    torch.nn.init.normal_(net.head[-1].weight, std=0.05)
    return net


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight textures that move, three of them for validation; the same at every rate."""
    folder = tmp_path_factory.mktemp("textures")
    videos = moving_textures(8, 9, height=32, width=32, seed=0).permute(0, 1, 3, 4, 2).contiguous().numpy()
    for split, part in (("train", videos[:5]), ("validation", videos[5:])):
        jpegs = {
            f"v_A_g01_c{n:02}": [simplejpeg.encode_jpeg(frame, quality=95) for frame in video]
            for n, video in enumerate(part)
        }
        write_shard(folder / f"{split}-00000.tar", jpegs)
    for rate in RATES:
        (folder / str(rate)).symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(config(), shards, tmp_path_factory.mktemp("undisturbed"))


# --- the loss --------------------------------------------------------------------------------------------------------


def batch_of(settings: TrainConfig) -> Tensor:
    return moving_textures(3, settings.context + settings.horizon, height=32, width=32, seed=1)


@pytest.mark.parametrize("observed", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("sampled", [False, True])
def test_the_loss_while_observing_is_a_weighted_mean(observed: float, sampled: bool) -> None:
    settings = config(context_loss=observed, context=3)
    net, clips = begun(settings), batch_of(settings)
    mask = torch.tensor([[False, True, False, True, False]] * 3) if sampled else None
    with torch.no_grad():
        found = RolloutLoss(net, settings).train()(clips, mask)
        images = clips.float() / 255
        predictions = predict_every_frame(net, images, context=3, clip_feedback=True, mask=mask)
    each = loss_per_image(predictions.flatten(0, 1), images[:, 1:].flatten(0, 1), settings.loss).view(3, 4)
    weighted = (observed * each[:, 0] + observed * each[:, 1] + each[:, 2] + each[:, 3]) / (2 * observed + 2)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found.mean(1), weighted)
    ratios = found / each
    torch.testing.assert_close(ratios.mean(1), torch.ones(3))  # the weights' mean is one
    torch.testing.assert_close(ratios[:, 0] / ratios[:, -1], torch.full((3,), observed))


@pytest.mark.parametrize("observed", [0.0, 1.0])
def test_moving_pixels_are_chosen_as_in_the_evaluation(observed: float) -> None:
    """Those of the frames after the context; those of the context itself by the two steps before each."""
    settings = replace(config(context_loss=observed, context=3), loss={"moving_l1": 1.0})
    net, clips = begun(settings), batch_of(settings)
    images = clips.float() / 255
    with torch.no_grad():
        found = RolloutLoss(net, settings).train()(clips)
        predictions = predict_every_frame(net, images, context=3, clip_feedback=True)
    moving = regions_of(images, 3, threshold=0.1)[REGIONS.index("moving")]
    moves = (images.diff(dim=1).abs().amax(2) > 0.1).float()
    masks = torch.cat([moves[:, :1], moves[:, :2].amax(1, keepdim=True), moving], 1)
    assert 0.1 < masks.mean() < 0.9
    errors = ((predictions - images[:, 1:]).abs().mean(2) * masks).sum((2, 3)) / masks.sum((2, 3))
    torch.testing.assert_close(found, errors if observed else errors[:, 2:])


def test_without_it_and_in_validation_only_predicted_frames_count() -> None:
    settings = config(context=3)
    net, clips = begun(settings), batch_of(settings)
    images = clips.float() / 255
    with torch.no_grad():
        predictions, _ = predict(net, images[:, :3], horizon=2, clip_feedback=True)
        plain = loss_per_image(predictions.flatten(0, 1), images[:, 3:].flatten(0, 1), settings.loss).view(3, 2)
        torch.testing.assert_close(RolloutLoss(net, settings).eval()(clips), plain)
        unobserved = RolloutLoss(net, replace(settings, context_loss=0.0)).train()
        torch.testing.assert_close(unobserved(clips), plain)
        # With a mask every frame is there, those of the context with weight zero.
        mask = torch.arange(5).expand(3, 5) >= 3
        masked = unobserved(clips, mask)
    assert not masked[:, :2].any()
    torch.testing.assert_close(masked.mean(1), plain.mean(1))


# --- scheduled sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("context_predicted", "horizon_true"), [(0.6, 0.9), (1.0, 0.0), (0.0, 1.0)])
def test_the_shares_of_sampling_fall_linearly_to_none(context_predicted: float, horizon_true: float) -> None:
    sampling = {"context_predicted": context_predicted, "horizon_true": horizon_true, "steps": 80}
    settings = config(context=3, horizon=2, sampling=sampling)
    for step, left in ((0, 1), (20, 0.75), (40, 0.5), (79, 1 / 80)):
        mask = sampling_mask(settings, step, range(4000), epoch=1)
        assert (mask.dtype, mask.shape) == (np.bool_, (4000, 5))
        assert mask[:, 1:3].mean() == pytest.approx(left * context_predicted, abs=0.02)
        assert mask[:, 3:].mean() == pytest.approx(1 - left * horizon_true, abs=0.02)
    assert sampling_mask(settings, 80, range(4), epoch=1) is None
    assert sampling_mask(settings, 10_000, range(4), epoch=1) is None


def test_without_sampling_there_is_no_mask() -> None:
    for steps in (0, 50):
        assert sampling_mask(config(sampling={**OFF, "steps": steps}), 0, range(4), epoch=0) is None


def test_the_mask_is_of_the_seed_the_epoch_and_the_clip_alone() -> None:
    settings = config()
    whole = sampling_mask(settings, 1, range(30), epoch=2)
    assert np.array_equal(sampling_mask(settings, 1, range(20, 30), epoch=2), whole[20:])
    assert np.array_equal(sampling_mask(settings, 1, list(reversed(range(30))), epoch=2), whole[::-1])
    assert not np.array_equal(sampling_mask(settings, 1, range(30), epoch=3), whole)
    assert not np.array_equal(sampling_mask(replace(settings, seed=7), 1, range(30), epoch=2), whole)
    assert len({row.tobytes() for row in whole}) > 4


# --- the mean of the weights -----------------------------------------------------------------------------------------


def test_the_kept_weights_are_a_running_mean(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what is validated and what `train` leaves; the encoder is the one that there is."""
    settings = config(curriculum=curriculum((10, 1)))
    history, original = [], Step.__call__

    def step(self: Step, clips: Tensor, **choices: object) -> Tensor:
        values = original(self, clips, **choices)
        history.append(deepcopy(trained_weights(self.rollout_loss.net)))
        assert self.eval_net is not self.rollout_loss.net
        assert self.eval_net.encoder is self.rollout_loss.net.encoder
        return values

    monkeypatch.setattr(Step, "__call__", step)
    net, record, _ = run(settings, shards, tmp_path)
    assert len(history) == 3
    mean = history[0]
    for weights in history[1:]:
        mean = {key: 0.7 * mean[key] + 0.3 * value for key, value in weights.items()}
    torch.testing.assert_close(trained_weights(net), mean, rtol=1e-5, atol=1e-7)
    moved = [key for key in mean if not torch.allclose(mean[key], history[-1][key], atol=1e-6)]
    assert len(moved) > 0.9 * sum(p.requires_grad for p in net.parameters())

    _, held_back = phase_clips(settings, shards / "10")
    clips = torch.stack([held_back[i] for i in range(len(held_back))])

    def loss() -> float:
        with torch.no_grad():
            return float(RolloutLoss(net, settings).eval()(clips).mean())

    assert record.validation[0]["loss"] == pytest.approx(loss(), rel=1e-5)
    net.load_state_dict(history[-1], strict=False)
    assert record.validation[0]["loss"] != pytest.approx(loss(), rel=1e-5)


def test_every_step_gets_the_clips_and_the_mask_of_its_epoch(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loop hands to each step, against the clips read one by one and varied alone."""
    settings, given, original = config(), [], Step.__call__

    def step(self: Step, clips: Tensor, **choices: Any) -> Tensor:
        given.append((clips.clone(), choices["mask"]))
        return original(self, clips, **choices)

    monkeypatch.setattr(Step, "__call__", step)
    run(settings, shards, tmp_path)
    expected = []
    for epoch in range(3):
        clips, _ = phase_clips(settings, shards / "10")
        key = {"seed": settings.seed, "epoch": epoch}
        varied = clips.varied(settings.augmentation, **key)
        for indices in EpochOrder(len(clips), settings.batch, **key).batches:
            alone = [vary_pixels(varied[i][None], [i], settings.augmentation, **key) for i in indices]
            expected.append((torch.cat(alone), sampling_mask(settings, len(expected), indices, epoch=epoch)))
    assert len(given) == len(expected) == STEPS
    for (clips, mask), (same_clips, same_mask) in zip(given, expected, strict=True):
        assert torch.equal(clips, same_clips)
        assert (mask is None) == (same_mask is None)
        assert mask is None or np.array_equal(mask.numpy(), same_mask)
    assert given[4][1] is not None
    assert given[5][1] is None


def test_batch_norms_statistics_go_with_the_mean(shards: Path, tmp_path: Path) -> None:
    """They are running means themselves, and are taken as they are."""
    settings = config(net={"norm": "batch"}, curriculum=curriculum((10, 1)))
    averaged = run(settings, shards, tmp_path / "a").net
    statistics = {key: value for key, value in trained_weights(averaged).items() if "running" in key}
    assert len(statistics) == 8
    plain = replace(settings, optimizer=replace(settings.optimizer, ema=0.0))
    after = trained_weights(run(plain, shards, tmp_path / "b").net)
    assert all(torch.equal(value, after[key]) for key, value in statistics.items())
    assert not torch.equal(trained_weights(averaged)["head.0.weight"], after["head.0.weight"])


# --- phases, and interruptions ---------------------------------------------------------------------------------------


def test_every_phase_leaves_its_weights(undisturbed: tuple) -> None:
    net, record, phases = undisturbed
    assert record.step == STEPS
    assert len(phases) == 2
    assert_equal(phases[-1], trained_weights(net))
    assert not any("encoder." in key for key in phases[0])
    assert not torch.equal(phases[0]["head.4.weight"], phases[1]["head.4.weight"])


@pytest.mark.parametrize("steps", [4, pytest.param(1, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)])
def test_a_run_that_died_ends_as_if_it_had_not(
    shards: Path, tmp_path: Path, undisturbed: tuple, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """To the bit: in the second phase, with scheduled sampling still on; in the first; in the last epoch."""
    done, original = [], Step.__call__

    def step(self: Step, clips: Tensor, **choices: object) -> Tensor:
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(clips)
        return original(self, clips, **choices)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", step)
        with pytest.raises(KeyboardInterrupt):
            run(config(), shards, tmp_path, checkpoint_minutes=1e-9)  # saves after every step
    assert torch.load(tmp_path / STATE)["progress"]["step"] == steps
    assert_same(run(config(), shards, tmp_path), undisturbed)


def test_a_reused_phase_brings_its_weights(
    shards: Path, tmp_path: Path, undisturbed: tuple, capsys: pytest.CaptureFixture
) -> None:
    """Those after its best epoch, here its only one, whatever comes after the phase."""
    first = run(config(curriculum=curriculum((15, 1), (10, 1))), shards, tmp_path).phases
    kept = torch.load(tmp_path / "phase_1.pt")
    assert kept["progress"]["step"] == 3
    assert_equal(kept["phases"], first[:1])
    mean = {key.removeprefix("module."): value for key, value in kept["step"]["mean"].items() if key != "n_averaged"}
    assert_equal(mean, first[0])

    (tmp_path / STATE).unlink()
    capsys.readouterr()
    found = run(config(), shards, tmp_path)
    assert f"continuing at step 3 from {tmp_path / 'phase_1.pt'}" in capsys.readouterr().out
    assert_same(found, undisturbed)
    assert_equal(first[0], found.phases[0])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 2), (signal.SIGTERM, 0)])
def test_a_killed_run_with_everything_continues_to_the_same_bits(
    shards: Path, tmp_path: Path, number: int, workers: int
) -> None:
    def start(*folders: str) -> subprocess.Popen:
        runs = dict.fromkeys(folders, EVERYTHING)
        return start_training(shards, tmp_path, runs, workers=workers, checkpoint_minutes=1e-9)

    assert signal_after(start("killed"), number, tmp_path / "killed" / STATE, delay=0.1)
    assert signal_after(start("killed"), number, tmp_path / "killed" / "phase_1.pt", delay=0)
    assert finish(start("killed", "undisturbed")).count("continuing at step") == 1
    assert_equal(results(tmp_path / "killed"), results(tmp_path / "undisturbed"))


@pytest.mark.slow
def test_two_ranks_with_everything_train_as_one_process_does(shards: Path, tmp_path: Path) -> None:
    """Why not to the last bit, and why slowly: see test_ranks.py."""
    changes = EVERYTHING | {"optimizer": {"lr": 0.001, "ema": 0.7}}
    finish(start_training(shards, tmp_path, {"two": changes}, ranks=2))
    first, second = results(tmp_path / "two")
    settings = config(**changes)
    net, record, _ = run(settings, shards, tmp_path / "alone")
    assert_equal(first, second)
    assert losses(first["curve"]) == pytest.approx(losses(record.curve), rel=1e-4)
    assert losses(first["validation"]) == pytest.approx(losses(record.validation), rel=1e-4)
    before, alone = trainable(fresh(settings)), trainable(net)
    net.load_state_dict(first["weights"])
    assert torch.dist(trainable(net), alone) < 0.02 * torch.dist(alone, before)


# --- what is refused -------------------------------------------------------------------------------------------------


OFF = {"context_predicted": 0.0, "horizon_true": 0.0, "steps": 0}
ONE_FRAME = {"context": 1, "context_loss": 0.0}
NEED_STEPS = ".sampling: context_predicted and horizon_true above 0 need steps"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"off_by_one": True, "sampling": OFF}, ": off_by_one goes with context_loss 0 and sampling.steps 0 alone"),
        ({"off_by_one": True, "context_loss": 0.0}, ": off_by_one goes with context_loss 0 and sampling.steps 0 alone"),
        ({"off_by_one": "first"}, ".off_by_one: 'first' is not allowed; allowed: true or false"),
        ({"context": 1, "sampling": OFF}, ": context 1 goes with context_loss 0 and sampling.context_predicted 0"),
        (ONE_FRAME, ": context 1 goes with context_loss 0 and sampling.context_predicted 0"),
        ({"sampling": {**OFF, "context_predicted": 0.5}}, NEED_STEPS),
        ({"sampling": {**OFF, "horizon_true": 0.5}}, NEED_STEPS),
        ({"sampling": {"context_predicted": 1.1}}, ".sampling.context_predicted: 1.1 is not allowed; allowed:"),
        (
            {"sampling": {"horizon_true": -1}},
            ".sampling.horizon_true: -1 is not allowed; allowed: a number, at least 0",
        ),
        ({"context_loss": -0.1}, ".context_loss: -0.1 is not allowed; allowed: a number"),
        ({"optimizer": {"ema": 1}}, ".optimizer.ema: 1 is not allowed; allowed: a number, at least 0, below 1"),
        ({"optimizer": {"ema": -0.1}}, ".optimizer.ema: -0.1 is not allowed"),
        (
            {"augmentation": {"max_stride": 0}},
            ".augmentation.max_stride: 0 is not allowed; allowed: an integer, at least",
        ),
        ({"augmentation": {"crop": 0}}, ".augmentation.crop: 0 is not allowed; allowed: a number, above 0, at most 1"),
        ({"augmentation": {"crop": 1.5}}, ".augmentation.crop: 1.5 is not allowed"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(changes: dict, message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(f"train.lvln_warp{message}")):
        config(**changes)


def test_what_makes_sense_is_allowed() -> None:
    assert config(**ONE_FRAME, sampling={"context_predicted": 0.0}).context == 1
    assert config(off_by_one=True, context_loss=0.0, sampling=OFF).off_by_one
    assert config(optimizer={"ema": 0.9999}).optimizer.ema == 0.9999
