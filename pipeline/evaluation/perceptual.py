"""LPIPS (Zhang et al. 2018): the distance of AlexNet's features of two images, weighted as people judge them.

torchmetrics holds the learned weights of the layers; AlexNet's own, torchvision's file of 244 MB, are loaded here.
"""

import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.hub import get_dir
from torchvision.models import AlexNet_Weights


class Lpips(nn.Module):
    """weights: `imagenet` (torchvision's file) or the path of a state dict of torchvision's AlexNet. ValueError says
    which file to put where when they cannot be had, or that they do not fit."""

    def __init__(self, weights: str):
        super().__init__()
        # Here, so that the evaluation without LPIPS does without torchmetrics.
        from torchmetrics.functional.image.lpips import _LPIPS

        self.net = _LPIPS(net="alex", pnet_rand=True)
        path = _imagenet_file() if weights == "imagenet" else Path(weights)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            # slice2.3.weight there is features.3.weight here
            own = self.net.net.state_dict()
            self.net.net.load_state_dict({key: state["features." + key.split(".", 1)[1]] for key in own})
        except OSError as error:
            raise ValueError(
                f"evaluate.lpips: {path} cannot be read ({error.strerror}); give null, imagenet, or the path of "
                f"torchvision's AlexNet state dict"
            ) from error
        except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"evaluate.lpips: {path} is not a state dict of torchvision's AlexNet: {error}") from error

    def forward(self, prediction: Tensor, target: Tensor, regions: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], H and W at least 32; regions (R, N, H, W), the first of them the whole image
        -> (R, N). The whole image has LPIPS itself; another region the mean over it of LPIPS's map, to which the
        layers' distances are enlarged; NaN where it is empty."""
        self.net.spatial = False
        whole = self.net(prediction, target, normalize=True).flatten()
        self.net.spatial = True
        distances = self.net(prediction, target, normalize=True).squeeze(1)  # (N, H, W)
        parts = (distances * regions[1:]).sum((2, 3)) / regions[1:].sum((2, 3))
        return torch.cat([whole[None], parts])


def _imagenet_file() -> Path:
    """torchvision's own file, downloaded to torch's cache unless it is there."""
    weights = AlexNet_Weights.IMAGENET1K_V1
    path = Path(get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        try:
            weights.get_state_dict(progress=True, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise ValueError(
                f"evaluate.lpips imagenet: cannot download {weights.url} ({error}). On a machine without network, put "
                f"that file at {path}, or set evaluate.lpips to its path, or to null"
            ) from error
    return path
