"""Predictors that learn nothing, for the same table as the models.

Those that move pixels take OpenCV's DIS optical flow (Kroeger et al. 2016) of grey frames, in backward form: the flow
from image a to image b says, for each pixel p of a, where in b it is found, a(p) ≈ b(p + flow(p)).

Shapes: B batch, T time, N images; images (B, T, C, H, W) in [0, 1]; flows in pixels, x first.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.images import warp

try:
    import cv2
except ImportError:  # the rest of the evaluation works without it
    cv2 = None

BASELINES = ("copy_last", "mean_of_two", "constant_velocity", "half_velocity", "oracle")

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
FLOW_SIDE = 128  # frames with a shorter side are enlarged for the flow, whose patches are 8 × 8 pixels


def baselines(context: Tensor, targets: Tensor, *, flow: bool = True) -> dict[str, Tensor]:
    """Predictions (B, K, C, H, W) of the targets (B, K, C, H, W) by each baseline that the context (B, T, C, H, W)
    allows: `skipped` names the others. flow: with those that need optical flow.

    copy_last: the last context frame x; mean_of_two: the mean of the last two. constant_velocity: with b the flow from
    x to the frame before it, frame k ahead is x(p + k·b(p)): what moved goes on moving. half_velocity: k·b/2.
    oracle: x warped by the flow from the true frame: a bound on what moving the pixels of x can give.
    """
    horizon, last = targets.shape[1], context[:, -1]
    found = {"copy_last": copy_last(context, horizon=horizon)}
    if context.shape[1] > 1:
        found["mean_of_two"] = copy_last(context[:, -2:].mean(1, keepdim=True), horizon=horizon)
    if flow and cv2 and context.shape[1] > 1:
        back = optical_flow(last, context[:, -2])
        ahead = range(1, horizon + 1)
        found["constant_velocity"] = torch.stack([warp(last, k * back) for k in ahead], 1)
        found["half_velocity"] = torch.stack([warp(last, k * back / 2) for k in ahead], 1)
    if flow and cv2:
        found["oracle"] = torch.stack([warp(last, optical_flow(frame, last)) for frame in targets.unbind(1)], 1)
    return found


def skipped(context: int, *, flow: bool = True) -> dict[str, str]:
    """{baseline: why} for those that a context of so many frames does not allow, or that need optical flow if not
    `flow`."""
    reasons = {}
    if context < 2:
        reasons |= dict.fromkeys(("mean_of_two", "constant_velocity", "half_velocity"), "it needs two context frames")
    if not (cv2 and flow):
        without = "not asked for" if cv2 else "OpenCV (opencv-python-headless) is not installed"
        reasons |= dict.fromkeys(("constant_velocity", "half_velocity", "oracle"), without)
    return reasons


def copy_last(context: Tensor, *, horizon: int) -> Tensor:
    """(B, T, C, H, W) -> (B, horizon, C, H, W): the last context frame, repeated."""
    return context[:, -1:].expand(-1, horizon, -1, -1, -1)


def optical_flow(source: Tensor, target: Tensor) -> Tensor:
    """The flow (N, 2, H, W) by which source(p) ≈ target(p + flow(p)), of images (N, 3, H, W) in [0, 1]; on the CPU.

    DIS with its best preset, MEDIUM, down to the finest scale, frames enlarged to FLOW_SIDE: on validation clips of
    motions and of UCF101 this gave the strongest of the baselines (half velocity and oracle) the highest PSNR.
    """
    cv2.setNumThreads(1)  # DIS searches in as many stripes as there are threads: the result depends on their number
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    height, width = source.shape[2:]
    factor = -(-FLOW_SIDE // min(height, width))
    flows = []
    for pair in zip(_grey(source), _grey(target), strict=True):
        size = (factor * width, factor * height)
        a, b = (cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in pair)
        flows.append(cv2.resize(dis.calc(a, b, None), (width, height), interpolation=cv2.INTER_AREA) / factor)
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(source.device)


def _grey(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) -> uint8 (N, H, W)."""
    grey = (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1)
    return (255 * grey).round().clamp(0, 255).byte().cpu().numpy()
