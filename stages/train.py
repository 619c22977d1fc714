"""Stage train: shards -> models/<model>.safetensors, through the frame-rate curriculum."""

import os
import shutil
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from pipeline.clips.shards import RATES, names_digest, open_videos
from pipeline.hardware import HardwareConfig
from pipeline.nets.build import build_net
from pipeline.nets.encoder import load_weights
from pipeline.processes import end_with_parent
from pipeline.results import write_facts, write_metrics, write_table
from pipeline.settings import load_section, read_params
from pipeline.training.checkpoint import STATE
from pipeline.training.config import TrainConfig, check_ranks
from pipeline.training.devices import check_devices, closing_ranks, make_fabric
from pipeline.training.logs import make_loggers
from pipeline.training.loop import train
from pipeline.training.model_file import save_model
from stages.entry import matrix_item, run

PARENT = "TRAIN_PARENT"  # in the environment of the ranks: the process that started them


def main() -> None:
    name = matrix_item("train", read_params()["train"])
    config, hardware = load_section(f"train.{name}", TrainConfig), load_section("hardware", HardwareConfig)
    check_ranks(config, hardware, model=name)
    if torch.distributed.is_torchelastic_launched():
        end_with_parent(int(os.environ.get(PARENT, os.getppid())))
    elif hardware.ranks > 1:
        start_ranks(hardware, name)
        return
    with closing_ranks():
        train_model(name, config, hardware)


def train_model(name: str, config: TrainConfig, hardware: HardwareConfig) -> None:
    """Trains, as one of the ranks, and writes the results, as the first of them."""
    run_folder = Path("runs", f"train_{name}")
    loggers = make_loggers(run_folder, name=name, wandb=hardware.wandb)
    fabric = make_fabric(hardware, height=config.height, width=config.width, loggers=loggers)
    torch.manual_seed(config.seed)  # torch.nn initialises from the global generator
    net = build_net(name, config.net, height=config.height, width=config.width)
    encoder = load_weights(net.encoder, config.encoder)
    shards = {rate: Path("data/shards", str(rate)) for rate in RATES}
    card = config.card(name, encoder, test_digest=names_digest(open_videos(shards[RATES[0]], "test")))
    record, phases = train(fabric, net, config, hardware, shards, name=name, run=run_folder)
    if not fabric.is_global_zero:
        return

    folder = Path(f"models/phases/{name}")
    shutil.rmtree(folder, ignore_errors=True)  # of a longer curriculum, maybe
    for number, weights in enumerate(phases, start=1):
        net.load_state_dict(weights, strict=False)
        save_model(folder / f"{number}.safetensors", net, card)
    save_model(Path(f"models/{name}.safetensors"), net, card)
    losses = {"loss": record.curve[-1]["loss"], "val_loss": record.best_loss}
    write_metrics(Path(f"metrics/train_{name}.json"), {key: round(value, 4) for key, value in losses.items()})
    plots = Path("plots/train", name)
    write_table(plots / "curves.csv", record.rows())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    facts = {"steps": record.step, "trainable_parameters": trainable, "encoder": encoder}
    write_facts(plots / "facts.csv", facts)
    (run_folder / STATE).unlink()


def start_ranks(hardware: HardwareConfig, name: str) -> None:
    """Runs this stage under torchrun, in a process a device."""
    check_devices(hardware)
    stage = ["--nproc-per-node", str(hardware.devices), "-m", "stages.train", name]
    if hardware.nodes > 1:
        raise ValueError(
            f"hardware.nodes: {hardware.nodes}; start it on each of these machines, HOST being one of "
            f"them, with: torchrun --nnodes {hardware.nodes} --rdzv-backend c10d --rdzv-endpoint HOST:29500 "
            f"{' '.join(stage)}, and then record its result with: dvc commit -f train@{name}"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // hardware.devices)))
    os.environ[PARENT] = str(os.getpid())
    try:
        torchrun(["--standalone", *stage])
    except SignalException as asked:  # the ranks have saved their state
        raise SystemExit(128 + asked.sigval) from asked
    except ChildFailedError as failed:  # a rank has said why
        raise SystemExit(1) from failed


if __name__ == "__main__":
    run("train", main)
