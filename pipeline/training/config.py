"""Section `train.<model>` of the parameters."""

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field

from pipeline.clips.clips import Augmentation, ClipsConfig
from pipeline.hardware import HardwareConfig
from pipeline.settings import Count, Natural, NotNegative, Pixels, Positive, Rate, Share, section
from pipeline.training.losses import LOSSES
from pipeline.training.model_card import ModelCard


@section
class Phase:
    """One phase of the curriculum."""

    fps: Rate
    epochs: Count


@section
class OptimizerConfig:
    """The rate rises linearly over warmup_steps, is held, and falls to zero along a cosine in the last phase."""

    kind: Literal["adamw", "adam", "adagrad", "sgd"]  # sgd with Nesterov's momentum of 0.9
    lr: Positive
    weight_decay: NotNegative
    warmup_steps: Natural
    clip_norm: NotNegative  # the gradient's norm is cut to this; 0: off
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the weights' running mean, which is what is kept; 0: off


@section
class SamplingConfig:
    """Reverse scheduled sampling (Wang et al., "PredRNN" 2022, section 3.4), drawn for every clip and frame: the shares
    at the first step, which fall linearly to zero over `steps` steps of the run. What is zero may be left out."""

    context_predicted: Share = 0.0  # of the context but its first frame: the network is fed its own prediction
    horizon_true: Share = 0.0  # of the horizon: the network is fed the true frame in place of its prediction
    steps: Natural = 0

    def __post_init__(self) -> None:
        if not self.steps and (self.context_predicted or self.horizon_true):
            raise ValueError("context_predicted and horizon_true above 0 need steps above 0, over which they fall")


@section
class EarlyStopping:
    """patience: epochs of a phase without a better validation loss after which the phase ends; 0: never."""

    patience: Natural
    validation_clips: Count  # at most so many clips of the validation groups


@section
class TrainConfig:
    """Section `train.<model>`."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    net: dict  # the variant's own Config
    height: Pixels  # of the frames; at most decode's
    width: Pixels
    encoder: str  # imagenet, random, or the path of a ResNet-18 state dict
    context: Count  # frames in
    horizon: Count  # frames predicted
    off_by_one: bool  # score every prediction against the frame before its own, as the report's code did
    clip_feedback: bool  # clip predictions to [0, 1] before they are fed back
    context_loss: NotNegative  # weight of the predictions of context frames, beside 1 for the frames after them
    sampling: SamplingConfig
    clips: ClipsConfig
    augmentation: Augmentation
    curriculum: tuple[Phase, ...]
    batch: Count  # clips a step, over all devices together
    loss: dict[str, NotNegative]  # weights by name (losses.LOSSES); what is zero may be left out
    optimizer: OptimizerConfig
    early_stopping: EarlyStopping

    def card(self, model: str, encoder: dict, *, test_digest: str) -> ModelCard:
        """What the model file of this run says; see ModelCard."""
        own = {field.name for field in fields(self)} & {field.name for field in fields(ModelCard)} - {"encoder"}
        shared = {name: getattr(self, name) for name in own}
        return ModelCard(model=model, encoder=encoder, test_digest=test_digest, **shared)

    def __post_init__(self) -> None:
        if not self.curriculum:
            raise ValueError("curriculum is empty; it needs at least one phase {fps, epochs}")
        if unknown := [name for name in self.loss if name not in LOSSES]:
            raise ValueError(f"loss.{unknown[0]} is not a loss; allowed: {', '.join(LOSSES)}")
        if sum(self.loss.values()) <= 0:
            raise ValueError(f"loss: all weights are zero; one of {', '.join(LOSSES)} must be above 0")
        if self.off_by_one and (self.context_loss or self.sampling.steps):
            raise ValueError("off_by_one goes with context_loss 0 and sampling.steps 0 alone")
        if self.context == 1 and (self.context_loss or self.sampling.context_predicted):
            # The first frame is always fed, and nothing predicts it.
            raise ValueError("context 1 goes with context_loss 0 and sampling.context_predicted 0 alone")


def check_ranks(config: TrainConfig, hardware: HardwareConfig, *, model: str) -> None:
    """ValueError unless each of the processes that train together has something to do."""
    if hardware.ranks > 1 and config.context + config.horizon < 3:
        # A single step starts from the zero state, and the weights over the state would get no gradient.
        raise ValueError(
            f"train.{model}: context and horizon are 1 frame each; hardware.devices and nodes above 1 need one more"
        )
    if config.batch < hardware.ranks:
        raise ValueError(
            f"train.{model}.batch: {config.batch} is smaller than hardware.devices × nodes, {hardware.ranks}"
        )
