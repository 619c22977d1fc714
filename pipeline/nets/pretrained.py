"""Weights that torchvision offers for download."""

from pathlib import Path
from urllib.error import URLError

from torch.hub import get_dir
from torchvision.models import WeightsEnum


def pretrained_file(weights: WeightsEnum, *, wanted: str, instead: str) -> Path:
    """torchvision's own file, downloaded to torch's cache unless it is there. ValueError when it cannot be had; wanted:
    the param and its value; instead: what else it could be set to."""
    path = Path(get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        try:
            weights.get_state_dict(progress=True, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{wanted}: cannot download {weights.url} ({error}). On a machine without network, put that file at "
                f"{path}, or set {instead}"
            ) from error
    return path
