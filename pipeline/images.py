"""How alike two images are, and moving their pixels: what training and evaluation share.

Shapes: N images, C channels, H × W pixels; images in [0, 1]. A value is per image, shape (N,); or, with `regions`, per
region and image, (R, N): regions are masks (R, N, H, W) of zeros and ones, and an empty one has no value (NaN).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian (Wang et al. 2004)
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001)  # MS-SSIM's exponents of its finest scales (Wang et al. 2003, section 3.2)
LEAST_CONTRAST = 1e-3  # of a scale of MS-SSIM: a power of less has no useful gradient


def mean_over(values: Tensor, regions: Tensor | None = None) -> Tensor:
    """Values (N, C, H, W) -> their means over channels and pixels, or over channels and each region."""
    if regions is None:
        return values.mean((1, 2, 3))
    return (values.mean(1) * regions).sum((2, 3)) / regions.sum((2, 3))


Terms = tuple[Tensor, Tensor]  # what ssim_terms returns


def ssim(a: Tensor, b: Tensor, regions: Tensor | None = None, *, terms: Terms | None = None) -> Tensor:
    """Structural similarity, at most 1, which equal images have; H and W at least 11.

    Wang et al., "Image Quality Assessment" (2004), eq. 13: Gaussian window 11, σ 1.5, K 0.01 and 0.03, population
    statistics, averaged over channels and over the positions where the whole window lies inside. With regions: over
    those of these positions that lie in the region, 5 pixels or more from the border. terms: ssim_terms(a, b), where
    they are at hand.
    """
    luminance, contrast = terms or ssim_terms(a, b)
    return mean_over(luminance * contrast, _centres(regions))


def ssim_terms(a: Tensor, b: Tensor) -> Terms:
    """The two factors of SSIM at every position: luminance and contrast · structure, (N, C, H − 10, W − 10) each;
    the first value is that of pixel (5, 5)."""
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    gaussian = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    rows, columns = (filter_matrix(gaussian / gaussian.sum(), size)[inside] for size in a.shape[2:])  # (H', H), (W', W)
    mean_a, mean_b, aa, bb, ab = (rows @ moment @ columns.T for moment in (a, b, a * a, b * b, a * b))  # (N, C, H', W')
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    return luminance, contrast


def filter_matrix(window: Tensor, size: int) -> Tensor:
    """(size, size): row i holds the window, of odd length, around position i; what lies beyond the border is left out.
    A separable filter is two small matrix products, many times faster on a CPU than a convolution of single channels.
    """
    matrix = window.new_zeros(size, size)
    for k in range(len(window)):
        matrix.diagonal(k - len(window) // 2).fill_(window[k])
    return matrix


def _centres(regions: Tensor | None) -> Tensor | None:
    """Of the pixels of regions, those at which a whole window lies inside."""
    border = WINDOW // 2
    return None if regions is None else regions[:, :, border:-border, border:-border]


def ms_ssim(a: Tensor, b: Tensor, regions: Tensor | None = None, *, terms: Terms | None = None) -> Tensor:
    """Multi-scale structural similarity, at most 1, which equal images have; H and W at least 11.

    Wang et al., "Multiscale Structural Similarity" (2003), eq. 7, on the finest three scales, or as many as hold a
    window; their exponents are scaled to sum to one. A scale's mean is taken over channels and positions before the
    power, and is at least LEAST_CONTRAST. Regions are halved with the images (a pixel is in one if one of its four
    was); there is no value unless every scale has a position in the region, which at the third lies 20 pixels or more
    from the border. terms: ssim_terms(a, b), where they are at hand.
    """
    count = sum(min(a.shape[2:]) >> scale >= WINDOW for scale in range(len(SCALES)))
    exponents = [exponent / sum(SCALES[:count]) for exponent in SCALES[:count]]
    value = torch.ones_like(a[:, 0, 0, 0] if regions is None else regions[:, :, 0, 0])
    for scale, exponent in enumerate(exponents):
        luminance, contrast = terms or ssim_terms(a, b)
        terms = None  # of the finest scale alone
        last = scale == count - 1
        mean = mean_over(luminance * contrast if last else contrast, _centres(regions))
        value = value * mean.clamp(min=LEAST_CONTRAST) ** exponent
        if not last:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
            regions = None if regions is None else F.max_pool2d(regions, 2)
    return value


def gradient_difference(a: Tensor, b: Tensor, regions: Tensor | None = None) -> Tensor:
    """Mean of ||∂a| − |∂b|| over both axes (Mathieu et al. 2016, eq. 6 with α = 1). With regions: over pairs of
    neighbours of which one is in the region."""
    along = []
    for axis in (2, 3):
        size = a.shape[axis]
        pairs = None
        if regions is not None:
            pairs = torch.maximum(regions.narrow(axis, 1, size - 1), regions.narrow(axis, 0, size - 1))
        along.append(mean_over((a.diff(dim=axis).abs() - b.diff(dim=axis).abs()).abs(), pairs))
    return sum(along) / 2


def moving_pixels(frames: Tensor, context: int, *, threshold: float) -> tuple[Tensor, Tensor]:
    """Of every frame from the second on, the pixels that were expected to move and those that do: frames (B, T, C, H,
    W) -> bool (B, T − 1, H, W) each.

    A pixel moves in a frame where any channel differs by more than the threshold from the frame before. It is expected
    to move in a frame of the context where it moved in the frame before, and in all later frames where it moved in the
    last of the context; never where there is no frame before that.
    """
    moves = (frames.diff(dim=1).abs().amax(2) > threshold).unbind(1)
    last_seen = [min(t, context) - 2 for t in range(1, frames.shape[1])]
    expected = [moves[i] if i >= 0 else torch.zeros_like(moves[0]) for i in last_seen]
    return torch.stack(expected, 1), torch.stack(moves, 1)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """out(p) = image(p + flow(p)), bilinear; beyond the border, the border's value.

    images (N, C, H, W); flow (N, 2, H, W) in pixels, x first. Jaderberg et al., "Spatial Transformer Networks" (2015).
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)  # (N, H, W, 2) in −1 … 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
