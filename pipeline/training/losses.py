"""What a prediction is trained on: weighted differences of images (report, section 3, and beyond it).

Shapes: N images, C channels, H × W pixels; images in [0, 1]. Every value is per image, shape (N,).
"""

from collections.abc import Callable, Mapping

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


# (prediction, target, their difference) -> (N,), 0 for equal images
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "l1": lambda prediction, target, difference: difference.abs().mean((1, 2, 3)),
    "l2": lambda prediction, target, difference: difference.square().mean((1, 2, 3)),
    "dssim": lambda prediction, target, difference: (1 - ssim(prediction, target)) / 2,
    "ms_dssim": lambda prediction, target, difference: (1 - ms_ssim(prediction, target)) / 2,
    "laplacian": lambda prediction, target, difference: laplacian_difference(prediction, target),
    "gradient": lambda prediction, target, difference: gradient_difference(prediction, target),
}


def loss_per_image(prediction: Tensor, target: Tensor, weights: Mapping[str, float]) -> Tensor:
    """Weighted mean of the LOSSES between images (N, C, H, W): (N,). Predictions are taken as they are, unclipped, so
    that values outside [0, 1] are punished. weights: by name, some above 0; absent ones are 0."""
    difference = prediction - target
    used = {name: weights[name] for name in LOSSES if weights.get(name)}
    terms = (weight * LOSSES[name](prediction, target, difference) for name, weight in used.items())
    return sum(terms) / sum(used.values())
