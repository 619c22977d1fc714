"""Which device a stage runs on."""

import torch


def pick_device(name: str, *, key: str) -> torch.device:
    """auto, cpu or cuda -> a device. ValueError, naming the params key, when a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{key}: cuda, but torch sees no GPU; set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
