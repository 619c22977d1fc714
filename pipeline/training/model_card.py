"""What a model file says of itself; apart from the file's format, so that training needs no safetensors."""

from dataclasses import dataclass

from pipeline.nets.rollout import Feeding
from pipeline.training.losses import LossConfig


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself. model: the variant, a module of pipeline.nets; net: its Config as a dict;
    height, width: of the frames; seeds, horizon: frames in and frames predicted in training; encoder: what
    load_weights returned; held_back: names_digest of the test videos, which training did not see."""

    model: str
    net: dict
    height: int
    width: int
    seeds: int
    horizon: int
    feeding: Feeding
    clip_feedback: bool
    loss: LossConfig
    encoder: dict
    held_back: str
