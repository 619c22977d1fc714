"""How long the probe takes: clips a second through the frozen networks, and through the training of the heads.

    python -m benchmarks.probe PRESET [--device cpu] [--clips 2] [--steps 2] [--heads 4]

Extraction: the networks of every condition at the preset's size, with random weights, on clips that move; reading JPEGs
is not counted. Heads: the probe's own steps on random features of the preset's shapes, written to a temporary folder
and read from there (the system's cache holds them); every head computes the same, so that a few tell of all. On a CPU
one thread works, and time is CPU seconds of this process, so that other programs on the machine do not count; on a GPU
it is the clock's. From the rates follows the time for the clips of the whole of UCF101. The nearest neighbours, which
nothing is trained for, and the first pass over the features for their mean and deviation are not counted.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import moving_textures
from benchmarks.measure import device_name, environment, peak_memory_gib, report
from pipeline.cost.data_set import UCF101
from pipeline.cost.heads import CONTROLS, passes
from pipeline.nets.build import build_net
from pipeline.probe.classifier import Heads, ProbeConfig, moments
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.features.extract import features_of, networks_of
from pipeline.probe.heads import Standardise, make_net
from pipeline.probe.samples import Splits, read_splits
from pipeline.results import write_table
from pipeline.settings import from_dict, overlay, read_params
from pipeline.training.config import TrainConfig

PRESETS = Path("presets")


@dataclass(frozen=True)
class Rates:
    """Clips a second of a head, where it learns and where it is scored."""

    learn: float
    score: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=sorted(file.stem for file in PRESETS.glob("*.yaml")))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clips", type=int, default=2, help="to extract features of")
    parser.add_argument("--steps", type=int, default=2, help="of the heads' training, after a first one")
    parser.add_argument("--heads", type=int, default=4, help="side by side")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tree = read_params()
    overlay(tree, read_params(PRESETS / f"{arguments.preset}.yaml"))
    measure(tree, arguments)


def measure(tree: Mapping[str, dict], arguments: argparse.Namespace) -> None:
    """Prints a table, and the figures."""
    device = torch.device(arguments.device)
    features = from_dict(tree["features"], FeaturesConfig, where="features")
    probe = from_dict(tree["probe"], ProbeConfig, where="probe")
    train = from_dict(tree["train"][features.model], TrainConfig, where=f"train.{features.model}")
    per_second, shapes = extraction(features, train, arguments.clips, device)
    hours = {"features": UCF101.videos * features.clips / per_second / 3600}
    print(f"{'':12}{'clips/s':>10}{'hours for UCF101':>20}")
    print(f"{'features':12}{per_second:10.3g}{hours['features']:20.3g}   all {len(features.conditions)} conditions")
    all_heads = len(probe.seeds) * len(probe.lr) * len(probe.weight_decay)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder), shapes, features, probe.batch * (arguments.steps + 1))
        for name in (*features.choices, *CONTROLS):
            condition = "memoryless" if name in CONTROLS else "trained"
            rates[name] = heads(probe, read_splits(Path(folder), condition, name), arguments, device)
            learned, scored = passes(probe, UCF101, features, times=CONTROLS.get(name))
            hours[name] = (learned / rates[name].learn + scored / rates[name].score) / 3600
            print(f"{name:12}{rates[name].learn / all_heads:10.3g}{hours[name]:20.3g}   {all_heads} heads side by side")
    hours["all"] = sum(hours.values())
    print(f"{'all':12}{'':10}{hours['all']:20.3g}\n")
    report(
        {
            "preset": arguments.preset,
            "features_clips_per_s": per_second,
            "heads": all_heads,
            "learn_clips_per_s": {name: rate.learn / all_heads for name, rate in rates.items()},
            "score_clips_per_s": {name: rate.score / all_heads for name, rate in rates.items()},
            "hours_for_ucf101": hours,
            "peak_memory_gib": peak_memory_gib(device),
            "seconds": "CPU, one thread" if device.type == "cpu" else "clock",
            "device": device_name(device),
            "environment": environment("torch", "numpy"),
        }
    )


def extraction(
    config: FeaturesConfig, train: TrainConfig, count: int, device: torch.device
) -> tuple[float, dict[str, tuple[int, ...]]]:
    """Clips a second through the networks of all conditions, and the shapes of the features of a clip."""
    size = {"height": train.height, "width": train.width}
    net = build_net(config.model, train.net, **size).eval().to(device)
    card = train.card(config.model, {}, test_digest="")
    networks = networks_of(config.conditions, config, net, card)
    clips = list(moving_textures(count, config.frames, **size, seed=0))

    def extract(clips: list[Tensor]) -> dict[str, Tensor]:
        return features_of(clips, range(len(clips)), config, networks, card, longest=config.frames)

    found = extract(clips if device.type == "cuda" else clips[:1])  # a GPU begins anew with every size of a batch
    seconds = timed(lambda: extract(clips), device)
    return count / seconds, {name: tuple(values.shape[1:]) for name, values in found.items()}


def write_features(folder: Path, shapes: Mapping[str, tuple[int, ...]], config: FeaturesConfig, clips: int) -> None:
    """Random features as the stage writes them, of the conditions `trained` and `memoryless`: at least so many clips to
    train on, and as many to score."""
    videos = -(-clips // config.clips)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        file = folder / f"{name}.npy"
        if file.parent.name in ("trained", "memoryless"):
            file.parent.mkdir(exist_ok=True)
            np.save(file, rng.standard_normal((config.clips * (2 * videos + 1), *shape), np.float32).astype(np.float16))
    splits = ["train"] * videos + ["validation"] * videos + ["test"]
    rows = [{"video": i, "label": i % UCF101.classes, "split": split} for i, split in enumerate(splits)]
    write_table(folder / "videos.csv", rows)


def heads(config: ProbeConfig, splits: Splits, arguments: argparse.Namespace, device: torch.device) -> Rates:
    """Of some heads side by side."""
    train = splits.train
    scale = Standardise(*moments(train)).to(device) if config.standardize else nn.Identity()
    nets = [make_net(config.head, train.shape, UCF101.classes, dropout=config.dropout) for _ in range(arguments.heads)]
    side_by_side = Heads(nets, scale, device)
    optimizer = side_by_side.optimizer([{"lr": config.lr[0], "weight_decay": config.weight_decay[0]}] * len(nets))
    order = np.random.default_rng(0).permutation(len(train))[: config.batch * (arguments.steps + 1)]
    first, *others = np.array_split(order, arguments.steps + 1)

    def learn(rows: np.ndarray) -> None:
        side_by_side.learn(train.take(rows).to(device), train.labels[rows // train.clips].to(device), optimizer)

    learn(first)
    learning = timed(lambda: [learn(rows) for rows in others], device)
    scoring = timed(lambda: side_by_side.score(splits.validation), device)
    return Rates(learn=len(nets) * sum(map(len, others)) / learning, score=len(nets) * len(splits.validation) / scoring)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, see above."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
