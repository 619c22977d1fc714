"""Hidden states of a frozen network after a clip, as features (report, section 5), under four conditions.

Choices (with their dimensions at 128×160 and width 64): `deepest`, all of C4's states (15,360); `subsample`, every
128th value of C1 … C3's, flattened as (C, H, W) and joined (10,080); `combined`, both (25,440). `pooled`: mean and
maximum over space of every branch's state (Ballas et al., "Delving Deeper into Convolutional Networks for Learning
Video Representations", 2016, average each level). `attentive`: every branch's state on one grid of tokens, for a head
with attention. Beside them `encoder`: the frozen encoder's own taps, averaged over space and frames (1,024).

Conditions: `trained`; and as controls `untrained`, the same network with fresh weights around the same encoder;
`still`, the clip's last frame repeated; `shuffled`, the clip's frames in an order drawn for each clip.

Shapes: B clips, T frames, C channels, H × W of a level, N tokens; features (clips, dimensions) or (clips, N, C).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.clips.batches import as_images
from pipeline.clips.clips import read_frames
from pipeline.clips.shards import StoredVideo, names_digest
from pipeline.nets.build import build_net
from pipeline.nets.encoder import TAPS
from pipeline.nets.ladder import LEVELS, Ladder, States, first
from pipeline.settings import Count, Natural, Rate, section
from pipeline.training.model_card import ModelCard

CONDITIONS = ("trained", "untrained", "still", "shuffled")
STORED = {"deepest": np.float32, "subsample": np.float32, "pooled": np.float32, "attentive": np.float16}
SUBSAMPLE = 128


@section
class FeaturesConfig:
    """Section `features`."""

    model: str  # whose hidden states; a model of section `train`
    fps: Rate
    clips: Count  # of a video, evenly spaced; their scores are averaged
    frames: Natural  # of a clip; 0: the whole video
    token_stride: Count  # pixels that a token of `attentive` covers, each way
    batch: Count  # clips at a time
    seed: Natural  # of the untrained network, and of the shuffled orders

    def __post_init__(self) -> None:
        if self.frames == 0 and self.clips != 1:
            raise ValueError(f"frames is 0, the whole video: clips is {self.clips}; allowed: 1")


def check_split(card: ModelCard, test: Sequence[StoredVideo], *, model: str) -> None:
    """ValueError unless the test videos are those that the model's training held back."""
    if card.test_digest != names_digest(test):
        raise ValueError(
            f"models/{model}.safetensors was trained on another split than that of data/shards: it may have seen the "
            f"test videos of decode.split. Train it on this one with: dvc repro train@{model}"
        )


def check_tokens(stride: int, *, height: int, width: int) -> None:
    """ValueError unless the tokens cover the model's frames exactly."""
    if height % stride or width % stride:
        raise ValueError(
            f"features.token_stride: {stride} does not divide the model's frames of {height}×{width} pixels"
        )


def network_for(condition: str, net: Ladder, card: ModelCard, *, seed: int) -> Ladder:
    """The trained network, or, when `untrained`, one of the same shape and encoder with fresh weights."""
    if condition != "untrained":
        return net
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


def read_clip(video: StoredVideo, window: tuple[int, int], condition: str, *, seed: tuple[int, int]) -> Tensor:
    """uint8 (T, 3, H, W), changed as the condition says; seed: of the shuffled order, config.seed and the clip's
    number."""
    frames = read_frames(video, *window)
    if condition == "still":
        return frames[-1:].expand(len(frames), -1, -1, -1)
    if condition == "shuffled":
        return frames[np.random.default_rng(seed).permutation(len(frames))]
    return frames


def select(states: States, hidden: Sequence[Tensor], *, grid: tuple[int, int]) -> dict[str, Tensor]:
    """States of C1 … C4 and the network's `hidden` maps -> the stored choices; grid: rows and columns of tokens."""
    *shallow, deepest = (torch.cat(states[level], 1).flatten(1) for level in LEVELS)
    return {
        "deepest": deepest,
        "subsample": torch.cat(shallow, 1)[:, ::SUBSAMPLE],
        "pooled": torch.cat([x for h in hidden for x in (h.mean((2, 3)), h.amax((2, 3)))], 1),
        "attentive": torch.cat([_on_grid(h, grid) for h in hidden], 1).flatten(2).transpose(1, 2),
    }


def _on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *grid): means of what a token covers, or, of a coarser level, the nearest place."""
    finer = maps.shape[2] >= grid[0]
    return F.adaptive_avg_pool2d(maps, grid) if finer else F.interpolate(maps, grid, mode="nearest")


@torch.no_grad()
def extract_states(
    net: Ladder,
    clips: Sequence[Tensor],
    *,
    height: int,
    width: int,
    token_stride: int,
    still: bool = False,
    encoder: bool = False,
) -> dict[str, Tensor]:
    """Feeds clips, each uint8 (T, 3, H, W) of its own length, at height × width pixels -> features by name, a row a
    clip. still: the frames of a clip are all the same, and are encoded once. encoder: with the encoder's own features.

    The clips advance together, the longest first; each leaves the batch after its last frame.
    """
    order = sorted(range(len(clips)), key=lambda i: -len(clips[i]))
    device = next(net.parameters()).device
    grid = height // token_stride, width // token_stride
    found: dict[int, dict[str, Tensor]] = {}
    states, encoded, sums = None, None, None
    for t in range(len(clips[order[0]])):
        active = sum(len(clip) > t for clip in clips)
        if encoded is None or not still:
            stacked = torch.stack([clips[i][t] for i in order[:active]]).to(device)
            taps = net.tap(as_images(stacked, height=height, width=width))
            encoded = net.project(taps)
        else:
            encoded = {name: [x[:active] for x in tensors] for name, tensors in encoded.items()}
        states = net.observe(encoded, states and first(states, active))
        if encoder:
            taps["layer4"] = net.encoder.deepest(taps["layer3"])
            pooled = torch.cat([taps[name].mean((2, 3)) for name in TAPS], 1)
            sums = pooled if sums is None else sums[:active] + pooled
        ending = [row for row in range(active) if len(clips[order[row]]) == t + 1]
        if ending:
            features = select(states, net.hidden(states), grid=grid) | ({"encoder": sums / (t + 1)} if encoder else {})
            found |= {order[row]: {name: value[row].cpu() for name, value in features.items()} for row in ending}
    return {name: torch.stack([found[i][name] for i in range(len(clips))]) for name in found[0]}
