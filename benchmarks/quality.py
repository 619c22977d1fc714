"""How good a model gets in so many minutes of training, at full width, by the pipeline's own evaluation.

    python -m benchmarks.quality --model lvln_warp --shards data/shards --out DIR [--minutes 4] [--encoder FILE]

--shards: the decode stage's, a folder a rate (train-*.tar, validation-*.tar, test-*.tar in each). Times some steps,
trains through the --rates, 10 fps alone by default, for as many epochs of each as fit the minutes (or for one, on a
part of the clips, where they do not), and scores the test split at 10 fps, or 100 videos evenly of it.
Writes OUT/evaluate_<model>.json, with what `dvc repro evaluate@<model>` gives but for the curriculum matrix, and how it
was made; OUT/<model>.safetensors; OUT/curves_<model>.csv; and the pictures of the evaluate stage if there is pillow.
"""

import argparse
import dataclasses
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from lightning.fabric import Fabric

from benchmarks.cases import COMPILE, add_case, endless_batches, hardware, make_config, make_net
from benchmarks.evaluate import EVALUATION, FPS
from benchmarks.measure import device_name, environment
from pipeline.clips.batches import EpochOrder, batches
from pipeline.clips.shards import RATES, names_digest, open_videos
from pipeline.evaluation.score import PREDICTORS, score
from pipeline.hardware import HardwareConfig
from pipeline.nets.build import build_net
from pipeline.nets.encoder import load_weights
from pipeline.results import write_metrics, write_table
from pipeline.training.config import Phase, TrainConfig
from pipeline.training.devices import make_fabric
from pipeline.training.loop import phase_clips, train
from pipeline.training.model_file import save_model
from pipeline.training.step import Step

TIMED = 20  # steps, after as many that compile and warm up; fewer where they take over an eighth of the minutes
SCORED_VIDEOS = 100  # of the test split, evenly over it: so many are scored in well under a minute


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rates", type=int, nargs="+", choices=RATES, default=[FPS], help="in order")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, compiling and timing included")
    parser.add_argument("--encoder", default="random", help="imagenet, random, or the path of a ResNet-18 state dict")
    parser.add_argument("--workers", type=int, default=8 if on_gpu else 0, help="loader processes")
    add_case(parser, size="64x96", channels=64 if on_gpu else 16)
    given = parser.parse_args()
    started = time.perf_counter()
    config, machine = settings(given), hardware(workers=given.workers, compile=COMPILE[given.compile])
    fabric = make_fabric(machine, height=config.height, width=config.width)
    eighth = given.minutes * 60 / 8
    shards = {rate: given.shards / str(rate) for rate in {*given.rates, FPS}}
    clips = {rate: len(phase_clips(config, shards[rate])[0]) for rate in given.rates}
    cost = measure(fabric, make_net(given.model, config), config, machine, shards[given.rates[-1]], seconds=eighth)
    # A phase compiles once more, since its last batches may be of another size.
    left = given.minutes * 60 - (time.perf_counter() - started) - cost.first * len(clips)
    config = fit(config, cost, clips, seconds=left)

    torch.manual_seed(config.seed)
    net = build_net(given.model, config.net, height=config.height, width=config.width)
    encoder = load_weights(net.encoder, config.encoder)
    run = given.out / f"run_{given.model}"
    shutil.rmtree(run, ignore_errors=True)  # every call trains anew
    record, _ = train(fabric, net, config, machine, shards, name=given.model, run=run)
    trained = time.perf_counter() - started
    write_table(given.out / f"curves_{given.model}.csv", record.rows())
    videos = open_videos(shards[FPS], "test")
    card = config.card(given.model, encoder, test_digest=names_digest(videos))
    save_model(given.out / f"{given.model}.safetensors", net, card)
    videos = videos[:: -(-len(videos) // SCORED_VIDEOS)]
    torch.backends.cudnn.benchmark = False  # to time its algorithms would take longer than to score
    table, pictures = score(net, card, videos, EVALUATION, device=fabric.device, workers=len(os.sched_getaffinity(0)))
    table["made"] = {
        "minutes": trained / 60,
        "steps": record.step,
        "seconds_per_step": cost.step,
        "settings": dataclasses.asdict(config),
        "device": device_name(fabric.device),
        "versions": environment("torch", "torchvision", "lightning", "opencv-python-headless"),
    }
    write_metrics(given.out / f"evaluate_{given.model}.json", table)
    for name, curve in {"loss": record.curve, "validation": record.validation}.items():
        print(f"{given.model}: {name:18} {curve[0]['loss']:.4f} -> {curve[-1]['loss']:.4f}")
    for name in PREDICTORS:
        if name in table:
            values = zip(table[name]["psnr"].values(), table[name]["ssim"].values(), strict=True)
            cells = (f"{psnr:.2f} dB {ssim:.4f}" for psnr, ssim in values)
            print(f"{given.model}: {name:18}", " | ".join(cells))
    draw(given.out, given.model, vars(pictures))


def settings(given: argparse.Namespace) -> TrainConfig:
    """The case's; for the models that move pixels, with the loss and the augmentation of params.yaml, and the crop of
    presets/folder_cpu.yaml."""
    changes: dict[str, object] = {
        "encoder": given.encoder,
        "clips": {"spacing": 3},
        "optimizer": {"lr": 5e-4, "warmup_steps": 200},
    }
    if given.model in ("lvln_match", "lvln_warp"):
        changes |= {
            "context_loss": 0.5,
            "augmentation": {"reverse": True, "flip": True, "crop": 0.8},
            "loss": {"dssim": 0.4, "l1": 0.6, "l2": 0.0},
        }
    return make_config(given, **changes)


@dataclass(frozen=True)
class Cost:
    """Seconds: of the first steps, which compile; of a step after that, loading included; of an epoch beside its
    steps."""

    first: float
    step: float
    epoch: float


def measure(
    fabric: Fabric,
    net: torch.nn.Module,
    config: TrainConfig,
    machine: HardwareConfig,
    shards: Path,
    *,
    seconds: float,
) -> Cost:
    """As the training loop does it; `seconds`: of run_steps. Trains `net` a little."""
    clips, held_back = phase_clips(config, shards)
    step = Step(fabric, net, config, compile=machine.compile)
    endless = endless_batches(clips, config, machine, fabric.device)
    first, _ = run_steps(step, endless, seconds=seconds)
    then, steps = run_steps(step, endless, seconds=seconds)
    endless.close()
    before = time.perf_counter()
    for batch in batches(held_back, EpochOrder(len(held_back), config.batch), machine, fabric.device):
        float(step.evaluate(batch).sum())
    next(endless_batches(clips, config, machine, fabric.device))  # starts workers
    net.encoder.fuse(None)
    return Cost(first, then / steps, time.perf_counter() - before)


def run_steps(step: Step, clips: Iterator[torch.Tensor], *, seconds: float) -> tuple[float, int]:
    """At most TIMED steps, at least one, until `seconds` are over; how long they took, and how many they were."""
    begun, steps = time.perf_counter(), 0
    for batch in islice(clips, TIMED):
        values = step(batch, lr=1e-6, clips_of_all=len(batch))
        steps += 1
        if time.perf_counter() - begun > seconds:
            break
    float(values.sum())  # waits for the device
    return time.perf_counter() - begun, steps


def fit(config: TrainConfig, cost: Cost, clips: dict[int, int], *, seconds: float) -> TrainConfig:
    """The config with a phase a rate and as many epochs of each as the time allows, at least one; or with a part of the
    clips for one epoch of each. clips: of an epoch at each rate, in the order of the phases."""
    steps = sum(-(-each // config.batch) for each in clips.values()) * cost.step
    beside = len(clips) * cost.epoch
    epochs = int(seconds / (steps + beside))
    curriculum = tuple(Phase(rate, max(1, epochs)) for rate in clips)
    if epochs >= 1:
        return dataclasses.replace(config, curriculum=curriculum)
    part = (seconds - beside) / steps
    if part <= 0:
        raise ValueError("no time is left to train after the timed steps; give more --minutes")
    fewer = dataclasses.replace(config.clips, fraction=part)
    return dataclasses.replace(config, clips=fewer, curriculum=curriculum)


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
