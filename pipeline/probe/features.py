"""Hidden states of a frozen network after a whole video, as features (report, section 5).

Choices (numbers at 128×160 and width 64): `deepest`, all of C4's states (15,360); `subsample`, every 128th number
of C1 … C3's, flattened as (C, H, W) and joined (10,080); `combined`, both (25,440). Beside them the control,
`encoder`: the frozen encoder's own taps, averaged over space and frames (1,024), which know no motion.

Shapes: B videos, T frames, C channels, H × W of a level; features (videos, numbers).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.nets.encoder import TAPS
from pipeline.nets.ladder import LEVELS, Ladder, States
from pipeline.params import AtLeast
from pipeline.training.model_card import ModelCard
from pipeline.video.clips import as_images, read_frames
from pipeline.video.shards import StoredVideo

STORED = ("deepest", "subsample", "encoder")
SUBSAMPLE = 128


@dataclass(frozen=True)
class FeaturesConfig:
    """Section `features`."""

    model: Literal["lvln", "one_frame", "full_res", "lvln_warp"]
    fps: Literal[25, 15, 10]
    batch: Annotated[int, AtLeast(1)]  # videos at a time
    device: Literal["auto", "cpu", "cuda"]


def select(states: States) -> dict[str, Tensor]:
    """Hidden states of C1 … C4 -> the stored choices, (B, numbers) each."""
    *shallow, deepest = (torch.cat(hidden, 1).flatten(1) for hidden in states[:LEVELS])
    return {"deepest": deepest, "subsample": torch.cat(shallow, 1)[:, ::SUBSAMPLE]}


@torch.no_grad()
def watch(net: Ladder, videos: Sequence[Tensor], *, height: int, width: int) -> dict[str, Tensor]:
    """Feeds whole videos, each uint8 (T, 3, H, W) of its own length, at height × width pixels
    -> features (B, numbers) by name.

    The videos advance together, the longest first; each leaves the batch after its last frame.
    """
    order = sorted(range(len(videos)), key=lambda i: -len(videos[i]))
    device = next(net.parameters()).device
    found: dict[int, dict[str, Tensor]] = {}
    states, encoder_sums = None, None
    for t in range(len(videos[order[0]])):
        active = sum(len(video) > t for video in videos)
        stacked = torch.stack([videos[i][t] for i in order[:active]]).to(device)
        taps = net.tap(as_images(stacked, height=height, width=width))
        taps["layer4"] = net.encoder.deepest(taps["layer3"])
        states = tuple(tuple(h[:active] for h in hidden) for hidden in states) if states else None
        states = net.observe(net.project(taps), states)
        pooled = torch.cat([taps[name].mean((2, 3)) for name in TAPS], 1)
        encoder_sums = pooled if encoder_sums is None else encoder_sums[:active] + pooled
        ending = [row for row in range(active) if len(videos[order[row]]) == t + 1]
        if ending:
            features = select(states) | {"encoder": encoder_sums / (t + 1)}
            found |= {order[row]: {name: value[row].cpu() for name, value in features.items()} for row in ending}
    return {name: torch.stack([found[i][name] for i in range(len(videos))]) for name in STORED}


def extract(
    net: Ladder, card: ModelCard, videos: Sequence[StoredVideo], splits: Sequence[str], out: Path, *, batch: int
) -> dict[str, int]:
    """Writes out/videos.csv (a row a video: key, action, label, group, split) and out/<name>.npy, float32
    (videos, numbers), row by row in the same order; no more than a batch of videos is in memory. Returns how many
    numbers a video has under each name."""
    out.mkdir(parents=True, exist_ok=True)
    table = [(v.key, v.info.action, v.info.label, v.info.group, s) for v, s in zip(videos, splits, strict=True)]
    pd.DataFrame(table, columns=["video", "action", "label", "group", "split"]).to_csv(out / "videos.csv", index=False)
    files: dict[str, np.ndarray] = {}
    for first, loaded in _batches(videos, batch):
        for name, values in watch(net, loaded, height=card.height, width=card.width).items():
            if name not in files:
                shape = (len(videos), values.shape[1])
                files[name] = np.lib.format.open_memmap(out / f"{name}.npy", "w+", np.float32, shape)
            files[name][first : first + len(loaded)] = values.numpy()
    return {name: file.shape[1] for name, file in files.items()}


def _batches(videos: Sequence[StoredVideo], size: int) -> Iterator[tuple[int, list[Tensor]]]:
    with tqdm(total=len(videos), desc="features", unit="video") as progress:
        for first in range(0, len(videos), size):
            chosen = videos[first : first + size]
            yield first, [read_frames(video, 0, video.info.frames) for video in chosen]
            progress.update(len(chosen))
