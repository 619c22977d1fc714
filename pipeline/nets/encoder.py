"""The frozen ResNet-18 encoder and its taps (report, section 3; He et al. 2016).

Shapes: N images, H × W pixels; a tap is (N, channels, H / stride, W / stride).
"""

import pickle
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet, ResNet18_Weights, resnet18

from pipeline.nets.pretrained import pretrained_file
from pipeline.results import sha256_of
from pipeline.settings import given_path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which the weights expect


@dataclass(frozen=True)
class Tap:
    channels: int
    stride: int


TAPS = {
    "conv1": Tap(64, 2),  # after its batch norm and ReLU
    "layer1": Tap(64, 4),
    "layer2": Tap(128, 8),
    "layer3": Tap(256, 16),
    "layer4": Tap(512, 32),
}


class Encoder(nn.Module):
    """ResNet-18 without its classifier: no parameter or batch-norm statistic ever changes.

    `train()` leaves it in eval mode: the report's code left it in train mode, so that its statistics drifted.
    Gradients pass through to the images, as roll-outs need.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet18(weights=None)
        del self.resnet.fc
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self._fused: tuple[ResNet, ...] = ()
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Encoder":
        return super().train(False)

    def fuse(self, dtype: torch.dtype | None) -> None:
        """From now on computes with a copy of the weights as they are, on their device: each batch norm folded into
        its convolution, and cast to `dtype` once instead of at every call. Equal up to rounding; the module's own
        weights, which are what is saved, stay as they are. None: computes with those again."""
        if dtype is None:
            self._fused = ()
            return
        resnet = deepcopy(self.resnet)
        for block in resnet.modules():
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
                if hasattr(block, conv):
                    setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
            if getattr(block, "downsample", None):
                block.downsample = fuse_conv_bn_eval(*block.downsample)
        # In a tuple, so that it is no submodule of this one and not in its state dict.
        self._fused = (resnet.to(dtype, memory_format=torch.channels_last),)

    def normalise(self, images: Tensor) -> Tensor:
        """[0, 1] -> the range that ImageNet weights expect."""
        return (images - self.mean) / self.std

    def denormalise(self, images: Tensor) -> Tensor:
        return images * self.std + self.mean

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1], H and W multiples of 32 -> the taps conv1 … layer3 by name."""
        net = self._fused[0] if self._fused else self.resnet
        taps = {"conv1": net.relu(net.bn1(net.conv1(self.normalise(images))))}
        taps["layer1"] = net.layer1(net.maxpool(taps["conv1"]))
        taps["layer2"] = net.layer2(taps["layer1"])
        taps["layer3"] = net.layer3(taps["layer2"])
        return taps

    def deepest(self, layer3: Tensor) -> Tensor:
        """layer3 -> layer4, which is needed of those frames alone after which a frame is predicted."""
        net = self._fused[0] if self._fused else self.resnet
        return net.layer4(layer3)


def load_weights(encoder: Encoder, weights: str) -> dict[str, object]:
    """Fills the encoder: weights is `imagenet` (torchvision's file), `random`, or the path of a ResNet-18 state dict.

    `random` leaves torchvision's initialisation as drawn and sets the batch-norm statistics from one batch of
    noise, since without them an untrained ResNet's activations grow from block to block. Whole layers absent from
    a file also stay as drawn. Returns what was loaded: source, sha256 of the file and the layers left random.
    ValueError says which file to put where when the weights cannot be had, or what does not fit.
    """
    if weights == "random":
        _calibrate(encoder)
        layers = [name for name, layer in encoder.resnet.named_children() if list(layer.parameters())]
        return {"weights": "random", "sha256": "", "random_layers": layers}
    path = given_path(weights)
    if weights == "imagenet":
        others = "train.<model>.encoder to its path, or to random"
        path = pretrained_file(ResNet18_Weights.IMAGENET1K_V1, wanted="encoder weights imagenet", instead=others)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(
            f"encoder weights: {path} cannot be read ({error.strerror}); give imagenet, random, or the path of a "
            f"ResNet-18 state dict"
        ) from error
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"encoder weights: {path} is not a state dict saved with torch.save") from error
    if not isinstance(state, dict):
        raise ValueError(f"encoder weights: {path} holds a {type(state).__name__}, not a state dict")
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        missing, unexpected = encoder.resnet.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"encoder weights {path} do not fit ResNet-18: {error}") from error
    random_layers = {key.split(".")[0] for key in missing}
    half_filled = random_layers & {key.split(".")[0] for key in state}
    if unexpected or half_filled or not state:
        raise ValueError(
            f"encoder weights {path} do not fit ResNet-18: {len(state)} entries; unknown: {unexpected[:3]}; "
            f"incomplete layers: {sorted(half_filled)}; it should hold conv1.weight, bn1.weight, layer1.0.…"
        )
    return {"weights": path.name, "sha256": sha256_of(path), "random_layers": sorted(random_layers)}


@torch.no_grad()
def _calibrate(encoder: Encoder) -> None:
    noise = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(noise, size=(128, 128), mode="bilinear")
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean: after one batch, that batch's statistics
        norm.training = True
    encoder.deepest(encoder(images)["layer3"])
    for norm in norms:
        norm.momentum = 0.1
    encoder.train()
