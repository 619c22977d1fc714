"""Training beyond the report, of lvln_warp: loss while observing, scheduled sampling, a mean of the weights, varied
clips, every phase's weights; and that all of it survives a kill and is the same over ranks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from torch import Tensor

from benchmarks.cases import moving_textures
from pipeline.clips.clips import EpochOrder, vary_pixels
from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict, predict_every_frame
from pipeline.settings import ParamsError, from_dict
from pipeline.training.config import TrainConfig
from pipeline.training.hardware import make_fabric
from pipeline.training.loop import STATE, phase_clips, train
from pipeline.training.losses import loss_per_image
from pipeline.training.step import Routine, Step, own_frames, trained_weights
from tests.test_ranks import assert_equal, finish, losses, results, start, trainable
from tests.test_training import CLIPS, ROOT, SETTINGS, Runs
from tests.videos import write_shard

NET = {"width": 8, "output": "warp", "norm": "group", "icnr": True, "observed_flow": True, "cost_volume": 1}
EVERYTHING = {
    "net": NET,
    "observed_loss": 0.5,
    "sampling": {"own_seeds": 0.5, "true_frames": 0.5, "steps": 5},
    "clips": CLIPS | {"step": 2, "fraction": 1.0, "stride": 3, "reverse": True, "flip": True, "crop": 0.8},
    "curriculum": [{"fps": 15, "epochs": 1}, {"fps": 10, "epochs": 2}],
    "batch": 5,
    "loss": {"dssim": 0.0, "l1": 1.0, "l2": 0.0, "ms_dssim": 1.0, "laplacian": 1.0, "gradient": 1.0},
    "optimizer": SETTINGS["optimizer"] | {"ema": 0.7},
}
STEPS = 9  # of a run with them: three epochs of three batches


def config(**changes: object) -> TrainConfig:
    return from_dict({**SETTINGS, **EVERYTHING, **changes}, TrainConfig, where="train.lvln_warp")


def fresh(settings: TrainConfig) -> Ladder:
    torch.manual_seed(settings.seed)
    return build_net("lvln_warp", settings.net, height=settings.height, width=settings.width)


def begun(settings: TrainConfig) -> Ladder:
    """With a head that is no other zero at its end."""
    net = fresh(settings)
    torch.nn.init.normal_(net.head[-1].weight, std=0.05)
    return net


def run(settings: TrainConfig, shards: Path, folder: Path) -> tuple[Ladder, Any, list[dict[str, Tensor]]]:
    net = fresh(settings)
    fabric = make_fabric(settings.hardware, key="train.lvln_warp.hardware", height=32, width=32)
    folder.mkdir(exist_ok=True)
    record, phases = train(fabric, net, settings, {rate: shards for rate in (25, 15, 10)}, name="lvln_warp", run=folder)
    return net, record, phases


def make_shards(folder: Path) -> Path:
    """Eight textures that move, three of them for validation."""
    videos = moving_textures(8, 9, height=32, width=32, seed=0).permute(0, 1, 3, 4, 2).contiguous().numpy()
    for split, part in (("train", videos[:5]), ("validation", videos[5:])):
        jpegs = {
            f"v_A_g01_c{n:02}": [simplejpeg.encode_jpeg(frame, quality=95) for frame in video]
            for n, video in enumerate(part)
        }
        write_shard(folder / f"{split}-00000.tar", jpegs)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("textures"))


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ladder, Any, list[dict[str, Tensor]]]:
    return run(config(), shards, tmp_path_factory.mktemp("undisturbed"))


def stopped_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs that die in the step after so many."""

    def dying(settings: TrainConfig, shards: Path, folder: Path) -> None:
        done, original = [], Step.__call__

        def step(self: Step, clips: Tensor, **choices: object) -> Tensor:
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(clips)
            return original(self, clips, **choices)

        with monkeypatch.context() as patch:
            patch.setattr(Step, "__call__", step)
            with pytest.raises(KeyboardInterrupt):
                run(settings, shards, folder)

    return dying


# --- the loss --------------------------------------------------------------------------------------------------------


def batch_of(settings: TrainConfig, count: int = 3) -> Tensor:
    return moving_textures(count, settings.seeds + settings.horizon, height=32, width=32, seed=1)


@pytest.mark.parametrize("observed", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("sampled", [False, True])
def test_the_loss_while_observing_is_a_weighted_mean(observed: float, sampled: bool) -> None:
    settings = config(observed_loss=observed, seeds=3)
    net, clips = begun(settings), batch_of(settings)
    own = torch.tensor([[False, True, False, True, False]] * 3) if sampled else None
    with torch.no_grad():
        found = Routine(net, settings).train()(clips, own)
        images = clips.float() / 255
        predictions = predict_every_frame(net, images, seeds=3, clip_feedback=True, own=own)
    each = loss_per_image(predictions.flatten(0, 1), images[:, 1:].flatten(0, 1), settings.loss).view(3, 4)
    weighted = (observed * each[:, 0] + observed * each[:, 1] + each[:, 2] + each[:, 3]) / (2 * observed + 2)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found.mean(1), weighted)
    ratios = found / each
    torch.testing.assert_close(ratios.mean(1), torch.ones(3))  # the weights' mean is one
    torch.testing.assert_close(ratios[:, 0] / ratios[:, -1], torch.full((3,), observed))


def test_without_it_and_in_validation_only_predicted_frames_count() -> None:
    settings = config(seeds=3)
    net, clips = begun(settings), batch_of(settings)
    images = clips.float() / 255
    with torch.no_grad():
        predictions, _ = predict(net, images[:, :3], horizon=2, clip_feedback=True)
        plain = loss_per_image(predictions.flatten(0, 1), images[:, 3:].flatten(0, 1), settings.loss).view(3, 2)
        torch.testing.assert_close(Routine(net, settings).eval()(clips), plain)
        unobserved = Routine(net, replace(settings, observed_loss=0.0)).train()
        torch.testing.assert_close(unobserved(clips), plain)
        # With a mask every frame is there, those of seeds with weight zero.
        own = torch.arange(5).expand(3, 5) >= 3
        masked = unobserved(clips, own)
    assert not masked[:, :2].any()
    torch.testing.assert_close(masked.mean(1), plain.mean(1))


# --- scheduled sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own_seeds", "true_frames"), [(0.6, 0.9), (1.0, 0.0), (0.0, 1.0)])
def test_shares_of_own_frames_fall_linearly_to_none(own_seeds: float, true_frames: float) -> None:
    sampling = {"own_seeds": own_seeds, "true_frames": true_frames, "steps": 80}
    settings = config(seeds=3, horizon=2, sampling=sampling)
    for step, left in ((0, 1), (20, 0.75), (40, 0.5), (79, 1 / 80)):
        own = own_frames(settings, step, range(4000), epoch=1)
        assert (own.dtype, own.shape) == (np.bool_, (4000, 5))
        assert own[:, 1:3].mean() == pytest.approx(left * own_seeds, abs=0.02)
        assert own[:, 3:].mean() == pytest.approx(1 - left * true_frames, abs=0.02)
    assert own_frames(settings, 80, range(4), epoch=1) is None
    assert own_frames(settings, 10_000, range(4), epoch=1) is None


def test_without_sampling_there_is_no_mask() -> None:
    for steps in (0, 50):
        assert own_frames(config(sampling=OFF | {"steps": steps}), 0, range(4), epoch=0) is None


def test_own_frames_are_of_the_seed_the_epoch_and_the_clip_alone() -> None:
    settings = config()
    whole = own_frames(settings, 1, range(30), epoch=2)
    assert np.array_equal(own_frames(settings, 1, range(20, 30), epoch=2), whole[20:])
    assert np.array_equal(own_frames(settings, 1, list(reversed(range(30))), epoch=2), whole[::-1])
    assert not np.array_equal(own_frames(settings, 1, range(30), epoch=3), whole)
    assert not np.array_equal(own_frames(replace(settings, seed=7), 1, range(30), epoch=2), whole)
    assert len({row.tobytes() for row in whole}) > 4


# --- the mean of the weights -----------------------------------------------------------------------------------------


def test_the_kept_weights_are_a_running_mean(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what is validated and what `train` leaves; the encoder is the one that there is."""
    settings = config(curriculum=[{"fps": 10, "epochs": 1}])
    history, seen, original = [], [], Step.__call__

    def step(self: Step, clips: Tensor, **choices: object) -> Tensor:
        values = original(self, clips, **choices)
        history.append(deepcopy(trained_weights(self.routine.net)))
        seen.append(self.kept)
        assert self.kept is not self.routine.net
        assert self.kept.encoder is self.routine.net.encoder
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

    _, held_back = phase_clips(settings, shards)
    clips = torch.stack([held_back[i] for i in range(len(held_back))])

    def loss() -> float:
        with torch.no_grad():
            return float(Routine(net, settings).eval()(clips).mean())

    assert record.validation[0]["loss"] == pytest.approx(loss(), rel=1e-5)
    net.load_state_dict(history[-1], strict=False)
    assert record.validation[0]["loss"] != pytest.approx(loss(), rel=1e-5)


def test_every_step_gets_the_clips_and_the_mask_of_its_epoch(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loop hands to each step, against the clips read one by one and varied alone."""
    settings, given, original = config(), [], Step.__call__

    def step(self: Step, clips: Tensor, **choices: Any) -> Tensor:
        given.append((clips.clone(), choices["own"]))
        return original(self, clips, **choices)

    monkeypatch.setattr(Step, "__call__", step)
    run(settings, shards, tmp_path)
    expected = []
    for epoch in range(3):
        clips, _ = phase_clips(settings, shards)
        key = {"seed": settings.seed, "epoch": epoch}
        varied = clips.varied(settings.clips, **key)
        for indices in EpochOrder(len(clips), settings.batch, **key).batches:
            alone = [vary_pixels(varied[i][None], [i], settings.clips, **key) for i in indices]
            expected.append((torch.cat(alone), own_frames(settings, len(expected), indices, epoch=epoch)))
    assert len(given) == len(expected) == STEPS
    for (clips, own), (same_clips, same_own) in zip(given, expected, strict=True):
        assert torch.equal(clips, same_clips)
        assert (own is None) == (same_own is None)
        assert own is None or np.array_equal(own.numpy(), same_own)
    assert given[4][1] is not None
    assert given[5][1] is None


def test_batch_norms_statistics_go_with_the_mean(shards: Path, tmp_path: Path) -> None:
    """They are running means themselves, and are taken as they are."""
    settings = config(net=NET | {"norm": "batch"}, curriculum=[{"fps": 10, "epochs": 1}])
    averaged, _, _ = run(settings, shards, tmp_path / "a")
    statistics = {key: value for key, value in trained_weights(averaged).items() if "running" in key}
    assert len(statistics) == 8
    plain = replace(settings, optimizer=replace(settings.optimizer, ema=0.0))
    last, _, _ = run(plain, shards, tmp_path / "b")
    after = trained_weights(last)
    assert all(torch.equal(value, after[key]) for key, value in statistics.items())
    assert not torch.equal(trained_weights(averaged)["head.0.weight"], after["head.0.weight"])


# --- phases, and interruptions ---------------------------------------------------------------------------------------


def assert_phases(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert_equal(a, b)


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
    settings = config(checkpoint_minutes=1e-9)  # saves after every step
    stopped_after(steps, monkeypatch)(settings, shards, tmp_path)
    assert torch.load(tmp_path / STATE)["progress"]["step"] == steps
    net, record, phases = run(settings, shards, tmp_path)
    expected, undisturbed_record, expected_phases = undisturbed
    assert (record.curve, record.validation) == (undisturbed_record.curve, undisturbed_record.validation)
    assert_equal(net.state_dict(), expected.state_dict())
    assert_phases(phases, expected_phases)


def test_a_reused_phase_brings_its_weights(
    shards: Path, tmp_path: Path, undisturbed: tuple, capsys: pytest.CaptureFixture
) -> None:
    """Those after its best epoch, here its only one, whatever comes after the phase."""
    other = config(curriculum=[{"fps": 15, "epochs": 1}, {"fps": 10, "epochs": 1}])
    _, _, first = run(other, shards, tmp_path)
    kept = torch.load(tmp_path / "phase_1.pt")
    assert kept["progress"]["step"] == 3
    assert_phases(kept["phases"], first[:1])
    mean = {key.removeprefix("module."): value for key, value in kept["step"]["mean"].items() if key != "n_averaged"}
    assert_equal(mean, first[0])

    (tmp_path / STATE).unlink()
    capsys.readouterr()
    net, record, phases = run(config(), shards, tmp_path)
    assert f"continuing at step 3 from {tmp_path / 'phase_1.pt'}" in capsys.readouterr().out
    expected, undisturbed_record, expected_phases = undisturbed
    assert record.curve == undisturbed_record.curve
    assert_phases(phases, expected_phases)
    assert_equal(first[0], phases[0])
    assert_equal(net.state_dict(), expected.state_dict())


WORKER = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_beyond_the_report import config, run, CLIPS, EVERYTHING
clips = EVERYTHING["clips"] | {{"workers": {workers}}}
net, record, phases = run(config(checkpoint_minutes={minutes}, clips=clips), Path({shards!r}), Path({folder!r}))
torch.save([net.state_dict(), phases], Path({folder!r}) / "result.pt")
print(record.curve, record.validation)
"""


class WarpRuns(Runs):
    """Of lvln_warp with everything."""

    def start(self, folder: str) -> subprocess.Popen:
        code = WORKER.format(root=str(ROOT), folder=str(self.root / folder), **self.values)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "start_new_session": True}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 2), (signal.SIGTERM, 0)])
def test_a_killed_run_with_everything_continues_to_the_same_bits(
    shards: Path, tmp_path: Path, number: int, workers: int
) -> None:
    runs = WarpRuns(tmp_path, shards, workers=workers, minutes=1e-9)
    whole = runs.finish("a")
    assert runs.kill("b", number, when=STATE, delay=0.1)
    assert runs.kill("b", number, when="phase_1.pt", delay=0)
    ended = runs.finish("b")
    assert "continuing at step" in ended[-2]
    assert ended[-1] == whole[-1]
    (weights, phases), (expected, expected_phases) = (torch.load(tmp_path / name / "result.pt") for name in "ba")
    assert_equal(weights, expected)
    assert_phases(phases, expected_phases)


RANKS = """
import json, os, sys, torch
from pathlib import Path
from tests.test_beyond_the_report import config, run
from tests.test_training import HARDWARE

shards, folder, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
net, record, phases = run(config(hardware=HARDWARE | {"devices": 2}, **changes), shards, folder)
result = {"curve": record.curve, "validation": record.validation, "weights": net.state_dict(), "phases": phases}
torch.save(result, folder / f"result_{os.environ['RANK']}.pt")
"""


@pytest.mark.slow
def test_two_ranks_with_everything_train_as_one_process_does(shards: Path, tmp_path: Path) -> None:
    """Why not to the last bit, and why slowly: see test_ranks.py."""
    changes = {"optimizer": SETTINGS["optimizer"] | {"lr": 0.001, "ema": 0.7}}
    finish(start(RANKS, shards, tmp_path, json.dumps(changes), folder=tmp_path))
    first, second = results(tmp_path)
    settings = config(**changes)
    net, record, _ = run(settings, shards, tmp_path / "alone")
    assert (first["curve"], first["validation"]) == (second["curve"], second["validation"])
    assert_equal(first["weights"], second["weights"])
    assert_phases(first["phases"], second["phases"])
    assert losses(first["curve"]) == pytest.approx(losses(record.curve), rel=1e-4)
    assert losses(first["validation"]) == pytest.approx(losses(record.validation), rel=1e-4)
    before, alone = trainable(fresh(settings)), trainable(net)
    net.load_state_dict(first["weights"])
    assert torch.dist(trainable(net), alone) < 0.02 * torch.dist(alone, before)


# --- what is refused -------------------------------------------------------------------------------------------------


OFF = {"own_seeds": 0.0, "true_frames": 0.0, "steps": 0}
ON = {"own_seeds": 0.5, "true_frames": 0.5, "steps": 5}
OPTIMIZER, VARIED = EVERYTHING["optimizer"], EVERYTHING["clips"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feeding": "second_output", "sampling": OFF}, r"train\.lvln_warp.*second_output goes with observed_loss 0"),
        ({"feeding": "second_output", "observed_loss": 0.0}, r"train\.lvln_warp.*second_output .* sampling\.steps 0"),
        (
            {"seeds": 1, "sampling": OFF},
            r"train\.lvln_warp: seeds 1 goes with observed_loss 0 and sampling\.own_seeds 0",
        ),
        ({"seeds": 1, "observed_loss": 0.0}, r"train\.lvln_warp: seeds 1 goes with .* sampling\.own_seeds 0"),
        ({"sampling": OFF | {"own_seeds": 0.5}}, r"train\.lvln_warp\.sampling: own_seeds .* need steps above 0"),
        ({"sampling": OFF | {"true_frames": 0.5}}, r"train\.lvln_warp\.sampling: .*true_frames above 0 need steps"),
        ({"feeding": "third_output"}, r"train\.lvln_warp\.feeding: 'third_output' .*first_output.*second_output"),
        ({"observed_loss": -0.1}, r"train\.lvln_warp\.observed_loss: -0\.1 is out of range; allowed: at least 0"),
        ({"optimizer": OPTIMIZER | {"ema": 1}}, r"train\.lvln_warp\.optimizer\.ema: 1 is out of range; .*below 1"),
        ({"optimizer": OPTIMIZER | {"ema": -0.1}}, r"train\.lvln_warp\.optimizer\.ema: -0\.1 is out of range"),
        ({"sampling": ON | {"own_seeds": 1.1}}, r"train\.lvln_warp\.sampling\.own_seeds: 1\.1 is out of range"),
        ({"sampling": ON | {"true_frames": -1}}, r"train\.lvln_warp\.sampling\.true_frames: -1 is out of range"),
        ({"clips": VARIED | {"stride": 0}}, r"train\.lvln_warp\.clips\.stride: 0 is out of range; allowed: at least 1"),
        ({"clips": VARIED | {"crop": 0}}, r"train\.lvln_warp\.clips\.crop: 0 is out of range; allowed: above 0"),
        ({"clips": VARIED | {"crop": 1.5}}, r"train\.lvln_warp\.clips\.crop: 1\.5 is out of range"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(changes: dict, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        config(**changes)


def test_a_single_seed_is_allowed_without_them() -> None:
    sampling = OFF | {"true_frames": 0.5, "steps": 5}
    assert config(seeds=1, observed_loss=0.0, sampling=sampling).seeds == 1


def test_the_reports_feeding_is_allowed_without_them() -> None:
    assert config(feeding="second_output", observed_loss=0.0, sampling=OFF).feeding == "second_output"
    assert config(optimizer=OPTIMIZER | {"ema": 0.9999}).optimizer.ema == 0.9999
