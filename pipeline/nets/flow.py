"""What two frames say of the motion between them: Lucas and Kanade's optical flow, and the cost volume of feature maps.

Shapes: N images, C channels, H × W pixels; images in [0, 1]; flows in pixels, x first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.images import warp

COARSEST = 16  # pixels of the shorter side, at the top of Lucas and Kanade's pyramid
ITERATIONS = 3  # on each of its levels
WINDOW = 7  # over which a pixel's motion is assumed to be one
STIFFNESS = 1e-3  # added to the squared gradients: without texture nothing moves


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


def lucas_kanade(now: Tensor, before: Tensor) -> Tensor:
    """The flow b for which now(p) ≈ before(p + b(p)), of images (N, C, H, W) in [0, 1]: (N, 2, H, W).

    Lucas and Kanade (1981), iterated and from coarse to fine as in Bouguet (2001): each iteration warps `before` by
    the flow so far, solves the least squares of what is left over a window around each pixel for a step of at most one
    pixel, and smooths the flow. Colour channels count alike.
    """
    pyramid = [(now, before)]
    while min(pyramid[-1][0].shape[2:]) >= 2 * COARSEST:
        pyramid.append(tuple(F.avg_pool2d(image, 2) for image in pyramid[-1]))
    flow = now.new_zeros(now.shape[0], 2, *pyramid[-1][0].shape[2:])
    for level, (late, early) in enumerate(reversed(pyramid)):
        if level > 0:
            flow = 2 * F.interpolate(flow, late.shape[2:], mode="bilinear")
        channels = torch.cat([early, *_gradients(early)], 1)
        for _ in range(ITERATIONS):
            warped, x, y = warp(channels, flow).chunk(3, 1)
            rest = late - warped
            sums = torch.stack([(a * b).sum(1) for a, b in ((x, x), (x, y), (y, y), (x, rest), (y, rest))], 1)
            xx, xy, yy, xr, yr = _box(sums, WINDOW).unbind(1)
            xx, yy = xx + STIFFNESS, yy + STIFFNESS
            step = torch.stack([yy * xr - xy * yr, xx * yr - xy * xr], 1) / (xx * yy - xy * xy)[:, None]
            flow = _box(flow + step.clamp(-1, 1), 3)
    return flow


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, per pixel."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return x, y


def _box(images: Tensor, size: int) -> Tensor:
    """Means over windows of size × size."""
    return F.avg_pool2d(images, size, stride=1, padding=size // 2, count_include_pad=False)
