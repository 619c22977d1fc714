"""The probe's training: small heads on frozen features (report, section 5).

Heads are trained on the clips of the training groups, side by side in one pass over the features: one for every seed
and every pair of learning rate and weight decay (as the attentive probes of Assran et al., "V-JEPA 2", 2025, are).
Of each seed the pair and the epoch are chosen on the validation groups, and the test list is scored once, with the
weights of that epoch. The probe and all its controls choose from the same pairs. A video's score is the mean of its
clips' probabilities: every accuracy is of videos but the training one, which is of clips.

Shapes: R heads, V videos, S clips in all, B of them in a batch, K classes.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from pipeline.probe.heads import HeadConfig, Standardise, make_net
from pipeline.probe.samples import Samples, Splits
from pipeline.settings import Count, Natural, NotNegative, Part, Positive, section

SCORED = 256  # clips at a time, where nothing is learned
BLOCK = 4096  # clips that follow each other on the disk, and are shuffled among themselves
# The least deviation that a dimension is divided by, as a share of the median of all. A unit that hardly ever left its
# resting value on the training clips would otherwise weigh as much as the others, and on another clip, or by another
# processor's rounding, reach hundreds of deviations.
FLOOR = 0.1


@section
class ProbeConfig:
    """Section `probe`."""

    head: HeadConfig
    dropout: Annotated[float, Field(ge=0, le=0.9)]
    standardize: bool  # features to mean 0 and deviation 1 of the training clips; less where it is below FLOOR
    schedule: Literal["constant", "cosine"]  # of the learning rate
    lr: tuple[Positive, ...]  # of Adam; the best on the validation groups is taken
    weight_decay: tuple[NotNegative, ...]  # decoupled from the gradients; likewise
    batch: Annotated[int, Field(ge=2)]  # clips
    epochs: Count
    validate_every: Positive  # epochs, on `validation_share` of the validation videos: only a curve
    validation_share: Part
    seeds: tuple[Natural, ...]  # of the heads' first weights; accuracies are means over them
    bootstrap: Count  # resamples of the groups, for 95 % intervals

    def __post_init__(self) -> None:
        for key in ("lr", "weight_decay", "seeds"):
            values = getattr(self, key)
            if not values:
                raise ValueError(f"{key} is empty; it needs at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{key} is {list(values)}; each may occur once, since equal runs are all the same")


@dataclass(frozen=True)
class ProbeRun:
    """One seed's result. curve: a row an epoch with training (clips) and validation (videos) top-1; sample: if asked
    for, a row every `validate_every` epochs with top-1 on the share of the validation videos (report, Fig. 10); scores:
    of the test videos, (V, K); epoch (from 1), lr, weight_decay: those chosen."""

    curve: list[dict[str, float]]
    sample: list[dict[str, float]]
    scores: Tensor
    epoch: int
    lr: float
    weight_decay: float

    def rows(self) -> list[dict[str, object]]:
        """Both curves as tidy rows: epoch, curve (train, validation, or sample), value (top-1)."""
        found = [(row["epoch"], key, row[key]) for row in self.curve for key in ("train", "validation")]
        found += [(row["epoch"], "sample", row["validation"]) for row in self.sample]
        return [{"epoch": epoch, "curve": curve, "value": value} for epoch, curve, value in found]


def run_probe(
    config: ProbeConfig,
    splits: Splits,
    *,
    classes: int,
    seeds: Sequence[int],
    device: torch.device,
    sampled: bool = False,
    title: str = "heads",
) -> list[ProbeRun]:
    """Trains the heads and returns the best of each seed: that with the best epoch on the validation groups (by top-1,
    then by loss; the earliest of equals). sampled: with the curve `sample`, which takes as long as half of the
    training; title: of the progress bar. ValueError with fewer than two training clips, or when every learning rate
    makes the scores infinite."""
    train, validation, test = splits
    if len(train) < 2:
        raise ValueError(f"{len(train)} clip to train on; the probe needs at least 2: more videos, or features.clips")
    pairs = list(product(config.lr, config.weight_decay))
    runs = [(seed, *pair) for seed in seeds for pair in pairs]
    rng = np.random.default_rng(seeds[0])
    share = max(1, round(config.validation_share * len(validation.videos)))
    sample = validation.subset(np.sort(rng.permutation(len(validation.videos))[:share]))
    scale = Standardise(*moments(train)).to(device) if config.standardize else nn.Identity()
    # nn's initialisation and dropout draw from the global generators
    with torch.random.fork_rng(), tqdm(total=config.epochs * len(train), desc=title, unit="clip") as bar:
        heads = Heads(_nets(config, train.shape, classes, seeds, copies=len(pairs)), scale, device)
        torch.manual_seed(seeds[0])
        optimizer = heads.optimizer([{"lr": lr, "weight_decay": decay} for _, lr, decay in runs])
        # Whole batches are as equal in size as can be: batch norm needs more than one clip in each.
        count = max(1, len(train) // config.batch)
        steps = count * config.epochs
        schedule = LambdaLR(optimizer, lambda step: _rate(config, step, steps))
        every = min(max(1, round(config.validate_every * count)), steps)  # the last step's row at least
        samples, curve, best, chosen = [], [], Best(len(runs)), heads.state()
        for epoch in range(1, config.epochs + 1):
            correct = torch.zeros(len(runs), dtype=torch.long)
            for i, rows in enumerate(np.array_split(_order(rng, len(train)), count), start=1):
                step = (epoch - 1) * count + i
                labels = train.labels[rows // train.clips].to(device)
                correct += heads.learn(train.take(rows).to(device), labels, optimizer)
                schedule.step()
                bar.update(len(rows))
                if sampled and step % every == 0:
                    samples.append((step / count, _top1(heads.score(sample), sample.labels)))
            scores = heads.score(validation)  # (R, V, K)
            accuracy, loss = _top1(scores, validation.labels), _loss(scores, validation.labels)
            curve.append((epoch, correct / len(train), accuracy))
            better = best.update(accuracy, loss, epoch)
            for name, values in heads.state().items():
                chosen[name][better.to(device)] = values[better.to(device)]
        heads.load(chosen)
        tested = heads.score(test)
    found = []
    for first in range(0, len(runs), len(pairs)):
        r = max(range(first, first + len(pairs)), key=lambda r: best.rank[r])
        if not best.epoch[r]:
            raise ValueError(f"probe.lr: {', '.join(map(str, config.lr))} make the scores infinite; lower them")
        rows = [{"epoch": epoch, "train": float(a[r]), "validation": float(b[r])} for epoch, a, b in curve]
        curves = [{"epoch": epoch, "validation": float(a[r])} for epoch, a in samples]
        found.append(ProbeRun(rows, curves, tested[r], best.epoch[r], *runs[r][1:]))
    return found


def _nets(
    config: ProbeConfig, shape: tuple[int, ...], classes: int, seeds: Sequence[int], *, copies: int
) -> list[nn.Module]:
    """As many equal heads of each seed."""
    nets = []
    for seed in seeds:
        torch.manual_seed(seed)
        net = make_net(config.head, shape, classes, dropout=config.dropout)
        nets += [copy.deepcopy(net) for _ in range(copies)]
    return nets


def _order(rng: np.random.Generator, clips: int) -> np.ndarray:
    """All clips in an epoch's order: BLOCK by BLOCK, so that features on a disk are read nearly as they lie."""
    blocks = np.array_split(np.arange(clips), math.ceil(clips / BLOCK))
    return np.concatenate([rng.permutation(blocks[i]) for i in rng.permutation(len(blocks))])


def _rate(config: ProbeConfig, step: int, steps: int) -> float:
    """Share of the learning rate at a step, from 0."""
    return 1.0 if config.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))


class Heads:
    """R heads of one shape side by side: their parameters are stacked, (R, …) each, and one call computes all. What the
    optimizer of `optimizer` steps are the parts of each head, (…), in the same memory."""

    def __init__(self, nets: Sequence[nn.Module], scale: nn.Module, device: torch.device):
        self.net, self.scale, self.device = copy.deepcopy(nets[0]).to("meta"), scale, device
        parameters, self.buffers = stack_module_state([net.to(device) for net in nets])
        self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}

    def __call__(self, features: Tensor) -> Tensor:
        """(B, …) -> scores (R, B, K)."""

        def one(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.net, (parameters, buffers), (x,))

        return vmap(one, (0, 0, None), randomness="different")(self.parameters, self.buffers, self.scale(features))

    def optimizer(self, settings: Sequence[Mapping[str, float]]) -> AdamW:
        """Of every head, with its own settings."""
        shares = [{"params": [value.detach()[r] for value in self.parameters.values()]} for r in range(len(settings))]
        return AdamW([share | each for share, each in zip(shares, settings, strict=True)], fused=True)

    def learn(self, features: Tensor, labels: Tensor, optimizer: AdamW) -> Tensor:
        """One step of every head; how many clips each classified correctly, (R,)."""
        self.net.train()
        scores = self(features)
        each = F.cross_entropy(scores.flatten(0, 1), labels.repeat(len(scores)), reduction="sum") / len(labels)
        gradients = torch.autograd.grad(each, list(self.parameters.values()))
        for r, group in enumerate(optimizer.param_groups):
            for share, gradient in zip(group["params"], gradients, strict=True):
                share.grad = gradient[r].contiguous()  # the fused step reads memory as it lies
        optimizer.step()
        return (scores.argmax(2) == labels).sum(1).cpu()

    @torch.no_grad()
    def score(self, samples: Samples) -> Tensor:
        """Probabilities of the videos, (R, V, K), on the CPU: the means of their clips'."""
        self.net.eval()
        found = [self(features.to(self.device)).softmax(2).cpu() for features in in_order(samples)]
        return torch.cat(found, 1).unflatten(1, (-1, samples.clips)).mean(2)

    def state(self) -> dict[str, Tensor]:
        """A copy of the weights and statistics, (R, …) each."""
        return {name: value.detach().clone() for name, value in (self.parameters | self.buffers).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in (self.parameters | self.buffers).items():
                value.copy_(state[name])


class Best:
    """Of each of R heads its best epoch (0: none) and its rank then: top-1, and minus the loss."""

    def __init__(self, runs: int):
        self.rank, self.epoch = [(-1.0, -math.inf)] * runs, [0] * runs

    def update(self, accuracy: Tensor, loss: Tensor, epoch: int) -> Tensor:
        """Which heads, (R,), are better than ever. One with infinite scores is not."""
        better = torch.zeros(len(self.rank), dtype=torch.bool)
        for r, rank in enumerate(zip(accuracy.tolist(), (-loss).tolist(), strict=True)):
            if math.isfinite(rank[1]) and rank > self.rank[r]:
                self.rank[r], self.epoch[r], better[r] = rank, epoch, True
        return better


def _top1(scores: Tensor, labels: Tensor) -> Tensor:
    """(R, V, K) -> (R,)"""
    return (scores.argmax(2) == labels).double().mean(1)


def _loss(scores: Tensor, labels: Tensor) -> Tensor:
    """(R, V, K) -> (R,): minus the mean logarithm of the right class's probability; NaN where scores are."""
    return -scores.clamp(min=1e-12).log()[:, torch.arange(len(labels)), labels].mean(1)


def moments(samples: Samples) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each dimension, or of each channel of the tokens, over all clips, in one pass; the
    deviation is at least FLOOR of their median, and 1e-6 where nearly all are constant."""
    total, squares, count = 0, 0, 0
    for features in in_order(samples):
        values = features.double().flatten(0, -2)  # (clips or tokens, dimensions)
        total, squares, count = total + values.sum(0), squares + values.square().sum(0), count + len(values)
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), spread.clamp(min=max(FLOOR * float(spread.median()), 1e-6)).float()


def in_order(samples: Samples) -> Iterator[Tensor]:
    """All samples, at most SCORED clips at a time."""
    rows = np.arange(len(samples))
    return map(samples.take, np.split(rows, range(SCORED, len(rows), SCORED)))
