"""The training loop: learns, is deterministic, continues bit for bit after a kill, refuses what it must."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from ruamel.yaml import YAML

from pipeline.params import from_dict
from pipeline.training.checkpoint import load_state, save_state
from pipeline.training.config import OptimizerConfig, TrainConfig
from pipeline.training.hardware import make_fabric
from pipeline.training.logs import make_loggers
from pipeline.training.loop import phase_clips, train
from pipeline.training.losses import LossConfig
from pipeline.training.model_file import ModelCard, build_net, load_model, save_model
from pipeline.training.step import learning_rate
from pipeline.video.shards import RATES
from tests.videos import stored_video

ROOT = Path(__file__).parents[1]

CLIPS = {"step": 4, "fraction": 0.25, "overfit": 0, "workers": 0, "jpeg_decoder": "cpu"}
HARDWARE = {
    "device": "cpu",
    "devices": 1,
    "nodes": 1,
    "strategy": "auto",
    "precision": "auto",
    "compile": "auto",
}
SETTINGS = {
    "seed": 0,
    "net": {"width": 4, "upsample": "pixel_shuffle"},
    "height": 32,
    "width": 32,
    "encoder": "random",
    "seeds": 2,
    "horizon": 2,
    "clip_feedback": True,
    "clips": CLIPS,
    "curriculum": [{"fps": 15, "epochs": 1}, {"fps": 10, "epochs": 2}],
    "batch": 8,
    "loss": {"dssim": 1.0, "l1": 1.0, "l2": 0.0},
    "optimizer": {"lr": 0.003, "weight_decay": 0.01, "warmup_steps": 2, "clip_norm": 1.0},
    "early_stopping": {"patience": 0, "validation_clips": 8},
    "hardware": HARDWARE,
    "checkpoint_minutes": 1000.0,
    "wandb": "disabled",
}


def config(**changes: object) -> TrainConfig:
    return from_dict({**SETTINGS, **changes}, TrainConfig, where="train.lvln")


def card(settings: TrainConfig) -> ModelCard:
    size = (settings.height, settings.width)
    return ModelCard("lvln", settings.net, *size, settings.seeds, settings.horizon, True, settings.loss, {"a": 1})


def run(settings: TrainConfig, shards: Path, folder: Path):
    torch.manual_seed(settings.seed)
    net = build_net(card(settings))
    loggers = make_loggers(folder, name="lvln", wandb=settings.wandb)
    size = {"height": settings.height, "width": settings.width}
    fabric = make_fabric(settings.hardware, key="train.lvln.hardware", **size, loggers=loggers)
    record = train(fabric, net, settings, {rate: shards / str(rate) for rate in RATES}, name="lvln", run=folder)
    return net, record


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_overfitting_a_few_clips_lowers_the_loss(shards: Path, tmp_path: Path) -> None:
    settings = config(clips=CLIPS | {"fraction": 1.0, "overfit": 2}, curriculum=[{"fps": 10, "epochs": 40}])
    _, record = run(settings, shards, tmp_path)
    assert record.step == 40
    losses = [row["loss"] for row in record.curve]
    assert losses[-1] < losses[0] / 2
    assert record.best_loss == min(row["loss"] for row in record.validation)


def test_the_curriculum_runs_through_its_phases(shards: Path, tmp_path: Path) -> None:
    settings = config(batch=9)
    clips = {fps: phase_clips(settings, shards / str(fps))[0] for fps in (15, 10)}
    net, record = run(settings, shards, tmp_path)
    assert len(clips[15]) % 9  # the last clips are trained on too
    assert record.step == math.ceil(len(clips[15]) / 9) + 2 * math.ceil(len(clips[10]) / 9)
    assert [row["fps"] for row in record.validation] == [15, 10, 10]
    assert [row["epoch"] for row in record.validation] == [0, 1, 2]
    assert {row["fps"] for row in record.curve} == {15, 10}
    assert (tmp_path / "state.pt").exists()  # until the caller has written the result
    again, same = run(settings, shards, tmp_path)
    assert same.curve == record.curve
    assert same_weights(net, again)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_validation_clips_are_of_the_validation_groups(shards: Path) -> None:
    clips, held_back = phase_clips(config(), shards / "10")
    assert {video.info.group for video in clips.videos} <= set(range(8, 22))
    assert {video.info.group for video in held_back.videos} == {22}
    assert len(held_back) == 8
    same, again = phase_clips(config(clips=CLIPS | {"fraction": 1.0, "overfit": 5}), shards / "10")
    assert same is again
    assert len(same) == 5


def test_same_settings_same_weights_and_files(shards: Path, tmp_path: Path) -> None:
    settings = config(curriculum=[{"fps": 10, "epochs": 1}])
    first, record = run(settings, shards, tmp_path / "a")
    second, again = run(settings, shards, tmp_path / "b")
    assert same_weights(first, second)
    assert record.curve == again.curve
    for net, name in ((first, "a"), (second, "b")):
        save_model(tmp_path / f"{name}.safetensors", net, card(settings))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    other, _ = run(replace(settings, seed=1), shards, tmp_path / "c")
    assert not same_weights(first, other)
    torch.manual_seed(settings.seed)
    untrained = build_net(card(settings))
    assert same_weights(first.encoder, untrained.encoder)  # frozen through the whole loop
    assert not same_weights(first.lateral, untrained.lateral)


@pytest.mark.parametrize("workers", [0, 2])
def test_jpegs_decoded_where_the_model_is_change_nothing(shards: Path, tmp_path: Path, workers: int) -> None:
    """On the CPU; a GPU's decoder rounds differently."""
    runs = []
    for decoder in ("cpu", "device"):
        settings = config(
            clips=CLIPS | {"workers": workers, "jpeg_decoder": decoder}, curriculum=[{"fps": 10, "epochs": 1}]
        )
        runs.append(run(settings, shards, tmp_path / decoder))
    (first, record), (second, same) = runs
    assert record.curve == same.curve
    assert record.validation == same.validation
    assert same_weights(first, second)


def test_early_stopping_ends_a_phase(shards: Path, tmp_path: Path) -> None:
    """With a learning rate that is practically zero nothing improves beyond the first epochs."""
    settings = config(
        curriculum=[{"fps": 10, "epochs": 30}],
        optimizer={"lr": 1e-12, "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 1.0},
        early_stopping={"patience": 2, "validation_clips": 8},
    )
    _, record = run(settings, shards, tmp_path)
    losses = [row["loss"] for row in record.validation]
    assert 3 <= len(losses) < 30
    assert min(losses[:-2]) <= min(losses[-2:])


def test_learning_rate_warms_up_is_held_and_falls_along_a_cosine() -> None:
    settings = OptimizerConfig(lr=0.1, weight_decay=0, warmup_steps=4, clip_norm=1)
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
    with pytest.raises(FloatingPointError, match=r"loss \S+, gradient norm \S+ at step \d+, phase 0 \(15 fps\)"):
        run(settings, shards, tmp_path)


def test_a_second_trainer_is_refused(shards: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(RuntimeError, match="another process is training in"):
        run(config(), shards, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_clear_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.lvln\.hardware\.device: cuda, but torch sees no GPU"):
        run(config(hardware=HARDWARE | {"device": "cuda"}), shards, tmp_path)


def test_bf16_trains(tmp_path: Path) -> None:
    for fps in RATES:
        for split in ("train", "validation"):
            stored_video(tmp_path / str(fps), 40, split=split, size=64)
    hardware = HARDWARE | {"precision": "bf16-mixed"}
    settings = config(hardware=hardware, curriculum=[{"fps": 10, "epochs": 4}], height=64, width=64, batch=4)
    net, record = run(settings, tmp_path, tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert record.validation[-1]["loss"] < record.validation[0]["loss"]


def test_wandb_works_offline(shards: Path, tmp_path: Path) -> None:
    run(config(wandb="offline", curriculum=[{"fps": 10, "epochs": 1}]), shards, tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_model_files_say_how_to_use_them(tmp_path: Path) -> None:
    settings = config()
    torch.manual_seed(0)
    net = build_net(card(settings)).eval()
    save_model(tmp_path / "m.safetensors", net, card(settings))
    loaded, said = load_model(tmp_path / "m.safetensors")
    assert said == card(settings)
    assert not loaded.training
    frame = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(frame)[0], loaded(frame)[0])
    (tmp_path / "bad.safetensors").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a model file of this project"):
        load_model(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"no model .*lvln\.safetensors; make it with: dvc repro train@lvln"):
        load_model(tmp_path / "lvln.safetensors")


def test_state_of_another_run_is_not_used(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.pt", "a") is None
    save_state(tmp_path / "state.pt", {"fingerprint": "a", "step": 3})
    assert load_state(tmp_path / "state.pt", "a")["step"] == 3
    assert load_state(tmp_path / "state.pt", "b") is None


WORKER = """
import sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from pipeline.training.model_file import save_model
from tests.test_training import CLIPS, card, config, run
settings = config(checkpoint_minutes=1e-9, clips=CLIPS | {{"workers": {workers}}})
net, record = run(settings, Path({shards!r}), Path({folder!r}))
save_model(Path({out!r}), net, card(settings))
print(record.curve, record.validation)
"""


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 0), (signal.SIGTERM, 2)])
def test_a_killed_run_continues_to_the_same_bytes(shards: Path, tmp_path: Path, number: int, workers: int) -> None:
    """Killed for real, at several moments, mid-epoch; the end is that of an undisturbed run."""

    def start(folder: str) -> subprocess.Popen:
        code = WORKER.format(
            root=str(ROOT),
            shards=str(shards),
            folder=str(tmp_path / folder),
            out=str(tmp_path / folder / "m"),
            workers=workers,
        )
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=single_thread, start_new_session=True
        )

    single_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # the fastest for so small a network
    undisturbed, _ = start("a").communicate(timeout=120)
    state = tmp_path / "b" / "state.pt"
    seen = 0
    for _ in range(3):
        process = start("b")
        last = state.stat().st_mtime_ns if state.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if state.exists() and state.stat().st_mtime_ns != last:
                break
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, number)  # the loader's workers get it too
        process.communicate(timeout=60)
        if number == signal.SIGTERM and process.returncode:
            assert process.returncode == 128 + signal.SIGTERM
        seen += process.returncode != 0
    assert seen >= 2
    output, _ = start("b").communicate(timeout=120)
    assert "continuing at step" in output
    assert output.splitlines()[-1] == undisturbed.splitlines()[-1]
    assert (tmp_path / "a" / "m").read_bytes() == (tmp_path / "b" / "m").read_bytes()


def test_stage_train_names_bad_params(tmp_path: Path) -> None:
    """Through the command line, as DVC calls it."""
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    tree["train"]["lvln"]["optimizer"]["lr"] = -1
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)
    done = subprocess.run(
        [sys.executable, "-m", "stages.train", "lvln"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "train.lvln.optimizer.lr: -1 is out of range; allowed: above 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (tmp_path / "runs/train_lvln/traceback.txt").read_text()


@pytest.mark.parametrize("arguments", [("train",), ("train", "foo"), ("evaluate", "foo"), ("probe", "nonsense")])
def test_stages_say_which_items_there_are(arguments: tuple[str, ...]) -> None:
    stage, *items = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *items], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"usage: python -m stages.{stage} ")
    assert "Traceback" not in done.stderr


def test_loss_weights_are_checked_with_their_key() -> None:
    with pytest.raises(ValueError, match=r"train\.lvln\.loss: dssim, l1 and l2 are all zero"):
        config(loss={"dssim": 0, "l1": 0, "l2": 0})
    assert config().loss == LossConfig(1.0, 1.0, 0.0)
