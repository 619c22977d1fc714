"""Not a DVC stage: reads every section of params.yaml as its stage will, so that a slip in the last one is found
before the first one runs. `make repro` calls it."""

import sys
from pathlib import Path
from typing import Any

from pipeline.datasets.source import SourceConfig
from pipeline.decode.plan import DecodeConfig
from pipeline.evaluation.score import EvaluateConfig
from pipeline.hardware import HardwareConfig
from pipeline.nets.build import variant
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig, token_grid
from pipeline.settings import ParamsError, from_dict, read_params
from pipeline.training.config import TrainConfig, check_ranks
from stages.entry import run

CONFIGS = {
    "source": SourceConfig,
    "decode": DecodeConfig,
    "evaluate": EvaluateConfig,
    "features": FeaturesConfig,
    "probe": ProbeConfig,
    "hardware": HardwareConfig,
}


def check(tree: dict[str, object], *, source: str) -> None:
    """ValueError with the problems of all sections. source: the file that they come from, for messages."""
    problems: list[str] = []

    def read(node: object, config: type, where: str) -> Any:
        try:
            return from_dict(node, config, where=where, source=source)
        except ParamsError as error:
            problems.extend(str(error).split("\n")[1:])
            return {}

    sections = {name: read(tree.get(name), config, name) for name, config in CONFIGS.items()}
    trained = {}
    for name, node in read(tree.get("train"), dict[str, dict], "train").items():
        if name == "decode" or name.startswith(("train_", "probe_")) or name.endswith("_moving"):
            problems.append(f"  train.{name}: metrics/{name}.json would be another's; give the model another name")
        try:
            module = variant(name)
        except ValueError as error:
            problems.append(f"  {error}")
            continue
        if settings := read(node, TrainConfig, f"train.{name}"):
            trained[name] = settings
            read(settings.net, module.Config, f"train.{name}.net")
    if problems:
        raise ParamsError("\n".join([f"{source}:", *problems]))
    for name, settings in trained.items():
        check_ranks(settings, sections["hardware"], model=name)
    features = sections["features"]
    if features.model not in trained:
        raise ParamsError(f"{source}: features.model: {features.model!r} is not allowed; allowed: {', '.join(trained)}")
    of = trained[features.model]
    token_grid(features.token_stride, height=of.height, width=of.width)


def main() -> None:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "params.yaml")
    check(read_params(file), source=str(file))
    print(f"{file}: every section is valid")


if __name__ == "__main__":
    run("check", main)
