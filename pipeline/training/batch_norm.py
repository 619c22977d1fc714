"""Batch norm over the batch of all ranks.

The decoder normalises by the statistics of its batch. Shared out over ranks, each part would have its own, and the
result would depend on the number of devices. torch.nn.SyncBatchNorm joins them on GPUs alone; this does on any device.

Shapes: B batch of this rank, C channels, H × W pixels.
"""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d (Ioffe and Szegedy 2015) with mean and variance over the parts of all ranks, weighted by size."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = values.new_full((1,), values.numel() / values.shape[1])
        *total, count = all_reduce(torch.cat([values.sum((0, 2, 3)), count])).split([self.num_features, 1])
        mean = total[0] / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def synchronise(net: nn.Module) -> None:
    """Makes every batch norm of `net` that is trained a SyncedBatchNorm with the same weights, in place."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and child.training:
                synced = SyncedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
                synced.load_state_dict(child.state_dict())
                setattr(parent, name, synced)
