"""What a model file says of itself; apart from the file's format, so that training needs no safetensors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """model: the variant, a module of pipeline.variants; net: its Config as a dict; height, width: of the frames;
    context, horizon: frames in and frames predicted in training; off_by_one, clip_feedback, loss: as in TrainConfig;
    encoder: what load_weights returned; test_digest: names_digest of the test videos, which training did not see."""

    model: str
    net: dict
    height: int
    width: int
    context: int
    horizon: int
    off_by_one: bool
    clip_feedback: bool
    loss: dict[str, float]
    encoder: dict
    test_digest: str
