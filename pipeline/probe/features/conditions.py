"""Which clips are shown to which network: the settings of features, and the conditions that a probe compares.

`trained` is what is probed. Its controls: `untrained_0`, `untrained_1`, …, networks of the same shape around the same
encoder, with fresh weights drawn each time; `still`, the trained network shown the clip's last frame again and again;
`shuffled`, shown the clip's frames in an order drawn for each clip; and `memoryless`, which is no network's state
(memoryless.py).

Labels: `actions`, the classes of the data set; or `directions`, whether a clip runs forwards or backwards. Then every
video is there twice, with the same frames, so that no frame tells the class. (On the generated videos nothing does:
each of their classes, played backwards, is another class.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.clips.clips import read_frames
from pipeline.clips.shards import StoredVideo, names_digest
from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.probe.features.states import Steps
from pipeline.probe.samples import CHOICES, PARTS
from pipeline.settings import Count, Natural, Rate, section
from pipeline.training.model_card import ModelCard

DIRECTIONS = ("forwards", "backwards")


@section
class FeaturesConfig:
    """Section `features`."""

    model: str  # whose hidden states; a model of section `train`
    labels: Literal["actions", "directions"]
    fps: Rate
    clips: Count  # of a video, evenly spaced; their scores are averaged
    frames: Natural  # of a clip; 0: the whole video
    choices: tuple[Literal[CHOICES], ...]  # of features: what is stored, and a stage `probe` each
    states: Steps
    token_stride: Count  # pixels that a token covers, each way
    untrained: Count  # draws of fresh weights
    batch: Count  # clips at a time
    seed: Natural  # of the first untrained network (the next has the next), the shuffled frames, the order of the rows

    def __post_init__(self) -> None:
        if self.frames == 0 and self.clips != 1:
            raise ValueError(f"frames is 0, the whole video: clips is {self.clips}; allowed: 1")
        if self.frames == 1:
            raise ValueError("frames is 1, of which there is no flow; allowed: 0 (the whole video), or at least 2")
        if self.labels == "directions" and (self.frames == 0 or self.frames % 2) and self.fps != 25:
            # Resampled frames are two and three source frames apart, in turn.
            raise ValueError(
                f"labels are directions: frames is {self.frames}; allowed: an even number, since else the distances "
                f"between frames at {self.fps} fps are others backwards, and tell the direction"
            )
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices is {list(self.choices)}; it needs at least one, and each may occur once")

    @property
    def parts(self) -> set[str]:
        """The features of states and predictions that the choices read."""
        return {part for choice in self.choices for part in PARTS.get(choice, (choice,))}

    @property
    def draws(self) -> tuple[str, ...]:
        """The untrained conditions."""
        return tuple(f"untrained_{draw}" for draw in range(self.untrained))

    @property
    def conditions(self) -> tuple[str, ...]:
        """All of them."""
        return ("trained", *self.draws, "still", "shuffled", "memoryless")


@dataclass(frozen=True)
class Item:
    """What is classified: a video, or one of its two directions."""

    video: StoredVideo
    split: str
    reverse: bool | None = None  # None: labels are actions

    def row(self) -> dict[str, object]:
        """Of videos.csv: video, name (of the label), label, action, group, split."""
        info, direction = self.video.info, int(bool(self.reverse))
        directed = self.reverse is not None
        return {
            "video": f"{self.video.key}:{DIRECTIONS[direction]}" if directed else self.video.key,
            "name": DIRECTIONS[direction] if directed else info.action,
            "label": direction if directed else info.label,
            "action": info.action,
            "group": info.group,
            "split": self.split,
        }


def items(by_split: dict[str, list[StoredVideo]], config: FeaturesConfig) -> list[Item]:
    """All that is classified, split by split, each in an order drawn from config.seed: what is read in order then is
    read in a mixed order of classes."""
    reverses = (None,) if config.labels == "actions" else (False, True)
    found = []
    for split, videos in by_split.items():
        each = [Item(video, split, reverse) for video in videos for reverse in reverses]
        found += [each[i] for i in np.random.default_rng(config.seed).permutation(len(each))]
    return found


def check_split(card: ModelCard, test: Sequence[StoredVideo], *, model: str) -> None:
    """ValueError unless the test videos are those that the model's training held back."""
    if card.test_digest != names_digest(test):
        raise ValueError(
            f"models/{model}.safetensors was trained on another split than that of data/shards: it may have seen the "
            f"test videos of decode.split. Train it on this one with: dvc repro train@{model}"
        )


def token_grid(stride: int, *, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens; ValueError unless they cover the model's frames exactly."""
    if height % stride or width % stride:
        raise ValueError(
            f"features.token_stride: {stride} does not divide the model's frames of {height}×{width} pixels"
        )
    return height // stride, width // stride


def untrained(net: Ladder, card: ModelCard, *, seed: int) -> Ladder:
    """A network of the same shape and encoder with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_net(card.model, card.net, height=card.height, width=card.width)
    fresh.encoder.load_state_dict(net.encoder.state_dict())
    return fresh.eval()


def windows(video: StoredVideo, config: FeaturesConfig) -> list[tuple[int, int]]:
    """(first frame, frames) of the video's clips, from its start to its end; one clip lies in the middle. A video
    shorter than a clip is taken whole, each time."""
    length = min(config.frames or video.info.frames, video.info.frames)
    room = video.info.frames - length
    if config.clips == 1:
        return [(room // 2, length)]
    return [(round(i * room / (config.clips - 1)), length) for i in range(config.clips)]


def read_clip(item: Item, window: tuple[int, int]) -> Tensor:
    """uint8 (T, 3, H, W), the last frame first where the item runs backwards."""
    frames = read_frames(item.video, *window)
    return frames.flip(0) if item.reverse else frames


def order(condition: str, length: int, *, seed: tuple[int, int]) -> Tensor:
    """Numbers (T,) of a clip's frames as the condition shows them; seed: of the shuffled order, config.seed and the
    clip's number."""
    if condition == "still":
        return torch.full((length,), length - 1)
    if condition == "shuffled":
        return torch.from_numpy(np.random.default_rng(seed).permutation(length))
    return torch.arange(length)
