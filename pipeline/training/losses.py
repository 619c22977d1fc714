"""What a prediction is trained on: weighted differences of images (report, section 3, and beyond it).

Shapes: N images, C channels, H × W pixels; images in [0, 1]. Every value is per image, shape (N,).
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.images import gradient_difference, ms_ssim, ssim

PYRAMID_LEVELS = 4


def laplacian_difference(a: Tensor, b: Tensor) -> Tensor:
    """Σ over levels of the mean |L(a) − L(b)| of images (N, C, H, W): (N,). L is a Laplacian pyramid of 2×2 means, the
    coarse rest included; means, where Bojanowski et al. (2018, eq. 2) weight the sums by 4^level: the same."""
    rest = a - b  # the pyramid is linear
    total = torch.zeros_like(rest[:, 0, 0, 0])
    for _ in range(PYRAMID_LEVELS - 1):
        coarse = F.avg_pool2d(rest, 2)
        total = total + (rest - F.interpolate(coarse, rest.shape[2:], mode="bilinear")).abs().mean((1, 2, 3))
        rest = coarse
    return total + rest.abs().mean((1, 2, 3))


def mean_where(differences: Tensor, moving: Tensor) -> Tensor:
    """Mean over the channels of the pixels in the masks (N, H, W) of zeros and ones: (N,). 0 for an empty mask, where
    images.mean_over has no value, and hence no gradient."""
    return (differences.mean(1) * moving).sum((1, 2)) / moving.sum((1, 2)).clamp(min=1)


# (prediction, target, their difference, the mask of moving pixels (N, H, W)) -> (N,), 0 for equal images
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "l1": lambda prediction, target, difference, moving: difference.abs().mean((1, 2, 3)),
    "l2": lambda prediction, target, difference, moving: difference.square().mean((1, 2, 3)),
    "dssim": lambda prediction, target, difference, moving: (1 - ssim(prediction, target)) / 2,
    "ms_dssim": lambda prediction, target, difference, moving: (1 - ms_ssim(prediction, target)) / 2,
    "laplacian": lambda prediction, target, difference, moving: laplacian_difference(prediction, target),
    "gradient": lambda prediction, target, difference, moving: gradient_difference(prediction, target),
    "moving_l1": lambda prediction, target, difference, moving: mean_where(difference.abs(), moving),
}


def loss_terms(
    prediction: Tensor, target: Tensor, names: Iterable[str], moving: Tensor | None = None
) -> dict[str, Tensor]:
    """{name: (N,)} of LOSSES between images (N, C, H, W). Predictions are taken as they are, unclipped, so that values
    outside [0, 1] are punished. moving: the mask of the pixels of the target that move (N, H, W), zeros and ones, which
    moving_l1 alone needs."""
    difference = prediction - target
    return {name: LOSSES[name](prediction, target, difference, moving) for name in names}


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted mean of the terms that have a weight: (N,). weights: by name, some above 0; absent ones are 0."""
    used = used_losses(weights)
    return sum(weights[name] * terms[name] for name in used) / sum(weights[name] for name in used)


def used_losses(weights: Mapping[str, float]) -> list[str]:
    """Those of LOSSES that have a weight, in their order."""
    return [name for name in LOSSES if weights.get(name)]


def loss_per_image(
    prediction: Tensor, target: Tensor, weights: Mapping[str, float], moving: Tensor | None = None
) -> Tensor:
    """Weighted mean of the LOSSES between images (N, C, H, W): (N,). As loss_terms and weighted."""
    return weighted(loss_terms(prediction, target, used_losses(weights), moving), weights)
