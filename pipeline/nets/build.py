"""A network from its name and settings."""

import importlib
from collections.abc import Mapping

from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Ladder
from pipeline.settings import from_dict


def build_net(model: str, settings: Mapping[str, object], *, height: int, width: int) -> Ladder:
    """The variant `model`, a module of pipeline.nets, with fresh weights, for frames of height × width pixels
    (multiples of 32). settings: its Config as a dict; ParamsError, with the dotted key, when they do not fit."""
    variant = importlib.import_module(f"pipeline.variants.{model}")
    config = from_dict(settings, variant.Config, where=f"train.{model}.net", source="params.yaml")
    return variant.build(config, Encoder(), height=height, width=width)
