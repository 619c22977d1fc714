"""How good predictions are, per step ahead: PSNR, SSIM, L1 and the training loss.

Each is computed per frame and averaged over frames; the PSNR of an averaged error would be several dB off.
Predictions are clipped to [0, 1] first, as they are shown; the loss alone takes them as they are.

Shapes: B batch, K steps ahead; images (B, K, C, H, W) in [0, 1].
"""

import torch
from torch import Tensor

from pipeline.training.losses import LossConfig, loss_per_image, ssim

PSNR_CAP = 100.0  # dB, given to identical frames, whose PSNR is infinite


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """10 · log10(1 / MSE) of images (N, C, H, W) in [0, 1]: (N,) in dB, at most PSNR_CAP."""
    mse = (prediction - target).square().mean((1, 2, 3))
    return (-10 * torch.log10(mse)).clamp(max=PSNR_CAP)


class Quality:
    """Running means of every metric at every step ahead; memory does not grow with the number of clips."""

    def __init__(self, horizon: int, weights: LossConfig):
        self.horizon = horizon
        self.weights = weights
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """(B, K, C, H, W) each, K the horizon: prediction[:, k − 1] is k steps ahead."""
        if prediction.shape != target.shape or prediction.shape[1] != self.horizon:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}: expected the same shape, "
                f"with {self.horizon} steps"
            )
        shape = prediction.shape[:2]
        raw, truth = prediction.flatten(0, 1).float(), target.flatten(0, 1)
        shown = raw.clamp(0, 1)
        values = {
            "psnr": psnr(shown, truth),
            "ssim": ssim(shown, truth),
            "l1": (shown - truth).abs().mean((1, 2, 3)),
            "loss": loss_per_image(raw, truth, self.weights),
        }
        for name, value in values.items():
            total = value.double().unflatten(0, shape).sum(0).cpu()  # (K,)
            self.sums[name] = self.sums.get(name, 0) + total
        self.count += shape[0]

    def table(self) -> dict[str, dict[str, float]]:
        """{metric: {step ahead: mean}}, steps from "1"; rounded to six digits after the point."""
        return {
            name: {str(k + 1): round(float(total) / self.count, 6) for k, total in enumerate(sums)}
            for name, sums in self.sums.items()
        }
