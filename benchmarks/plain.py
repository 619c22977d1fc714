"""The models written plainly: the reference that the fast form is timed and tested against.

Frame by frame and gate by gate, as the report's equations read: every frame goes through encoder, ladder and decoder
on its own, a ConvGRU has three convolutions over the concatenation of input and state, SSIM filters by convolution.
Float32, nothing compiled, memory laid out as PyTorch does by default, the default AdamW. In PlainNet no module of
pipeline.nets runs but the encoder's ResNet-18, which is torchvision's; weights are copied from a network of ours. The
models that move pixels are not written out again: FrameByFrame feeds a copy of the network itself, frame by frame.

Shapes: B batch, T time, C channels, H × W pixels; images in [0, 1].
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.images import K1, K2, SIGMA, WINDOW
from pipeline.nets.blocks import ConvGRU, LocationConv
from pipeline.nets.encoder import MEAN, STD
from pipeline.nets.ladder import Ladder, States
from pipeline.training.config import TrainConfig
from pipeline.variants.full_res import FullRes

REPORT = ("lvln", "one_frame", "full_res")  # the models that PlainNet writes out


def plain_form(model: str, net: Ladder) -> "PlainNet | FrameByFrame":
    """The plain form of a network of ours, with its weights."""
    return PlainNet(net) if model in REPORT else FrameByFrame(net)


class PlainGRU(nn.Module):
    """z, r = σ(conv[x, h]); n = tanh(conv[x, r·h]); h' = (1 − z)·h + z·n."""

    def __init__(self, gru: ConvGRU):
        super().__init__()
        self.channels = gru.channels
        from_input, biases = gru.from_input.weight.chunk(3), gru.from_input.bias.chunk(3)
        from_state = [*gru.gates.weight.chunk(2), gru.candidate.weight]
        self.z, self.r, self.n = (
            _conv(torch.cat(halves, 1), bias) for *halves, bias in zip(from_input, from_state, biases, strict=True)
        )

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        """x (B, C, H, W), h (B, channels, H, W) -> the next h."""
        if h is None:
            h = x.new_zeros(len(x), self.channels, *x.shape[2:])
        z = torch.sigmoid(self.z(torch.cat([x, h], 1)))
        r = torch.sigmoid(self.r(torch.cat([x, h], 1)))
        n = torch.tanh(self.n(torch.cat([x, r * h], 1)))
        return (1 - z) * h + z * n


def _conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
    conv.weight.data.copy_(weight)
    conv.bias.data.copy_(bias)
    return conv


class PlainLocation(nn.Module):
    """conv(x) + Σ_k B[h, w, k] · E[h, w, k]: x ramp, y ramp, ones."""

    def __init__(self, location: LocationConv):
        super().__init__()
        self.conv, self.bias_map = deepcopy(location.conv), deepcopy(location.bias_map)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        ramp_x = torch.linspace(0, 1, width, device=x.device).expand(height, width)
        ramp_y = torch.linspace(0, 1, height, device=x.device)[:, None].expand(height, width)
        return self.conv(x) + self.bias_map[:, :, 0] * ramp_x + self.bias_map[:, :, 1] * ramp_y + self.bias_map[:, :, 2]


class FrameByFrame(nn.Module):
    """A copy of any network of pipeline.nets, its encoder not fused, every frame on its own."""

    def __init__(self, net: Ladder):
        super().__init__()
        self.net = deepcopy(net).to(memory_format=torch.contiguous_format)
        self.net.encoder.fuse(None)
        self.train()

    def forward(self, frame: Tensor, states: States | None, *, decoded: bool = True) -> tuple[Tensor | None, States]:
        """As PlainNet."""
        encoded = self.net.encode(frame)
        states = self.net.observe(encoded, states)
        return (self.net.decode(encoded, states) if decoded else None), states


class PlainNet(nn.Module):
    """A network of pipeline.nets with its weights copied, computed plainly."""

    def __init__(self, net: Ladder):
        super().__init__()
        self.resnet = deepcopy(net.encoder.resnet)
        self.stem = deepcopy(net.stem) if isinstance(net, FullRes) else None
        self.taps = net.taps
        self.points = nn.ModuleList(
            PlainLocation(block.point) if isinstance(block.point, LocationConv) else deepcopy(block.point)
            for block in net.lateral
        )
        self.grus = nn.ModuleList(nn.ModuleList(PlainGRU(gru) for gru in block.grus) for block in net.lateral)
        self.bottom, self.decoder, self.head = deepcopy(net.bottom), deepcopy(net.decoder), deepcopy(net.head)
        for name, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.contiguous_format)
        self.train()

    def train(self, mode: bool = True) -> "PlainNet":
        super().train(mode)
        self.resnet.eval()  # frozen
        return self

    def forward(self, frame: Tensor, states: list | None, *, decoded: bool = True) -> tuple[Tensor | None, list]:
        """A frame (B, 3, H, W) and the states [level][kernel] -> the prediction of the next one, and the states."""
        x = (frame - self.mean) / self.std
        taps = {"stem": self.stem(x)} if self.stem else {}
        resnet = self.resnet
        taps["conv1"] = resnet.relu(resnet.bn1(resnet.conv1(x)))
        taps["layer1"] = resnet.layer1(resnet.maxpool(taps["conv1"]))
        taps["layer2"] = resnet.layer2(taps["layer1"])
        taps["layer3"] = resnet.layer3(taps["layer2"])
        taps["layer4"] = resnet.layer4(taps["layer3"])

        states = states or [[None] * len(grus) for grus in self.grus]
        states = [
            [gru(taps[tap], h) for gru, h in zip(grus, hidden, strict=True)]
            for tap, grus, hidden in zip(self.taps, self.grus, states, strict=True)
        ]
        if not decoded:
            return None, states
        lateral = [
            torch.cat([point(taps[tap]), *hidden], 1)
            for tap, point, hidden in zip(self.taps, self.points, states, strict=True)
        ]
        x = self.bottom(taps["layer4"])
        for block, c in zip(self.decoder, reversed(lateral[1:]), strict=True):
            x = block(torch.cat([c, x], 1))
        return self.head(torch.cat([lateral[0], x], 1)) * self.std + self.mean, states


def plain_losses(
    net: PlainNet | FrameByFrame, clips: Tensor, config: TrainConfig, *, decode_all: bool = True
) -> Tensor:
    """Clips uint8 (B, T, 3, H, W), stored at the model's size -> the loss of every predicted frame (B, horizon). Every
    output is decoded, as in the report's code, those before the last context frame too, which nothing uses;
    decode_all=False leaves these out."""
    clips, context = clips.float() / 255, config.context
    outputs, states = [], None
    for t in range(context + config.horizon - 1):
        frame = clips[:, t] if t < context else outputs[-1].clamp(0, 1) if config.clip_feedback else outputs[-1]
        output, states = net(frame, states, decoded=decode_all or t >= context - 1)
        outputs.append(output)
    pairs = zip(outputs[context - 1 :], clips[:, context:].unbind(1), strict=True)
    return torch.stack([plain_loss(output, target, config.loss) for output, target in pairs], 1)


def plain_loss(a: Tensor, b: Tensor, weights: Mapping[str, float]) -> Tensor:
    """Images (B, 3, H, W) -> weighted mean of (1 − SSIM) / 2, L1 and L2, (B,)."""
    terms = weights["dssim"] * (1 - plain_ssim(a, b)) / 2
    terms = terms + weights["l1"] * (a - b).abs().mean((1, 2, 3)) + weights["l2"] * (a - b).square().mean((1, 2, 3))
    return terms / (weights["dssim"] + weights["l1"] + weights["l2"])


def plain_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Wang et al. 2004, eq. 13, with the Gaussian as two convolutions of single channels."""
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = (window / window.sum()).expand(a.shape[1], 1, WINDOW)

    def filtered(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, window[:, :, :, None], groups=len(window)), window[:, :, None], groups=len(window))

    mean_a, mean_b = filtered(a), filtered(b)
    variance_a, variance_b = filtered(a * a) - mean_a**2, filtered(b * b) - mean_b**2
    covariance = filtered(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    contrast = (2 * covariance + K2**2) / (variance_a + variance_b + K2**2)
    return (luminance * contrast).mean((1, 2, 3))
