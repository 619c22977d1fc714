"""What a prediction is trained on: weighted differences of images (report, section 3, and beyond it).

Shapes: N images, C channels, H × W pixels; images in [0, 1]. Every value is per image, shape (N,).
"""

from dataclasses import astuple, dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings import AtLeast

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian (Wang et al. 2004)
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001)  # MS-SSIM's exponents of its finest scales (Wang et al. 2003, section 3.2)
LEAST_CONTRAST = 1e-3  # of a scale of MS-SSIM: a power of less has no useful gradient
PYRAMID_LEVELS = 4


@dataclass(frozen=True)
class LossConfig:
    """Section `loss` of a training run: weights, normalised to sum to one."""

    dssim: Annotated[float, AtLeast(0)]  # (1 − SSIM) / 2
    l1: Annotated[float, AtLeast(0)]
    l2: Annotated[float, AtLeast(0)]
    ms_dssim: Annotated[float, AtLeast(0)] = 0.0  # (1 − MS-SSIM) / 2
    laplacian: Annotated[float, AtLeast(0)] = 0.0  # L1 of the levels of a Laplacian pyramid
    gradient: Annotated[float, AtLeast(0)] = 0.0  # gradient difference

    def __post_init__(self) -> None:
        if sum(astuple(self)) <= 0:
            raise ValueError("dssim, l1, l2, ms_dssim, laplacian and gradient are all zero; one must be above 0")


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of images (N, C, H, W) in [0, 1], H and W at least 11: (N,), 1 for equal images.

    Wang et al., "Image Quality Assessment" (2004), eq. 13: Gaussian window 11, σ 1.5, K 0.01 and 0.03, population
    statistics, averaged over channels and over the positions where the whole window lies inside.
    """
    luminance, contrast = ssim_terms(a, b)
    return (luminance * contrast).mean((1, 2, 3))


def ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM at every position: luminance and contrast · structure, (N, C, H − 10, W − 10) each;
    the first value is that of pixel (5, 5)."""
    rows, columns = (_gaussian_matrix(size, a) for size in a.shape[2:])  # (H', H), (W', W)
    mean_a, mean_b, aa, bb, ab = (rows @ moment @ columns.T for moment in (a, b, a * a, b * b, a * b))  # (N, C, H', W')
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    return luminance, contrast


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


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of images (N, C, H, W) in [0, 1], H and W at least 11: (N,), 1 for equal ones.

    Wang et al., "Multiscale Structural Similarity" (2003), eq. 7, on the finest three scales, or as many as hold a
    window; their exponents are scaled to sum to one. A scale's mean is taken over channels and positions before the
    power, and is at least LEAST_CONTRAST.
    """
    scales = ms_ssim_scales(*a.shape[2:])
    value = torch.ones_like(a[:, 0, 0, 0])
    for scale, exponent in enumerate(scales):
        luminance, contrast = ssim_terms(a, b)
        last = scale == len(scales) - 1
        mean = (luminance * contrast if last else contrast).mean((1, 2, 3))
        value = value * mean.clamp(min=LEAST_CONTRAST) ** exponent
        if not last:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return value


def ms_ssim_scales(height: int, width: int) -> list[float]:
    """The exponents of MS-SSIM's scales, the finest first, for images of height × width."""
    count = sum(min(height, width) >> scale >= WINDOW for scale in range(len(SCALES)))
    return [exponent / sum(SCALES[:count]) for exponent in SCALES[:count]]


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


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean of ||∂a| − |∂b|| over both axes of images (N, C, H, W): (N,). Mathieu et al. (2016), eq. 6 with α = 1."""
    along = [(a.diff(dim=axis).abs() - b.diff(dim=axis).abs()).abs().mean((1, 2, 3)) for axis in (2, 3)]
    return sum(along) / 2


def loss_per_image(prediction: Tensor, target: Tensor, weights: LossConfig) -> Tensor:
    """Weighted mean of the differences between images (N, C, H, W): (N,). Predictions are taken as they are,
    unclipped, so that values outside [0, 1] are punished."""
    difference = prediction - target
    loss = weights.l1 * difference.abs().mean((1, 2, 3)) + weights.l2 * difference.square().mean((1, 2, 3))
    if weights.dssim:
        loss = loss + weights.dssim * (1 - ssim(prediction, target)) / 2
    if weights.ms_dssim:
        loss = loss + weights.ms_dssim * (1 - ms_ssim(prediction, target)) / 2
    if weights.laplacian:
        loss = loss + weights.laplacian * laplacian_difference(prediction, target)
    if weights.gradient:
        loss = loss + weights.gradient * gradient_difference(prediction, target)
    # Spelled out, since torch.compile cannot look through astuple.
    total = weights.dssim + weights.l1 + weights.l2 + weights.ms_dssim + weights.laplacian + weights.gradient
    return loss / total
