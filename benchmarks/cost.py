"""How fast this machine does each kind of work of pipeline/cost/work.py, at the real size of a preset.

    python -m benchmarks.cost ucf101 [--clips 2]

One thread works, and time is CPU seconds of this process, so that other programs on the machine do not count: the
rates are those of a core. On random weights and on clips that move. Decoding is measured by benchmarks/decode.py. The
rates go into pipeline/cost/machines.py.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.cases import hardware, make_net, moving_textures
from benchmarks.measure import environment, report
from benchmarks.probe import extraction, heads, write_features
from pipeline.cost.data_set import UCF101
from pipeline.cost.heads import head_flop
from pipeline.cost.work import features_flop, prediction_flop, step_flop
from pipeline.evaluation.baselines import baselines
from pipeline.evaluation.metrics import quality, regions_of
from pipeline.evaluation.score import EvaluateConfig
from pipeline.nets.rollout import predict
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.samples import read_splits
from pipeline.settings import from_dict
from pipeline.training.config import TrainConfig
from pipeline.training.devices import make_fabric
from pipeline.training.losses import loss_per_image
from pipeline.training.step import Step
from stages.preset import PRESETS, with_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=sorted(file.stem for file in PRESETS.glob("*.yaml")))
    parser.add_argument("--clips", type=int, default=2, help="at a time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tree = with_preset(PRESETS / f"{given.preset}.yaml")
    models = {
        # Another encoder's weights make no difference to the time.
        name: replace(from_dict(node, TrainConfig, where=f"train.{name}"), encoder="random")
        for name, node in tree["train"].items()
    }
    evaluate = from_dict(tree["evaluate"], EvaluateConfig, where="evaluate")
    rates: dict[str, float] = {}
    predicted = seconds = 0.0
    for name, config in models.items():
        rates[f"train {name}"] = given.clips * step_flop(name, config) / step_seconds(name, config, given.clips)
        print(f"train {name}: {rates[f'train {name}'] / 1e9:.4g} GFLOP/s", flush=True)
        predicted += given.clips * prediction_flop(name, config, horizon=evaluate.horizon)
        seconds += prediction_seconds(name, config, given.clips, horizon=evaluate.horizon)
    rates["predict"] = predicted / seconds
    print(f"predict: {rates['predict'] / 1e9:.4g} GFLOP/s", flush=True)
    rates |= scoring_rates(next(iter(models.values())), evaluate)
    rates |= probe_rates(tree, given.clips)
    report({"preset": given.preset, "rates_of_a_core": rates, "environment": environment("torch", "numpy")})


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of it, the second time that it is done."""
    work()
    start = time.process_time()
    work()
    return time.process_time() - start


def step_seconds(name: str, config: TrainConfig, count: int) -> float:
    fabric = make_fabric(hardware(device="cpu"), height=config.height, width=config.width)
    step = Step(fabric, make_net(name, config), config, compile=False)
    clips = moving_textures(count, config.context + config.horizon, height=config.height, width=config.width, seed=0)
    return timed(lambda: step(clips, lr=1e-4, clips_of_all=count))


def prediction_seconds(name: str, config: TrainConfig, count: int, *, horizon: int) -> float:
    net = make_net(name, config).eval()
    clips = moving_textures(count, config.context, height=config.height, width=config.width, seed=0) / 255
    feeding = {"horizon": horizon, "clip_feedback": config.clip_feedback, "off_by_one": config.off_by_one}
    with torch.no_grad():
        return timed(partial(predict, net, clips, **feeding))


def scoring_rates(config: TrainConfig, evaluate: EvaluateConfig, count: int = 8) -> dict[str, float]:
    """measure: as a model is scored, its loss included; flow: with what is warped by it."""
    frames = config.context + evaluate.horizon
    images = moving_textures(count, frames, height=config.height, width=config.width, seed=0) / 255
    context, targets = images[:, : config.context], images[:, config.context :]
    regions = regions_of(images, config.context, threshold=evaluate.moving_threshold).flatten(1, 2)
    truth, other = targets.flatten(0, 1), images[:, : evaluate.horizon].flatten(0, 1)

    def measure() -> None:
        quality(other, truth, regions)
        loss_per_image(other, truth, config.loss, regions[1])

    pixels, flows = count * evaluate.horizon * config.height * config.width, count * (1 + evaluate.horizon)
    return {"measure": pixels / timed(measure), "flow": flows / timed(lambda: baselines(context, targets))}


def probe_rates(tree: Mapping[str, dict], count: int) -> dict[str, float]:
    """features, and heads on what the choices `deepest` and `attentive` read, together."""
    features = from_dict(tree["features"], FeaturesConfig, where="features")
    probe = from_dict(tree["probe"], ProbeConfig, where="probe")
    train = from_dict(tree["train"][features.model], TrainConfig, where=f"train.{features.model}")
    per_second, shapes = extraction(features, train, count, torch.device("cpu"))
    found = {"features": per_second * features_flop(features, train)}
    flop = seconds = 0.0
    given = argparse.Namespace(heads=4, steps=2)
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder), shapes, features, probe.batch * (given.steps + 1))
        for name in ("deepest", "attentive"):
            splits = read_splits(Path(folder), "trained", name)
            rates = heads(probe, splits, given, torch.device("cpu"))
            one = head_flop(probe, shapes[f"trained/{name}"], UCF101.classes)
            flop += one * (3 + 1)
            seconds += 1 / rates.learn + 1 / rates.score
    return found | {"heads": flop / seconds}


if __name__ == "__main__":
    main()
