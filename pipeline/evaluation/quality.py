"""How good a predicted frame is: PSNR, SSIM, MS-SSIM, L1 and gradient difference, over regions of the image.

Each is computed per frame and averaged over frames; the PSNR of an averaged error would be several dB off. The regions
are the whole image and its moving pixels, where the true frame differs from the one before by more than a threshold:
over the whole image a still background rewards blur. A frame without a moving pixel has no value there (NaN) and does
not count. SSIM and MS-SSIM have none either where all motion is near the border, out of reach of their windows'
centres: they are means over fewer frames than PSNR.

Shapes: N images, C channels, H × W pixels in [0, 1]; R regions, given as masks (R, N, H, W) of zeros and ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.losses import LEAST_CONTRAST, WINDOW, ms_ssim_scales, ssim_terms

PSNR_CAP = 100.0  # dB, given to identical frames, whose PSNR is infinite


def moving_pixels(frames: Tensor, before: Tensor, *, threshold: float) -> Tensor:
    """Where |frame − frame before| is above the threshold in any channel: (N, C, H, W) twice -> bool (N, H, W)."""
    return (frames - before).abs().amax(1) > threshold


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """10 · log10(1 / MSE) of images (N, C, H, W): (N,) in dB, at most PSNR_CAP."""
    return _decibel((prediction - target).square().mean((1, 2, 3)))


def frame_quality(prediction: Tensor, target: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """{metric: (R, N)} of images (N, C, H, W), both at least 11 × 11.

    psnr: of the mean square over the region's pixels. ssim: mean of the map of `losses.ssim_terms` over those window
    centres that lie in the region; centres are 5 pixels or more from the border. ms_ssim: as `losses.ms_ssim`, each
    scale's mean over the region, which is halved with the images (a pixel is in it if one of its four was); NaN unless
    every scale has such a centre, which at the third lies 20 pixels or more from the border. l1: mean absolute
    difference. gradient_difference: as `losses.gradient_difference`, over pairs of neighbours of which one is in the
    region.
    """
    error = prediction - target
    return {
        "psnr": _decibel(_mean(error.square(), regions)),
        "l1": _mean(error.abs(), regions),
        "gradient_difference": _gradient_difference(prediction, target, regions),
        **_similarity(prediction, target, regions),
    }


def _decibel(mse: Tensor) -> Tensor:
    return (-10 * torch.log10(mse)).clamp(max=PSNR_CAP)


def _mean(values: Tensor, regions: Tensor) -> Tensor:
    """(N, C, H, W), (R, N, H, W) -> (R, N): the mean over channels and the region; NaN where the region is empty."""
    return (values.mean(1) * regions).sum((2, 3)) / regions.sum((2, 3))


def _gradient_difference(a: Tensor, b: Tensor, regions: Tensor) -> Tensor:
    along = []
    for axis in (2, 3):
        size = a.shape[axis]
        pairs = torch.maximum(regions.narrow(axis, 1, size - 1), regions.narrow(axis, 0, size - 1))
        along.append(_mean((a.diff(dim=axis).abs() - b.diff(dim=axis).abs()).abs(), pairs))
    return sum(along) / 2


def _similarity(a: Tensor, b: Tensor, regions: Tensor) -> dict[str, Tensor]:
    border = WINDOW // 2
    exponents = ms_ssim_scales(*a.shape[2:])
    values = {"ms_ssim": torch.ones_like(regions[:, :, 0, 0])}
    for scale, exponent in enumerate(exponents):
        luminance, contrast = ssim_terms(a, b)
        centres = regions[:, :, border:-border, border:-border]
        if scale == 0:
            values["ssim"] = _mean(luminance * contrast, centres)
        last = scale == len(exponents) - 1
        mean = _mean(luminance * contrast if last else contrast, centres)
        values["ms_ssim"] = values["ms_ssim"] * mean.clamp(min=LEAST_CONTRAST) ** exponent
        a, b, regions = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2), F.max_pool2d(regions, 2)
    return values
