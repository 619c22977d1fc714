"""What a prediction is trained on: DSSIM, L1 and L2, weighted (report, section 3).

Shapes: N images, C channels, H × W pixels; images in [0, 1]. Every value is per image, shape (N,).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from pipeline.params import AtLeast

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian (Wang et al. 2004)
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class LossConfig:
    """Section `loss` of a training run: weights, normalised to sum to one."""

    dssim: Annotated[float, AtLeast(0)]
    l1: Annotated[float, AtLeast(0)]
    l2: Annotated[float, AtLeast(0)]

    def __post_init__(self) -> None:
        if self.dssim + self.l1 + self.l2 <= 0:
            raise ValueError("dssim, l1 and l2 are all zero; at least one must be above 0")


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of images (N, C, H, W) in [0, 1], H and W at least 11: (N,), 1 for equal images.

    Wang et al., "Image Quality Assessment" (2004), eq. 13: Gaussian window 11, σ 1.5, K 0.01 and 0.03, population
    statistics, averaged over channels and over the positions where the whole window lies inside.
    """
    rows, columns = (_gaussian_matrix(size, a) for size in a.shape[2:])  # (H', H), (W', W)
    mean_a, mean_b, aa, bb, ab = (rows @ moment @ columns.T for moment in (a, b, a * a, b * b, a * b))  # (N, C, H', W')
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    return (luminance * contrast).mean((1, 2, 3))


def _gaussian_matrix(size: int, like: Tensor) -> Tensor:
    """(size − 10, size): row i filters positions i … i + 10. The Gaussian is separable, and as two small matrix
    products it is many times faster on a CPU than as a convolution of single channels."""
    offsets = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()
    matrix = like.new_zeros(size - WINDOW + 1, size)
    for k in range(WINDOW):
        matrix.diagonal(k).fill_(window[k])
    return matrix


def loss_per_image(prediction: Tensor, target: Tensor, weights: LossConfig) -> Tensor:
    """Weighted mean of DSSIM = (1 − SSIM) / 2, L1 and L2 of images (N, C, H, W): (N,). Predictions are taken as
    they are, unclipped, so that values outside [0, 1] are punished."""
    difference = prediction - target
    total = weights.dssim + weights.l1 + weights.l2
    loss = weights.l1 * difference.abs().mean((1, 2, 3)) + weights.l2 * difference.square().mean((1, 2, 3))
    if weights.dssim:
        loss = loss + weights.dssim * (1 - ssim(prediction, target)) / 2
    return loss / total
