"""What networks predict of clips, batch after batch, and the clips that are shown.

Shapes: B batch, T frames of context, K horizon steps; images (…, 3, H, W) in [0, 1].
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.clips.batches import EpochOrder, as_images, load
from pipeline.clips.clips import Clips
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict
from pipeline.training.model_card import ModelCard


@dataclass(frozen=True)
class Predicted:
    """A batch of clips, and what each network predicts of their targets."""

    numbers: range  # of the clips, B
    images: Tensor  # (B, T + K, 3, H, W): context, then targets
    context: Tensor  # (B, T, 3, H, W)
    targets: Tensor  # (B, K, 3, H, W)
    predictions: dict[str, Tensor]  # of each network, (B, K, 3, H, W), float32 and not clipped
    groups: list[tuple[str, int]]  # action and group of each clip


@torch.no_grad()
def predict_clips(
    nets: Mapping[str, Ladder], card: ModelCard, clips: Clips, *, batch: int, device: torch.device, title: str
) -> Iterator[Predicted]:
    """Yields the clips, of card.context frames and those to predict, in order; the networks are all of one card.

    title: of the progress bar and of errors. ValueError where a prediction is not finite: the means would leave that
    frame out, and be too good.
    """
    nets = {name: net.to(device).eval() for name, net in nets.items()}
    options = {"clip_feedback": card.clip_feedback, "off_by_one": card.off_by_one}
    first = 0
    for loaded in tqdm(load(clips, EpochOrder(len(clips), batch, shuffle=False)), desc=title, unit="batch"):
        images = as_images(loaded.to(device), height=card.height, width=card.width)
        context, targets = images[:, : card.context], images[:, card.context :]
        predictions = {}
        for name, net in nets.items():
            predictions[name] = predict(net, context, horizon=targets.shape[1], **options)[0].float()
            _check_finite(predictions[name], f"{title}: network {name!r}")
        numbers = range(first, first + len(images))
        infos = [clips.window(number)[0].info for number in numbers]
        yield Predicted(numbers, images, context, targets, predictions, [(info.action, info.group) for info in infos])
        first = numbers.stop


def _check_finite(predictions: Tensor, network: str) -> None:
    """(B, K, 3, H, W)"""
    finite = predictions.isfinite().transpose(0, 1).flatten(1).all(1)  # (K,)
    if not finite.all():
        step = 1 + finite.tolist().index(False)
        raise ValueError(
            f"{network} predicts values that are not finite, first at horizon step {step}: its training diverged, or "
            f"its own predictions, fed back, grow; train it with a lower optimizer.lr, or with clip_feedback: true"
        )


@dataclass(frozen=True)
class Pictures:
    """Clips to show: context (N, T, 3, H, W), targets and predictions (N, K, 3, H, W)."""

    context: Tensor
    targets: Tensor
    predictions: Tensor


class Gallery:
    """Keeps `count` clips, or fewer where there are fewer, spread evenly over the clips as their batches pass."""

    def __init__(self, clips: Clips, count: int):
        self.shown = {round(i * (len(clips) - 1) / max(1, count - 1)) for i in range(count)}
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, batch: Predicted, network: str) -> None:
        for row, number in enumerate(batch.numbers):
            if number in self.shown:
                frames = (batch.context[row], batch.targets[row], batch.predictions[network][row])
                self.rows.append(tuple(part.cpu() for part in frames))

    def pictures(self) -> Pictures:
        return Pictures(*map(torch.stack, zip(*self.rows, strict=True)))
