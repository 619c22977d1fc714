"""Predictors that learn nothing, for the same table as the models.

Shapes: B batch, T time; images (B, T, C, H, W) in [0, 1].
"""

from torch import Tensor


def copy_last(seeds: Tensor, *, horizon: int) -> Tensor:
    """(B, T, C, H, W) -> (B, horizon, C, H, W): the last seed frame, repeated."""
    return seeds[:, -1:].expand(-1, horizon, -1, -1, -1)
