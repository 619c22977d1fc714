"""What two frames say of the motion between them: the cost volume of feature maps, the flow that matching them gives,
and Lucas and Kanade's optical flow.

Shapes: N images, C channels, H × W pixels; images in [0, 1]; flows in pixels, x first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.images import filter_matrix, warp

COARSEST = 8  # pixels of the shorter side, at the top of Lucas and Kanade's pyramid
ITERATIONS = 3  # on each of its levels
WINDOW = 9  # over which a pixel's motion is assumed to be one; weights fall linearly from its centre
SMOOTHING = 5  # pixels that the flow is averaged over after each iteration
STIFFNESS = 1e-3  # added to the squared gradients: without texture nothing moves

SHARPNESS = 30.0  # of the softmax over cosines
PATCH = 5  # pixels: of the random filters, and that cosines and flows are averaged over
TEXTURES = 16  # random filters at full resolution
REFINEMENTS = 2  # of the match, with a search of one pixel each


def cost_volume(now: Tensor, before: Tensor, *, radius: int) -> Tensor:
    """How alike each place is to the places around it one frame earlier: feature maps (N, C, H, W) of two frames ->
    (N, (2·radius + 1)², H, W), cosines in −1 … 1, 0 beyond the border; the displacements row by row.

    Sun et al., "PWC-Net" (2018), section 3. Row y of `now` meets row y + dy of `before` in one matrix product, of which
    the displacements dx are diagonals; the plain form, a product of shifted maps a displacement, is in the tests.
    """
    size, height, width = 2 * radius + 1, *now.shape[2:]
    now, before = (F.normalize(x.permute(0, 2, 3, 1), dim=-1) for x in (now, before))  # (N, H, W, C)
    before = F.pad(before, (0, 0, radius, radius, radius, radius))
    rows = before.unfold(1, height, 1).permute(0, 1, 4, 2, 3)  # (N, size, H, W + 2·radius, C)
    products = now[:, None] @ rows.transpose(-1, -2)  # (N, size, H, W, W + 2·radius)
    # Lines one longer than they are: line x then begins at its own place x, which is displacement −radius.
    skewed = F.pad(products.flatten(-2), (0, width)).unflatten(-1, (width, width + 2 * radius + 1))
    return skewed[..., :size].permute(0, 1, 4, 2, 3).flatten(1, 2)


def texture_filters() -> Tensor:
    """Random filters (TEXTURES, 3, PATCH, PATCH), always the same, that do not see brightness."""
    filters = torch.randn(TEXTURES, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    return filters - filters.mean((1, 2, 3), keepdim=True)


def matched_flow(now: Tensor, before: Tensor, coarse: Tensor, filters: Tensor, *, radius: int) -> Tensor:
    """The flow b for which now(p) looks like before(p + b(p)), of images (N, 3, H, W) in [0, 1]: (N, 2, H, W).

    From coarse to fine, as in Sun et al., "PWC-Net" (2018), section 3, but with nothing that is learned: the best
    displacement in `coarse`, the cost volume of maps at half resolution, and around it the best of the same with
    `filters` (texture_filters) at full resolution, REFINEMENTS times; the flow is averaged over a patch after each.
    Cosines are in the precision of the network.
    """
    size, border = now.shape[2:], PATCH // 2
    flow = 2 * F.interpolate(best_displacement(coarse.float(), radius=radius), size, mode="bilinear")
    images = (F.pad(image.float(), (border, border, border, border), mode="replicate") for image in (now, before))
    now, before = (F.conv2d(image, filters) for image in images)
    for _ in range(REFINEMENTS):
        fine = cost_volume(now, warp(before, flow), radius=1)
        flow = _box(flow + best_displacement(fine.float(), radius=1))
    return flow


def best_displacement(volume: Tensor, *, radius: int) -> Tensor:
    """Where a cost volume (N, (2·radius + 1)², H, W) is largest, to a fraction of a place: (N, 2, H, W), x first.

    Cosines are averaged over a patch; then it is the mean of the best displacement and those around it, by the softmax
    of SHARPNESS times the cosine (a soft-argmax).
    """
    size = 2 * radius + 1
    volume = _box(volume)
    places = torch.arange(size * size, device=volume.device).view(1, -1, 1, 1)
    best = volume.argmax(1, keepdim=True)
    far = ((places // size - best // size).abs() > 1) | ((places % size - best % size).abs() > 1)
    shares = (SHARPNESS * volume).masked_fill(far, -torch.inf).softmax(1)
    return torch.stack([(shares * (places % size - radius)).sum(1), (shares * (places // size - radius)).sum(1)], 1)


def _box(images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return WindowMean(images.new_ones(PATCH), images)(images)


def lucas_kanade(now: Tensor, before: Tensor) -> Tensor:
    """The flow b for which now(p) ≈ before(p + b(p)), of images (N, C, H, W) in [0, 1]: (N, 2, H, W).

    Lucas and Kanade (1981), iterated and from coarse to fine as in Bouguet (2001): each iteration warps `before` by
    the flow so far, solves the least squares of what is left over a window around each pixel for a step of at most one
    pixel, and smooths the flow. Colour channels count alike. In float32, whatever the precision of the network.

    Of the windows and smoothings that were tried on validation clips of UCF101 (64×96), those above predict the next
    frame best when the flow is carried on; smaller ones explain the last frame better and the next one worse.
    """
    with torch.autocast(now.device.type, enabled=False):
        return _lucas_kanade(now.float(), before.float())


def _lucas_kanade(now: Tensor, before: Tensor) -> Tensor:
    pyramid = [(now, before)]
    while min(pyramid[-1][0].shape[2:]) >= 2 * COARSEST:
        pyramid.append(tuple(F.avg_pool2d(image, 2) for image in pyramid[-1]))
    flow = now.new_zeros(now.shape[0], 2, *pyramid[-1][0].shape[2:])
    for level, (late, early) in enumerate(reversed(pyramid)):
        if level > 0:
            flow = 2 * F.interpolate(flow, late.shape[2:], mode="bilinear")
        channels = torch.cat([early, *_gradients(early)], 1)
        offsets = torch.arange(WINDOW, dtype=late.dtype, device=late.device) - WINDOW // 2
        window, smoothing = (
            WindowMean(1 + WINDOW // 2 - offsets.abs(), late),
            WindowMean(late.new_ones(SMOOTHING), late),
        )
        for _ in range(ITERATIONS):
            warped, x, y = warp(channels, flow).chunk(3, 1)
            rest = late - warped
            sums = torch.stack([(a * b).sum(1) for a, b in ((x, x), (x, y), (y, y), (x, rest), (y, rest))], 1)
            xx, xy, yy, xr, yr = window(sums).unbind(1)
            xx, yy = xx + STIFFNESS, yy + STIFFNESS
            step = torch.stack([yy * xr - xy * yr, xx * yr - xy * xr], 1) / (xx * yy - xy * xy)[:, None]
            flow = smoothing(flow + step.clamp(-1, 1))
    return flow


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, per pixel."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return x, y


class WindowMean:
    """Weighted means over the window around each pixel of images (…, H, W), of its part inside the image."""

    def __init__(self, window: Tensor, like: Tensor):
        self.rows, self.columns = (filter_matrix(window, size) for size in like.shape[2:])
        self.inside = self.rows.sum(1, keepdim=True) * self.columns.sum(1)  # (H, W)

    def __call__(self, images: Tensor) -> Tensor:
        return self.rows @ images @ self.columns.T / self.inside
