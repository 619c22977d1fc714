"""The training loop: learns, is deterministic, ends when it is told to, refuses what it must. What it does after a kill
and when memory is full is in test_gpu.py."""

import io
import itertools
import math
import os
import resource
import shutil
import signal
import time
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.clips.shards import RATES
from pipeline.training.config import OptimizerConfig, Phase, TrainConfig, check_ranks
from pipeline.training.devices import pick_precision
from pipeline.training.loop import STATE, phase_clips
from pipeline.training.model_file import load_model, save_model
from pipeline.training.state import load_state, save_state
from pipeline.training.step import DelayedMetrics, Step, learning_rate
from tests.support.import_closure import ROOT
from tests.support.project import run_stage, run_stage_here, write_params
from tests.support.training import (
    LONGER,
    Trained,
    assert_same,
    card,
    config,
    curriculum,
    fresh,
    hardware,
    losses,
    run,
    same_weights,
    start_training,
)
from tests.support.videos import stored_video


class PlainRun(NamedTuple):
    """A run whose last clips of an epoch are fewer than a batch. said: on standard error."""

    settings: TrainConfig
    trained: Trained
    folder: Path
    said: str


@pytest.fixture(scope="module")
def plain_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PlainRun:
    settings, folder, said = config(batch=9), tmp_path_factory.mktemp("plain_run"), io.StringIO()
    with redirect_stderr(said):
        trained = run(settings, shards, folder)
    return PlainRun(settings, trained, folder, said.getvalue())


def test_overfitting_a_few_clips_lowers_the_loss(shards: Path, tmp_path: Path) -> None:
    settings = config(
        batch=1, clips={"fraction": 1.0, "overfit": 2}, curriculum=curriculum((10, 15)), optimizer={"lr": 0.01}
    )
    record = run(settings, shards, tmp_path).record
    assert record.step == 30
    assert losses(record.curve)[-1] < losses(record.curve)[0] / 2
    assert record.best_loss == min(losses(record.validation))


def test_the_curriculum_runs_through_its_phases(shards: Path, plain_run: PlainRun) -> None:
    settings, record = plain_run.settings, plain_run.trained.record
    clips = {fps: phase_clips(settings, shards / str(fps))[0] for fps in (15, 10)}
    assert len(clips[15]) % 9  # the last clips are trained on too
    assert record.step == math.ceil(len(clips[15]) / 9) + 2 * math.ceil(len(clips[10]) / 9)
    assert [row["fps"] for row in record.validation] == [15, 10, 10]
    assert [row["epoch"] for row in record.validation] == [0, 1, 2]
    assert {row["fps"] for row in record.curve} == {15, 10}
    assert (plain_run.folder / "state.pt").exists()  # until the caller has written the result


def test_validation_clips_are_of_the_validation_groups(shards: Path) -> None:
    clips, held_back = phase_clips(config(), shards / "10")
    assert {video.info.group for video in clips.videos} <= set(range(8, 22))
    assert {video.info.group for video in held_back.videos} == {22}
    assert len(held_back) == 8
    same, again = phase_clips(config(clips={"fraction": 1.0, "overfit": 5}), shards / "10")
    assert same is again
    assert len(same) == 5


def test_same_settings_same_weights_and_files(shards: Path, tmp_path: Path) -> None:
    settings = config(curriculum=curriculum((10, 1)))
    first, second = (run(settings, shards, tmp_path / name) for name in "ab")
    assert_same(first, second)
    for trained, name in ((first, "a"), (second, "b")):
        save_model(tmp_path / f"{name}.safetensors", trained.net, card(settings))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert not same_weights(first.net, run(replace(settings, seed=1), shards, tmp_path / "c").net)
    untrained = fresh(settings)
    assert same_weights(first.net.encoder, untrained.encoder)  # frozen through the whole loop
    assert not same_weights(first.net.lateral, untrained.lateral)


def test_only_the_changed_phases_are_trained_again(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The curriculum's beginning is taken from the earlier run; curves and weights are those of training it all."""
    before = config(clips={"spacing": 8}, curriculum=curriculum((25, 1), (15, 1), (10, 2)))
    after = replace(before, curriculum=(*before.curriculum[:2], Phase(fps=10, epochs=1)))
    record = run(before, shards, tmp_path / "a").record
    (tmp_path / "a" / STATE).unlink()  # as the stage does when it has written the result
    capsys.readouterr()
    reused = run(after, shards, tmp_path / "a")
    first_of_last = next(row["step"] for row in record.curve if row["fps"] == 10)
    assert f"continuing at step {first_of_last - 1} from {tmp_path}/a/phase_2.pt" in capsys.readouterr().out
    assert_same(reused, run(after, shards, tmp_path / "b"))
    assert scalars(tmp_path / "a") == scalars(tmp_path / "b")  # TensorBoard too shows the whole run, and no other

    (tmp_path / "a" / STATE).unlink()
    middle = replace(after, curriculum=(after.curriculum[0], Phase(fps=15, epochs=2), after.curriculum[2]))
    capsys.readouterr()
    run(middle, shards, tmp_path / "a")
    assert f"from {tmp_path}/a/phase_1.pt" in capsys.readouterr().out
    # A phase that was last was trained at a falling rate, and does not serve a longer curriculum.
    (tmp_path / "a" / STATE).unlink()
    longer = replace(middle, curriculum=(*middle.curriculum, Phase(fps=10, epochs=1)))
    run(longer, shards, tmp_path / "a")
    assert f"from {tmp_path}/a/phase_2.pt" in capsys.readouterr().out


TWO_PHASES = curriculum((15, 1), (10, 1))


@pytest.fixture(scope="module")
def two_phases(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("two_phases")
    run(config(curriculum=TWO_PHASES), shards, folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "machine", "reused"),
    [
        ({"seed": 1}, {}, False),
        ({"optimizer": {"lr": 0.001}}, {}, False),
        ({"clips": {"spacing": 5}}, {}, False),
        ({"augmentation": {"flip": True}}, {}, False),
        ({}, {"workers": 2}, True),
        ({}, {"checkpoint_minutes": 3.0}, True),
        ({}, {"jpeg_decoder": "device"}, True),
    ],
)
def test_finished_phases_serve_runs_that_share_all_that_matters(
    shards: Path,
    tmp_path: Path,
    two_phases: Path,
    changes: dict,
    machine: dict,
    reused: bool,
    capsys: pytest.CaptureFixture,
) -> None:
    """What a machine has cannot change a number: how many workers load, who decodes, how often the state is saved."""
    shutil.copytree(two_phases, tmp_path, dirs_exist_ok=True)
    run(config(curriculum=TWO_PHASES, **changes), shards, tmp_path, **machine)
    assert ("continuing at step" in capsys.readouterr().out) is reused


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])
    }


def test_tensorboard_shows_losses_rates_and_pictures(shards: Path, plain_run: PlainRun) -> None:
    record = plain_run.trained.record
    found = scalars(plain_run.folder)
    assert [value for _, value in found["train/loss"]] == pytest.approx(losses(record.curve))
    assert [value for _, value in found["train/lr"]] == pytest.approx([row["lr"] for row in record.curve])
    assert [step for step, _ in found["validation/loss"]] == [row["step"] for row in record.validation]
    events = EventAccumulator(str(plain_run.folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    steps = [0, *(row["step"] for row in record.validation)]  # before training, and after each epoch
    for tag, rows in (("predictions", 2 * 4), ("filters", 1 + 4 * 3)):
        pictures = events.Images(tag)
        assert [picture.step for picture in pictures] == steps
        image = np.array(Image.open(io.BytesIO(pictures[-1].encoded_image_string)))
        assert image.shape == (rows * 34 + 2, 4 * 34 + 2, 3)
        assert pictures[0].encoded_image_string != pictures[-1].encoded_image_string
    frames = image[2:34, 2:]  # the picture of filters begins with the clip itself
    clip = phase_clips(plain_run.settings, shards / "10")[1][0]
    assert np.array_equal(frames[:, :32], clip[0].permute(1, 2, 0).numpy())


def test_the_progress_bar_says_where_it_is(plain_run: PlainRun) -> None:
    said = plain_run.said
    assert "lvln phase 1/2 (15 fps) epoch 1/1" in said
    assert "lvln phase 2/2 (10 fps) epoch 2/2: 100%" in said
    assert "loss=0." in said
    assert "step" in said.rsplit("loss=", 1)[0][-60:]


def test_early_stopping_ends_a_phase(shards: Path, tmp_path: Path) -> None:
    """With a learning rate that is practically zero nothing improves beyond the first epochs."""
    settings = config(
        curriculum=curriculum((10, 30)),
        optimizer={"lr": 1e-12, "weight_decay": 0.0, "warmup_steps": 0},
        early_stopping={"patience": 2},
    )
    found = losses(run(settings, shards, tmp_path).record.validation)
    assert 3 <= len(found) < 30
    assert min(found[:-2]) <= min(found[-2:])


def test_learning_rate_warms_up_is_held_and_falls_along_a_cosine() -> None:
    settings = OptimizerConfig(kind="adamw", lr=0.1, weight_decay=0, warmup_steps=4, clip_norm=1, ema=0.0)
    rates = [learning_rate(settings, step, decay_from=0, total=24) for step in range(24)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[14] == pytest.approx(0.05)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001
    held = [learning_rate(settings, step) for step in range(24)]
    assert held[:4] == rates[:4]
    assert set(held[4:]) == {0.1}
    late = [learning_rate(settings, step, decay_from=10, total=24) for step in range(24)]
    assert late[:11] == held[:11]
    assert late[17] == pytest.approx(0.05)


def test_a_loss_that_is_not_finite_stops_with_step_and_phase(shards: Path, tmp_path: Path) -> None:
    settings = config(optimizer={"lr": 1e30, "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 1e30})
    with pytest.raises(FloatingPointError, match=r"loss \S+, gradient norm \S+ at step \d+, phase 1/2 \(15 fps\)"):
        run(settings, shards, tmp_path)


@pytest.mark.parametrize("lag", [0, 2])
def test_the_last_good_state_survives_a_loss_that_is_not_finite(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    """Saved after every step, the state never gets past the step before; read late, as on a GPU, neither."""
    original, calls = Step.__call__, itertools.count()

    def poisoned(self: Step, clips: torch.Tensor, **choices: object) -> torch.Tensor:
        values = original(self, clips, **choices)
        return values if next(calls) < 3 else values * math.nan

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", poisoned)
        patch.setattr(DelayedMetrics, "lag", lag)
        with pytest.raises(FloatingPointError, match=rf"loss nan.* at step 3, .*kept in {tmp_path}/state\.pt"):
            run(config(), shards, tmp_path, checkpoint_minutes=1e-9)
    progress = torch.load(tmp_path / STATE)["progress"]
    assert progress["step"] <= 3
    assert all(math.isfinite(loss) for loss in progress["pending"])
    record = run(config(), shards, tmp_path, checkpoint_minutes=1e-9).record
    assert all(map(math.isfinite, losses(record.curve)))


def test_reading_late_changes_nothing(
    shards: Path, tmp_path: Path, plain_run: PlainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the numbers of a step are read two steps later."""
    monkeypatch.setattr(DelayedMetrics, "lag", 2)
    assert_same(run(plain_run.settings, shards, tmp_path), plain_run.trained)


def test_precision_goes_with_the_device() -> None:
    assert pick_precision("auto", "cpu", smallest=32) == "32-true"
    assert pick_precision("bf16-mixed", "cpu", smallest=64) == "bf16-mixed"
    assert pick_precision("auto", "cpu", smallest=64) in ("32-true", "bf16-mixed")
    with pytest.raises(ValueError, match=r"hardware\.precision: bf16-mixed on a CPU needs frames of at least 64×64 "):
        pick_precision("bf16-mixed", "cpu", smallest=32)


def test_a_second_trainer_is_refused(shards: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(RuntimeError, match="another process is at work in"):
        run(config(), shards, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_clear_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hardware\.device: cuda, but torch sees no GPU; set it to auto or cpu"):
        run(config(), shards, tmp_path, device="cuda")


def test_bf16_trains(tmp_path: Path) -> None:
    for fps in RATES:
        for split in ("train", "validation"):
            stored_video(tmp_path / str(fps), 40, split=split, size=64)
    settings = config(curriculum=curriculum((10, 2)), height=64, width=64, batch=4)
    net, record, _ = run(settings, tmp_path, tmp_path, precision="bf16-mixed")
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert record.validation[-1]["loss"] < record.validation[0]["loss"]


def test_wandb_works_offline(shards: Path, tmp_path: Path) -> None:
    run(config(curriculum=curriculum((10, 1))), shards, tmp_path, wandb="offline")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_model_files_say_how_to_use_them(tmp_path: Path) -> None:
    settings = config()
    net = fresh(settings).eval()
    save_model(tmp_path / "m.safetensors", net, card(settings))
    loaded, said = load_model(tmp_path / "m.safetensors")
    assert said == card(settings)
    assert not loaded.training
    frame = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(frame)[0], loaded(frame)[0])
    (tmp_path / "bad.safetensors").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a model file of this version of the project"):
        load_model(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"no model .*lvln\.safetensors; make it with: dvc repro train@lvln"):
        load_model(tmp_path / "lvln.safetensors")


def test_state_of_another_run_is_not_used(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.pt", "a") is None
    save_state(tmp_path / "state.pt", {"fingerprint": "a", "step": 3})
    assert load_state(tmp_path / "state.pt", "a")["step"] == 3
    assert load_state(tmp_path / "state.pt", "b") is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut", "another"])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes | str) -> None:
    if content == "another":
        torch.save([1, 2], tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt is damaged \(.+\); delete it, and the run begins without it"):
        load_state(tmp_path / "state.pt", "a")


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """Files of this process may not grow beyond a limit, as on a full disk."""
    path = tmp_path / "state.pt"
    save_state(path, {"fingerprint": "a", "step": 3})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=rf"the state cannot be written to {path}: "):
            save_state(path, {"fingerprint": "a", "step": 4, "net": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_state(path, "a")["step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_an_error_is_told_even_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    done = run_stage_here(tmp_path, "train", "lvln")
    assert done.returncode == 1
    assert "train: params.yaml: no such file here" in done.stderr
    assert "no traceback written: " in done.stderr


def test_sigterm_saves_and_ends_promptly(shards: Path, tmp_path: Path) -> None:
    """Nothing but the signal can have saved the state: by the clock it would be days later."""
    process = start_training(shards, tmp_path, {"a": LONGER}, workers=2, checkpoint_minutes=10_000)
    state, events = tmp_path / "a" / STATE, tmp_path / "a" / "tensorboard"
    deadline = time.monotonic() + 60
    while not list(events.glob("events.*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    assert not state.exists()
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 20  # a step, a save and the end of the interpreter, on a busy machine
    assert process.returncode == 128 + signal.SIGTERM
    assert torch.load(state)["progress"]["step"] > 0


def test_stage_train_names_bad_params(tmp_path: Path) -> None:
    """Through the command line, as DVC calls it."""
    write_params(tmp_path, {"train": {"lvln": {"optimizer": {"lr": -1}}}})
    done = run_stage(tmp_path, "train", "lvln")
    assert done.returncode == 1
    assert "train.lvln.optimizer.lr: -1 is not allowed; allowed: a number, above 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (tmp_path / "runs/train_lvln/traceback.txt").read_text()


@pytest.mark.parametrize("arguments", [("train",), ("train", "foo"), ("evaluate", "foo"), ("probe", "nonsense")])
def test_stages_say_which_items_there_are(arguments: tuple[str, ...]) -> None:
    stage, *items = arguments
    done = run_stage_here(ROOT, stage, *items)
    assert done.returncode == 1
    assert done.stderr.startswith(f"usage: python -m stages.{stage} ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "machine", "message"),
    [
        ({"batch": 3}, {"devices": 2, "nodes": 2}, r"train\.lvln\.batch: 3 is smaller than .*devices × nodes, 4"),
        ({"context": 1, "horizon": 1}, {"devices": 2}, r"train\.lvln: context and horizon are 1 frame each"),
    ],
)
def test_every_rank_must_have_something_to_do(changes: dict, machine: dict, message: str) -> None:
    settings = config(**changes)
    check_ranks(settings, hardware(), model="lvln")
    with pytest.raises(ValueError, match=message):
        check_ranks(settings, hardware(**machine), model="lvln")
