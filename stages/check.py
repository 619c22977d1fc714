"""Not a DVC stage: reads every section of params.yaml as its stage will, so that a slip in the last one is found
before the first one runs. `make repro` calls it."""

import importlib
import sys
from pathlib import Path

from pipeline.datasets.source import SourceConfig
from pipeline.decode.plan import DecodeConfig
from pipeline.evaluation.score import EvaluateConfig
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.states import FeaturesConfig, check_tokens
from pipeline.settings import MODELS, from_dict, load_section
from pipeline.training.loop import TrainConfig
from stages.entry import run

CONFIGS = {
    "source": SourceConfig,
    "decode": DecodeConfig,
    "evaluate": EvaluateConfig,
    "features": FeaturesConfig,
    "probe": ProbeConfig,
}


def check(file: Path) -> None:
    """ValueError for the first section with a problem, alone or beside the others."""
    sections = {name: load_section(file, name, config) for name, config in CONFIGS.items()}
    for name in MODELS:
        settings = load_section(file, f"train.{name}", TrainConfig)
        variant = importlib.import_module(f"pipeline.variants.{name}")
        from_dict(settings.net, variant.Config, where=f"train.{name}.net", source=str(file))
        if name == sections["features"].model:
            check_tokens(sections["features"].token_stride, height=settings.height, width=settings.width)


def main() -> None:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "params.yaml")
    check(file)
    print(f"{file}: every section is valid")


if __name__ == "__main__":
    run("check", main)
