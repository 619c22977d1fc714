"""How good predicted frames are, as two tables: a new metric is one entry of METRICS or of RATIOS, and nothing else.

METRICS compare a frame with the true one, over regions of the image (REGIONS). Each is computed per frame and averaged
over frames; the PSNR of an averaged error would be several dB off. A frame without a pixel of a region has no value
there (NaN) and does not count.

RATIOS need no true frame: they measure two faults, blur and the grid that upsampling leaves. What is given is the ratio
of the mean over predicted frames to the mean over true ones.

Shapes: N images, C channels, H × W pixels in [0, 1]; R regions, given as masks (R, N, H, W) of zeros and ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.images import gradient_difference, mean_over, moving_pixels, ms_ssim, ssim, ssim_terms

PSNR_CAP = 100.0  # dB, given to identical frames, whose PSNR is infinite

# Over the whole image a still background rewards blur, so there are regions of pixels that move. A pixel moves in a
# frame where it differs from the frame before. `expected`: pixels that moved in the last context frame; `outcome`:
# those that move in the true frame; `moving`: either. `outcome` alone never counts a pixel that was expected to move
# and stopped, which flatters a prediction that overshoots.
REGIONS = ("whole", "moving", "expected", "outcome")


def psnr(prediction: Tensor, target: Tensor, regions: Tensor | None = None) -> Tensor:
    """10 · log10(1 / MSE), in dB, at most PSNR_CAP: (N,), or, of the mean square over each region, (R, N)."""
    mse = mean_over((prediction - target).square(), regions)
    return (-10 * torch.log10(mse)).clamp(max=PSNR_CAP)


def l1(prediction: Tensor, target: Tensor, regions: Tensor | None = None) -> Tensor:
    """Mean absolute difference: (N,), or, over each region, (R, N)."""
    return mean_over((prediction - target).abs(), regions)


def nyquist_share(images: Tensor) -> Tensor:
    """(N,): the share of the spectral energy of the mean of the channels, its own mean removed, that lies at the
    highest frequency of rows or columns. A grid of period two has it all there; a flat image has none. H and W are
    even."""
    height, width = images.shape[2:]
    grey = images.mean(1)
    energy = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()
    row, column = energy[:, height // 2], energy[:, :, width // 2]
    highest = row.sum(1) + column.sum(1) - row[:, width // 2]
    return highest / energy.sum((1, 2)).clamp(min=torch.finfo(energy.dtype).tiny)


def gradient_energy(images: Tensor) -> Tensor:
    """(N,): the mean squared difference of neighbours along rows plus that along columns; blur lowers it."""
    return sum(images.diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3))


@dataclass(frozen=True)
class Metric:
    """measure: (prediction, target, regions) -> (R, N); None where it needs a network, which is given to frame_quality.
    digits: shown after the point. model, baseline: how far CI lets the figure lie from the committed one, of a trained
    model and of a baseline, over the whole image and over moving pixels each. windowed: it has no value either where
    all motion is near the border, out of reach of its windows' centres, and is a mean over fewer frames than PSNR.
    takes_terms: its measure takes images.ssim_terms as `terms`, which are computed once for all that do."""

    measure: Callable[..., Tensor] | None
    digits: int
    model: tuple[float, float]
    baseline: tuple[float, float]
    windowed: bool = False
    takes_terms: bool = False


@dataclass(frozen=True)
class Ratio:
    """measure: images -> (N,). digits, model, baseline: as of a Metric, over the whole image."""

    measure: Callable[[Tensor], Tensor]
    digits: int
    model: float
    baseline: float


METRICS = {
    "psnr": Metric(psnr, digits=2, model=(0.4, 0.6), baseline=(0.05, 0.1)),  # dB
    "ssim": Metric(ssim, digits=3, model=(0.01, 0.04), baseline=(0.001, 0.005), windowed=True, takes_terms=True),
    "ms_ssim": Metric(ms_ssim, digits=3, model=(0.01, 0.03), baseline=(0.002, 0.01), windowed=True, takes_terms=True),
    "l1": Metric(l1, digits=4, model=(0.001, 0.006), baseline=(0.0005, 0.002)),
    "gradient_difference": Metric(gradient_difference, digits=4, model=(0.001, 0.004), baseline=(0.0005, 0.002)),
    "lpips": Metric(None, digits=3, model=(0.01, 0.02), baseline=(0.002, 0.005)),
}
RATIOS = {
    "nyquist_ratio": Ratio(nyquist_share, digits=2, model=0.3, baseline=0.05),
    "gradient_ratio": Ratio(gradient_energy, digits=2, model=0.05, baseline=0.02),
}


def over(region: str, metric: str) -> str:
    """What tables call a metric over a region: its own name for the whole image, else <metric>_<region>."""
    return metric if region == REGIONS[0] else f"{metric}_{region}"


def metric_and_region(name: str) -> tuple[str, str]:
    """The two of which `over` made the name."""
    region = next((region for region in REGIONS[1:] if name.endswith(f"_{region}")), REGIONS[0])
    return name.removesuffix(f"_{region}"), region


def digits(metric: str) -> int:
    """How many digits after the point are shown of a metric or of a ratio."""
    return (METRICS | RATIOS)[metric].digits


def frame_quality(
    prediction: Tensor, target: Tensor, regions: Tensor, *, lpips: Callable[..., Tensor] | None = None
) -> dict[str, Tensor]:
    """{metric: (R, N)} of images (N, C, H, W), at least 11 × 11 pixels; with LPIPS where its network is given."""
    terms, found = ssim_terms(prediction, target), {}
    for name, metric in METRICS.items():
        if measure := metric.measure or lpips:
            shared = {"terms": terms} if metric.takes_terms else {}
            found[name] = measure(prediction, target, regions, **shared)
    return found


def image_quality(images: Tensor) -> dict[str, Tensor]:
    """{ratio: (N,)}: what a ratio is made of, of images (N, C, H, W)."""
    return {name: ratio.measure(images) for name, ratio in RATIOS.items()}


def quality(
    images: Tensor, target: Tensor, regions: Tensor, *, lpips: Callable[..., Tensor] | None = None
) -> dict[str, Tensor]:
    """{metric, by the name that `over` gives it over each region, or ratio: (N,)} of predicted images."""
    found = image_quality(images)
    for metric, values in frame_quality(images, target, regions, lpips=lpips).items():
        found |= {over(region, metric): value for region, value in zip(REGIONS, values, strict=True)}
    return found


def regions_of(frames: Tensor, context: int, *, threshold: float) -> Tensor:
    """The masks of REGIONS for the K frames after the context, of clips (B, context + K, C, H, W): (4, B, K, H, W) of
    zeros and ones. threshold: of images.moving_pixels."""
    expected, outcome = (mask[:, context - 1 :] for mask in moving_pixels(frames, context, threshold=threshold))
    return torch.stack([torch.ones_like(outcome), outcome | expected, expected, outcome]).float()
