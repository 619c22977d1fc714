"""Models as safetensors files.

A model file holds every weight, the encoder's included, and one metadata entry, the model card as JSON: enough to
build the network and use it as it was trained. (Several metadata entries would come out in random order.)
"""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.results import replacing
from pipeline.training.model_card import ModelCard


def save_model(path: Path, net: Ladder, card: ModelCard) -> None:
    """Writes the model file; the same weights give the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, metadata={"card": json.dumps(asdict(card), sort_keys=True)})
        unfinished.chmod(0o644)  # safetensors lets nobody else read it


def load_model(path: str | Path) -> tuple[Ladder, ModelCard]:
    """The network of a model file, in eval mode on the CPU, and its card. ValueError if it is not a model file."""
    if not Path(path).exists():
        raise ValueError(f"no model {path}; make it with: dvc repro train@{Path(path).stem}")
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads(file.metadata()["card"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        card = ModelCard(**fields)
        net = build_net(card.model, card.net, height=card.height, width=card.width)
        net.load_state_dict(tensors)
    except (OSError, SafetensorError, TypeError, KeyError, ImportError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a model file of this version of the project ({error})") from error
    return net.eval(), card
