"""A network from its name and settings."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Ladder
from pipeline.settings import from_dict

_VARIANTS = Path(__file__).parents[1] / "variants"


def variant(model: str) -> ModuleType:
    """The module of pipeline.variants that is named so: its Config, and `build`. ValueError when there is none."""
    names = sorted(file.stem for file in _VARIANTS.glob("*.py") if file.stem != "__init__")
    if model not in names:
        raise ValueError(f"train.{model}: there is no pipeline/variants/{model}.py; there are {', '.join(names)}")
    return importlib.import_module(f"pipeline.variants.{model}")


def build_net(model: str, settings: Mapping[str, object], *, height: int, width: int) -> Ladder:
    """The variant `model` with fresh weights, for frames of height × width pixels (multiples of 32). settings: its
    Config as a dict; ParamsError, with the dotted key, when they do not fit."""
    module = variant(model)
    config = from_dict(settings, module.Config, where=f"train.{model}.net", source="params.yaml")
    return module.build(config, Encoder(), height=height, width=width)
