"""One optimisation step, as fast as the device goes: the loop runs it, the benchmark measures it.

What makes it fast: bf16 (devices.py), channels last, the encoder fused, the context encoded in one batch and frames
decoded only where they are scored (nets), CUDA graphs or torch.compile, fused AdamW, and no waiting for the GPU: the
metrics of a step are read while later ones run. benchmarks/plain.py is the same step done plainly.

Shapes: B batch of this rank, T time, C channels, H × W pixels; images in [0, 1].
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.clips.batches import as_images
from pipeline.images import moving_pixels
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict, predict_every_frame
from pipeline.training.batch_norm import synchronise
from pipeline.training.config import OptimizerConfig, TrainConfig
from pipeline.training.devices import pick_compile
from pipeline.training.graphs import GraphedLoss
from pipeline.training.losses import loss_per_image

MOVING_THRESHOLD = 0.1  # of moving_l1: a pixel moves where a channel changes by more, as in evaluate.moving_threshold

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adagrad": torch.optim.Adagrad,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
}


class RolloutLoss(nn.Module):
    """The network with its feeding routine and the loss, as one module: what is compiled, and what precision and
    ranks are set up around."""

    def __init__(self, net: Ladder, config: TrainConfig):
        super().__init__()
        self.net, self.config = net, config

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Tensor:
        """uint8 (B, context + horizon, C, H, W) -> the loss of every predicted frame (B, horizon): prediction k against
        frame context + k − 1 of the clip. (Bytes, since Fabric would round float inputs to the precision of the
        network, and the targets with them.)

        In training, with config.context_loss above 0, those of the context's frames from 1 come before them, (B,
        context + horizon − 1), weighted so that the mean is the weighted mean. mask (B, T), bool: see
        predict_every_frame."""
        config = self.config
        with torch.autocast(clips.device.type, enabled=False):
            images = as_images(clips, height=config.height, width=config.width)
        every = self.training and (config.context_loss > 0 or mask is not None)
        if every:
            feeding = {"context": config.context, "clip_feedback": config.clip_feedback}
            predictions, targets = predict_every_frame(self.net, images, mask=mask, **feeding), images[:, 1:]
        else:
            context, targets = images[:, : config.context], images[:, config.context :]
            feeding = {"clip_feedback": config.clip_feedback, "off_by_one": config.off_by_one}
            predictions, _ = predict(self.net, context, horizon=config.horizon, **feeding)
        with torch.autocast(clips.device.type, enabled=False):
            moving = None
            if config.loss.get("moving_l1"):
                expected, moves = moving_pixels(images, config.context, threshold=MOVING_THRESHOLD)
                moving = (expected | moves)[:, -targets.shape[1] :].float().flatten(0, 1)
            losses = loss_per_image(predictions.float().flatten(0, 1), targets.flatten(0, 1), config.loss, moving)
        losses = losses.unflatten(0, targets.shape[:2])
        if every:
            weights = losses.new_ones(losses.shape[1])
            weights[: config.context - 1] = config.context_loss
            losses = losses * (weights / weights.mean())
        return losses


class Step:
    """The network on its devices with its optimizer. Call it with a batch; `net` is trained in place."""

    def __init__(self, fabric: Fabric, net: Ladder, config: TrainConfig, *, compile: Literal["auto", "graphs"] | bool):
        self.fabric, self.config = fabric, config
        net.train().to(memory_format=torch.channels_last)
        if fabric.world_size > 1:
            synchronise(net)
        self.rollout_loss = RolloutLoss(net, config)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS[config.optimizer.kind](trained, weight_decay=config.optimizer.weight_decay)
        fast = self.rollout_loss
        precision = torch.bfloat16 if "bf16" in fabric.strategy.precision.precision else torch.float32
        self.compiled = pick_compile(compile, fabric)
        if self.compiled == "graphs":
            fast = GraphedLoss(self.rollout_loss, precision)
        elif self.compiled:
            # Else the backward is traced under the forward's autocast, and the float32 products of SSIM get gradients
            # in bf16. Global, since compilation is put off until the first call.
            torch._functorch.config.backward_pass_autocast = "off"
            # A graph each for the two sizes of a phase's batches, with and without scheduled sampling.
            torch._dynamo.config.recompile_limit = 64
            mode = "reduce-overhead" if fabric.device.type == "cuda" else "default"  # the first: with CUDA graphs
            fast = torch.compile(self.rollout_loss, mode=mode, fullgraph=True, dynamic=False)
        self.model, self.optimizer = fabric.setup(fast, optimizer)
        # After the weights have arrived on the device.
        net.encoder.fuse(precision)
        self.mean = None  # of the weights, over time
        if config.optimizer.ema:
            self.mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(config.optimizer.ema))
            self.mean.module.encoder = net.encoder
        self.eval_net = self.mean.module if self.mean else net  # what is validated and saved
        self.eval_loss = RolloutLoss(self.eval_net, config) if self.mean else self.rollout_loss

    def __call__(self, clips: Tensor, *, lr: float, clips_of_all: int, mask: Tensor | None = None) -> Tensor:
        """Clips uint8 (B, T, C, H, W) -> (2,) on the device: the loss over all ranks' clips (clips_of_all) and the
        norm of the gradient before it was clipped. The update is made even if they are not finite."""
        self.optimizer.param_groups[0]["lr"] = lr
        losses = self.model(clips, mask)
        # DDP averages the ranks' gradients; their parts of the batch may differ in size.
        loss = losses.sum() * (self.fabric.world_size / (clips_of_all * losses.shape[1]))
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.optimizer.clip_norm or math.inf, error_if_nonfinite=False
        )
        self.optimizer.step()
        if self.mean:
            self.mean.update_parameters(self.rollout_loss.net)
        return torch.stack([loss.detach(), norm.detach()])

    @torch.no_grad()
    def evaluate(self, clips: Tensor) -> Tensor:
        """Clips uint8 (B, T, C, H, W) -> the loss of each, in eval mode: (B,) float64."""
        self.eval_loss.eval()
        with self.fabric.autocast():
            losses = self.eval_loss(clips).mean(1).double()
        self.eval_loss.train()
        return losses

    def state_dict(self) -> dict[str, object]:
        """What a later step depends on, but for the frozen encoder: weights, their mean, the optimizer's state."""
        mean = trained_weights(self.mean) if self.mean else None
        return {"net": trained_weights(self.rollout_loss.net), "mean": mean, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollout_loss.net.load_state_dict(state["net"], strict=False)
        if self.mean:
            self.mean.load_state_dict(state["mean"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])


def trained_weights(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without those of the encoder, which never change."""
    return {key: value for key, value in net.state_dict().items() if "encoder." not in key}


def sampling_mask(config: TrainConfig, step: int, indices: Sequence[int], *, epoch: int) -> np.ndarray | None:
    """Reverse scheduled sampling at a step (from 0): (B, T) bool, where the network is fed its own prediction, drawn
    from (seed, epoch, clip); None once it is over, and without it."""
    sampling = config.sampling
    if step >= sampling.steps or not (sampling.context_predicted or sampling.horizon_true):
        return None
    left = 1 - step / sampling.steps
    length = config.context + config.horizon
    drawn = np.stack([np.random.default_rng([config.seed, epoch, i, 2]).random(length) for i in indices])
    in_context = np.arange(length) < config.context
    return np.where(in_context, drawn < left * sampling.context_predicted, drawn >= left * sampling.horizon_true)


def learning_rate(
    config: OptimizerConfig, step: int, *, decay_from: float = math.inf, total: float = math.inf
) -> float:
    """Of step (from 0): linear warm-up, then held, then from step decay_from one cosine down to zero at `total`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    first = max(decay_from, config.warmup_steps)
    if step < first:
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, total - first)))


class DelayedMetrics:
    """Metrics that a device is still computing, each read once `lag` later ones are under way."""

    lag = 0

    def __init__(self, device: torch.device):
        if device.type == "cuda":
            self.lag = 2
        self._waiting: deque[tuple[object, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, key: object, values: Tensor) -> None:
        copied = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._waiting.append((key, values, copied))

    def due(self, *, everything: bool = False) -> Iterator[tuple[object, list[float]]]:
        """(key, values) in the order in which they were added."""
        while len(self._waiting) > (0 if everything else self.lag):
            key, values, copied = self._waiting.popleft()
            if copied:
                copied.synchronize()
            yield key, values.tolist()
