"""LPIPS (Zhang et al. 2018): the distance of AlexNet's features of two images, weighted as people judge them.

torchmetrics holds the learned weights of the layers; AlexNet's own, torchvision's file of 244 MB, are loaded here.
"""

import pickle

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights

from pipeline.nets.pretrained import pretrained_file
from pipeline.results import sha256_of
from pipeline.settings import given_path


class Lpips(nn.Module):
    """weights: `imagenet` (torchvision's file) or the path of a state dict of torchvision's AlexNet. When they cannot
    be had, a ValueError says which file to put where; when they do not fit, that they do not."""

    def __init__(self, weights: str):
        super().__init__()
        # Here, so that the evaluation without LPIPS does without torchmetrics.
        from torchmetrics.functional.image.lpips import _LPIPS

        self.net = _LPIPS(net="alex", pnet_rand=True)
        path = given_path(weights)
        if weights == "imagenet":
            others = "evaluate.lpips to its path, or to null"
            path = pretrained_file(AlexNet_Weights.IMAGENET1K_V1, wanted="evaluate.lpips imagenet", instead=others)
        self.file = path.name
        try:
            self.sha256 = sha256_of(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
            # What torchmetrics calls slice2.3.weight is features.3.weight in torchvision's file.
            names = self.net.net.state_dict()
            self.net.net.load_state_dict({name: state["features." + name.split(".", 1)[1]] for name in names})
        except OSError as error:
            raise ValueError(
                f"evaluate.lpips: {path} cannot be read ({error.strerror}); give null, imagenet, or the path of "
                f"torchvision's AlexNet state dict"
            ) from error
        except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"evaluate.lpips: {path} is not a state dict of torchvision's AlexNet: {error}") from error

    def forward(self, prediction: Tensor, target: Tensor, regions: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], H and W at least 32; regions (R, N, H, W), the first of them the whole image
        -> (R, N). The whole image gets LPIPS itself. Another region gets the mean over it of LPIPS's map, to which the
        layers' distances are enlarged, and NaN where it is empty."""
        self.net.spatial = False
        whole = self.net(prediction, target, normalize=True).flatten()
        self.net.spatial = True
        distances = self.net(prediction, target, normalize=True).squeeze(1)  # (N, H, W)
        parts = (distances * regions[1:]).sum((2, 3)) / regions[1:].sum((2, 3))
        return torch.cat([whole[None], parts])
