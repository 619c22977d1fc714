"""Models as safetensors files, and the state of a run that may be interrupted.

A model file holds every weight, the encoder's included, and one metadata entry, the model card as JSON: enough to
build the network and use it as it was trained. (Several metadata entries would come out in random order.)
"""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Ladder
from pipeline.params import from_dict
from pipeline.training.losses import LossConfig
from pipeline.video.clips import Clips


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself. model: the variant, a module of pipeline.nets; net: its Config as a dict;
    height, width: of the frames; seeds, horizon: frames in and frames predicted in training; encoder: what
    load_weights returned."""

    model: str
    net: dict
    height: int
    width: int
    seeds: int
    horizon: int
    clip_feedback: bool
    loss: LossConfig
    encoder: dict


def build_net(card: ModelCard) -> Ladder:
    """A fresh network as the card describes it."""
    variant = importlib.import_module(f"pipeline.nets.{card.model}")
    config = from_dict(card.net, variant.Config, where=f"train.{card.model}.net", source="params.yaml")
    return variant.build(config, Encoder(), height=card.height, width=card.width)


def save_model(path: Path, net: Ladder, card: ModelCard) -> None:
    """Writes the model file; the same weights give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, path, metadata={"card": json.dumps(asdict(card), sort_keys=True)})


def load_model(path: str | Path) -> tuple[Ladder, ModelCard]:
    """The network of a model file, in eval mode on the CPU, and its card. ValueError if it is not a model file."""
    if not Path(path).exists():
        raise ValueError(f"no model {path}; make it with: dvc repro train@{Path(path).stem}")
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads(file.metadata()["card"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a model file of this project ({error})") from error
    card = ModelCard(**{**fields, "loss": LossConfig(**fields["loss"])})
    net = build_net(card)
    net.load_state_dict(tensors)
    return net.eval(), card


def fingerprint(settings: object, data: Iterable[Clips], encoder: Encoder) -> str:
    """Digest of all that a run's result depends on: its settings, the stored frames, the frozen encoder's weights,
    and the project's code."""
    digest = hashlib.sha256(repr(settings).encode())
    for clips in data:
        for video in clips.videos:
            digest.update(repr((video.key, video.info)).encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] == "pipeline" and getattr(module, "__file__", None):
            digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state so that a crash at any moment leaves the old file or the new one, whole."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def load_state(path: Path, expected_fingerprint: str) -> dict[str, Any] | None:
    """The state, or None when there is none or it belongs to another run (which is said)."""
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["fingerprint"] != expected_fingerprint:
        print(f"{path}: params, data or code have changed since it was saved; starting afresh", file=sys.stderr)
        return None
    return state
