"""What is trained on frozen features: the report's MLP or a linear layer, after an attentive pooler for tokens.

There is no bias where the layer after it takes it away, a batch norm, a softmax, or a linear layer with a bias of its
own. Its gradient would be nothing but rounding, of which Adam makes steps as long as any other, and a batch norm's
running mean would lag behind them: the processor, not the features, would choose the epoch.

Shapes: B samples, F dimensions of a feature vector, N tokens of C channels, D width of the pooler, K classes.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.settings import Count, section

HEADS = 4  # of the pooler's attention


@section
class HeadConfig:
    """Section `probe.head`."""

    kind: Literal["mlp", "linear"]
    hidden: Count  # of the mlp; 2000 in the report
    batch_norm: bool  # of the mlp
    attentive_width: Annotated[int, Field(gt=0, multiple_of=HEADS)]  # of the pooler before the head, for tokens


class Standardise(nn.Module):
    """(…, C) minus `centre`, over `spread`, both (C,)."""

    def __init__(self, centre: Tensor, spread: Tensor):
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.spread


class AttentivePooler(nn.Module):
    """Tokens (B, N, C) -> (B, D): one learned query attends to all of them.

    As the attentive probe of Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from
    Video" (V-JEPA, 2024), section 4, but for tokens that no transformer made: each first gets a learned position and
    passes through a small MLP, so that its key and its value may depend on its place.
    """

    def __init__(self, tokens: int, channels: int, width: int, *, dropout: float):
        super().__init__()
        self.enter = nn.Linear(channels, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.token = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GELU())
        self.key, self.value = nn.Linear(2 * width, width, bias=False), nn.Linear(2 * width, width)
        self.query = nn.Parameter(0.02 * torch.randn(HEADS, width // HEADS))
        self.leave = nn.LayerNorm(width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(self.enter(tokens) + self.position)
        keys, values = (layer(x).unflatten(-1, (HEADS, -1)) for layer in (self.key, self.value))  # (B, N, HEADS, D / 4)
        weights = ((keys * self.query).sum(-1) / math.sqrt(keys.shape[-1])).softmax(1)  # (B, N, HEADS)
        return self.leave((weights[..., None] * values).sum(1).flatten(1))


def make_net(config: HeadConfig, shape: tuple[int, ...], classes: int, *, dropout: float) -> nn.Sequential:
    """Samples of `shape`, (F,) or (N, C), -> scores (B, K). Dropout comes before the last layer."""
    layers: list[nn.Module] = []
    if len(shape) == 2:
        layers.append(AttentivePooler(*shape, config.attentive_width, dropout=dropout))
        shape = (config.attentive_width,)
    if config.kind == "linear":
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(*shape, classes))
    return nn.Sequential(
        *layers,
        nn.Linear(*shape, config.hidden, bias=not config.batch_norm),
        *([nn.BatchNorm1d(config.hidden)] if config.batch_norm else []),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(config.hidden, classes),
    )
