"""Stage train: shards -> models/<model>.safetensors, through the frame-rate curriculum."""

from pathlib import Path

import torch

from pipeline.nets.encoder import load_weights
from pipeline.params import MODELS, load_section
from pipeline.results import write_metrics, write_table
from pipeline.training.checkpoint import ModelCard, build_net, save_model
from pipeline.training.loop import STATE, TrainConfig, train
from pipeline.video.shards import RATES
from stages.entry import matrix_item, run


def main() -> None:
    name = matrix_item("train", MODELS)
    config = load_section("params.yaml", f"train.{name}", TrainConfig)
    shards = {rate: Path("data/shards", str(rate)) for rate in RATES}
    torch.manual_seed(config.seed)  # torch.nn initialises from the global generator
    card = ModelCard(
        name,
        config.net,
        config.height,
        config.width,
        config.seeds,
        config.horizon,
        config.clip_feedback,
        config.loss,
        encoder={},
    )
    net = build_net(card)
    card.encoder.update(load_weights(net.encoder, config.encoder))
    run_folder = Path("runs", f"train_{name}")
    record = train(net, config, shards, name=name, run=run_folder)

    save_model(Path(f"models/{name}.safetensors"), net, card)
    write_table(Path(f"plots/train_{name}.csv"), record.curve)
    write_table(Path(f"plots/validation_{name}.csv"), record.validation)
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    write_metrics(
        Path(f"metrics/train_{name}.json"),
        {
            "loss": {"train": record.curve[-1]["loss"], "validation": record.best_loss},
            "steps": record.step,
            "parameters": {"trainable": trainable, "total": sum(p.numel() for p in net.parameters())},
            "encoder": card.encoder,
        },
    )
    (run_folder / STATE).unlink()


if __name__ == "__main__":
    run("train", main)
