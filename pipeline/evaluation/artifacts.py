"""Two faults of predicted frames as numbers: the grid that upsampling leaves, and blur.

Shapes: images (N, 3, H, W) in [0, 1], H and W even. Values are per image, (N,).
"""

import torch
from torch import Tensor


def nyquist_share(images: Tensor) -> Tensor:
    """Share of the spectral energy of the mean of the channels, its own mean removed, that lies at the highest
    frequency of rows or columns: a grid of period two has it all there. 0 for a flat image."""
    height, width = images.shape[2:]
    grey = images.mean(1)
    energy = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()
    row, column = energy[:, height // 2], energy[:, :, width // 2]
    highest = row.sum(1) + column.sum(1) - row[:, width // 2]
    return highest / energy.sum((1, 2)).clamp(min=torch.finfo(energy.dtype).tiny)


def gradient_energy(images: Tensor) -> Tensor:
    """Mean squared difference of neighbours along rows plus that along columns; blur lowers it."""
    return sum(images.diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3))
