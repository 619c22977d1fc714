"""Section `train.<model>` of the parameters."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.clips.clips import ClipsConfig
from pipeline.nets.rollout import Feeding
from pipeline.settings import Above, AtLeast, Below, Between, MultipleOf
from pipeline.training.hardware import HardwareConfig
from pipeline.training.losses import LossConfig
from pipeline.training.model_card import ModelCard


@dataclass(frozen=True)
class Phase:
    """One phase of the curriculum."""

    fps: Literal[25, 15, 10]
    epochs: Annotated[int, AtLeast(1)]


@dataclass(frozen=True)
class OptimizerConfig:
    """The rate rises linearly over warmup_steps, is held, and falls to zero along a cosine in the last phase."""

    kind: Literal["adamw", "adam", "adagrad", "sgd"]  # sgd with Nesterov's momentum of 0.9
    lr: Annotated[float, Above(0)]
    weight_decay: Annotated[float, AtLeast(0)]
    warmup_steps: Annotated[int, AtLeast(0)]
    clip_norm: Annotated[float, AtLeast(0)]  # the gradient's norm is cut to this; 0: off
    ema: Annotated[float, AtLeast(0), Below(1)]  # decay of the weights' running mean, which is what is kept; 0: off


@dataclass(frozen=True)
class SamplingConfig:
    """Reverse scheduled sampling (Wang et al., "PredRNN" 2022, section 3.4), drawn a clip and frame: the shares at the
    first step, which fall linearly to none over `steps` steps of the run."""

    own_seeds: Annotated[float, Between(0, 1)]  # of the seeds but the first: the network is fed its own prediction
    true_frames: Annotated[float, Between(0, 1)]  # of the predictions: the network is fed the true frame instead
    steps: Annotated[int, AtLeast(0)]

    def __post_init__(self) -> None:
        if not self.steps and (self.own_seeds or self.true_frames):
            raise ValueError("own_seeds and true_frames above 0 need steps above 0, over which they fall")


@dataclass(frozen=True)
class EarlyStopping:
    """patience: epochs of a phase without a better validation loss after which the phase ends; 0: never."""

    patience: Annotated[int, AtLeast(0)]
    validation_clips: Annotated[int, AtLeast(1)]  # at most so many clips of the validation groups


@dataclass(frozen=True)
class TrainConfig:
    """Section `train.<model>`."""

    seed: Annotated[int, Between(0, 2**32 - 1)]
    net: dict  # the variant's own Config
    height: Annotated[int, MultipleOf(32)]  # of the frames; at most decode's
    width: Annotated[int, MultipleOf(32)]
    encoder: str  # imagenet, random, or the path of a ResNet-18 state dict
    seeds: Annotated[int, AtLeast(1)]  # frames in
    horizon: Annotated[int, AtLeast(1)]  # frames predicted
    feeding: Feeding
    clip_feedback: bool  # clip predictions to [0, 1] before they are fed back
    observed_loss: Annotated[
        float, AtLeast(0)
    ]  # weight of the predictions of seeds, beside 1 for the frames after them
    sampling: SamplingConfig
    clips: ClipsConfig
    curriculum: tuple[Phase, ...]
    batch: Annotated[int, AtLeast(1)]  # clips a step, over all devices together
    loss: LossConfig
    optimizer: OptimizerConfig
    early_stopping: EarlyStopping
    hardware: HardwareConfig
    checkpoint_minutes: Annotated[float, Above(0)]
    wandb: Literal["disabled", "offline", "online"]

    def card(self, model: str, encoder: dict, *, held_back: str) -> ModelCard:
        """What the model file of this run says; see ModelCard."""
        return ModelCard(
            model,
            self.net,
            self.height,
            self.width,
            self.seeds,
            self.horizon,
            self.feeding,
            self.clip_feedback,
            self.loss,
            encoder,
            held_back,
        )

    def __post_init__(self) -> None:
        if not self.curriculum:
            raise ValueError("curriculum is empty; it needs at least one phase {fps, epochs}")
        if self.feeding == "second_output" and (self.observed_loss or self.sampling.steps):
            raise ValueError("feeding second_output goes with observed_loss 0 and sampling.steps 0 alone")
        if self.seeds == 1 and (self.observed_loss or self.sampling.own_seeds):
            # The first seed is always fed, and nothing predicts it.
            raise ValueError("seeds 1 goes with observed_loss 0 and sampling.own_seeds 0 alone")
        if self.hardware.ranks > 1 and self.seeds + self.horizon < 3:
            # A single step starts from the zero state, and the weights over the state would get no gradient.
            raise ValueError("seeds and horizon are 1 frame each; hardware.devices and nodes above 1 need one more")
        if self.batch < self.hardware.ranks:
            raise ValueError(f"batch {self.batch} is smaller than hardware.devices × nodes, {self.hardware.ranks}")
