"""How good a model gets in so many minutes of training, at full width, by the pipeline's own evaluation.

    python -m benchmarks.quality --model lvln_warp --shards DIR --out DIR [--minutes 4] [--encoder FILE]

--shards: the decode stage's shards at 10 fps (train-*.tar, validation-*.tar, test-*.tar). Times some steps, trains for
as many as fit the minutes (whole epochs, or a part of the clips where one is too long), and scores the test split.
Writes OUT/evaluate_<model>.json, with what `dvc repro evaluate@<model>` gives but for the curriculum matrix, and how it
was made; OUT/<model>.safetensors; and the pictures of the evaluate stage if there is matplotlib.
"""

import argparse
import dataclasses
import time
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.cases import add_case, make_config
from benchmarks.measure import device_name, environment
from pipeline.evaluation.score import EvaluateConfig, score
from pipeline.nets.build import build_net
from pipeline.nets.encoder import load_weights
from pipeline.results import write_metrics
from pipeline.training.config import Phase, TrainConfig
from pipeline.training.hardware import make_fabric
from pipeline.training.loop import batches, phase_clips, train
from pipeline.training.model_file import save_model
from pipeline.training.step import Step
from pipeline.video.clips import EpochOrder
from pipeline.video.shards import open_videos

FPS = 10
TIMED = 20  # steps, after as many that compile and warm up
EVALUATION = EvaluateConfig(
    fps=FPS,
    horizon=3,
    step=8,
    batch=32,
    moving_threshold=0.1,
    lpips=None,
    bootstrap=1000,
    seed=0,
    curriculum_clips=1,
    pictures=4,
    device="auto",
)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, the timed steps included")
    parser.add_argument("--encoder", default="random", help="imagenet, random, or the path of a ResNet-18 state dict")
    parser.add_argument("--workers", type=int, default=8 if on_gpu else 0, help="loader processes")
    add_case(parser, size="64x96", channels=64 if on_gpu else 16)
    given = parser.parse_args()
    started = time.perf_counter()
    config = settings(given)
    fabric = make_fabric(config.hardware, key="hardware", height=config.height, width=config.width)
    torch.manual_seed(config.seed)
    net = build_net(given.model, config.net, height=config.height, width=config.width)
    encoder = load_weights(net.encoder, config.encoder)
    clips = len(phase_clips(config, given.shards)[0])
    per_step = seconds_per_step(fabric, net, config, given.shards)
    left = given.minutes * 60 - (time.perf_counter() - started)
    config = fit(config, steps=int(left / per_step), clips=clips)

    torch.manual_seed(config.seed)
    net = build_net(given.model, config.net, height=config.height, width=config.width)
    load_weights(net.encoder, config.encoder)
    record, _ = train(fabric, net, config, {FPS: given.shards}, name=given.model, run=given.out / f"run_{given.model}")
    trained = time.perf_counter() - started
    card = config.card(given.model, encoder)
    save_model(given.out / f"{given.model}.safetensors", net, card)
    table, pictures = score(net, card, open_videos(given.shards, "test"), EVALUATION)
    table["made"] = {
        "minutes": trained / 60,
        "steps": record.step,
        "seconds_per_step": per_step,
        "settings": dataclasses.asdict(config),
        "device": device_name(fabric.device),
        "versions": environment("torch", "torchvision", "lightning", "opencv-python-headless"),
    }
    write_metrics(given.out / f"evaluate_{given.model}.json", table)
    draw(given.out, given.model, vars(pictures))


def settings(given: argparse.Namespace) -> TrainConfig:
    """The case's, with what presets/ucf101.yaml has beyond it for lvln_warp."""
    changes: dict[str, object] = {"encoder": given.encoder}
    varied = {"stride": 1, "reverse": False, "flip": False, "crop": 1.0}
    if given.model == "lvln_warp":
        varied |= {"reverse": True, "flip": True, "crop": 0.8}
        loss = {"dssim": 0.4, "l1": 0.6, "l2": 0.0, "ms_dssim": 0.0, "laplacian": 0.0, "gradient": 0.0}
        changes |= {"observed_loss": 0.5, "loss": loss}
    clips = {"step": 3, "fraction": 1.0, "overfit": 0, "workers": given.workers, "jpeg_decoder": "cpu", **varied}
    optimizer = {"lr": 5e-4, "weight_decay": 0.01, "warmup_steps": 200, "clip_norm": 1.0, "ema": 0.0}
    hardware = {"precision": "auto", "compile": "auto"}
    return make_config(given, hardware=hardware, clips=clips, optimizer=optimizer, **changes)


def seconds_per_step(fabric: object, net: torch.nn.Module, config: TrainConfig, shards: Path) -> float:
    """Of the training loop, loading included, once it is compiled and warm. Trains `net` a little."""
    step = Step(fabric, net, config)
    clips, _ = phase_clips(config, shards)
    order = EpochOrder(len(clips), config.batch)
    endless = (batch for _ in cycle([None]) for batch in batches(clips, order, config.clips, fabric.device))
    for number, batch in enumerate(islice(endless, 2 * TIMED)):
        if number == TIMED:
            float(values.sum())  # noqa: F821 (the device has done all so far)
            started = time.perf_counter()
        values = step(batch, lr=1e-6, clips_of_all=len(batch))
    float(values.sum())
    net.encoder.fuse(None)
    return (time.perf_counter() - started) / TIMED


def fit(config: TrainConfig, *, steps: int, clips: int) -> TrainConfig:
    """The config with as many epochs as make at most so many steps, at least one; or with fewer clips an epoch."""
    if steps < 1:
        raise ValueError("no time is left to train after the timed steps; give more --minutes")
    per_epoch = -(-clips // config.batch)
    if steps < per_epoch:
        fewer = dataclasses.replace(config.clips, fraction=steps / per_epoch)
        return dataclasses.replace(config, clips=fewer, curriculum=(Phase(FPS, 1),))
    return dataclasses.replace(config, curriculum=(Phase(FPS, steps // per_epoch),))


def draw(out: Path, model: str, frames: dict[str, torch.Tensor]) -> None:
    try:
        from pipeline.evaluation.figures import animation, prediction_sheet
    except ImportError as error:
        print(f"no pictures: {error}")
        return
    title = f"{model}: test clips at {FPS} fps"
    prediction_sheet(out / f"evaluate_{model}.png", **frames, title=title)
    animation(out / f"evaluate_{model}.gif", **frames, title=title)


if __name__ == "__main__":
    main()
