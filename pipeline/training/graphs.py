"""CUDA graphs of the loss and its gradients: thousands of small kernels, launched as one.

Launching them one by one takes a GPU several times as long as computing them. A graph records them once, in about a
second (after cuDNN has timed its algorithms, see devices.py), and replays them on new clips. torch.compile records
graphs too, and fuses kernels besides, but takes minutes to begin with for the hundreds of layers that a clip passes.
"""

import torch
from torch import Tensor, nn


class GraphedLoss(nn.Module):
    """`loss`, a module from clips (and a mask) to losses, replayed; recorded anew for every shape of its inputs. For
    training alone: Step.evaluate calls `loss` itself."""

    def __init__(self, loss: nn.Module, precision: torch.dtype):
        """precision: of autocast; with float32 there is none."""
        super().__init__()
        self.loss, self.precision = loss, precision
        self._graphs: dict[tuple[torch.Size, ...], nn.Module] = {}

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Tensor:
        given = (clips,) if mask is None else (clips, mask)
        shapes = tuple(x.shape for x in given)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._record(given)
        return self._graphs[shapes](*given)

    def _record(self, given: tuple[Tensor, ...]) -> nn.Module:
        buffers = [(buffer, buffer.clone()) for buffer in self.loss.buffers()]
        # The body begins its own autocast, so that the backward, which is recorded too, is not under it.
        with torch.autocast("cuda", enabled=False):
            body = _Body(self.loss, self.precision)
            samples = tuple(x.clone() for x in given)
            graphed = torch.cuda.make_graphed_callables(body, samples, allow_unused_input=True)
        for buffer, before in buffers:  # the trials before the recording are no steps
            buffer.copy_(before)
        return graphed


class _Body(nn.Module):
    def __init__(self, loss: nn.Module, precision: torch.dtype):
        super().__init__()
        self.loss, self.precision = loss, precision

    def forward(self, *given: Tensor) -> Tensor:
        torch.clear_autocast_cache()  # what was cast in a trial is not part of the recording
        with torch.autocast("cuda", dtype=self.precision, enabled=self.precision != torch.float32):
            losses = self.loss(*given)
        torch.clear_autocast_cache()
        return losses
