"""A training run small enough for tests: in this process, or in processes of its own that may be killed. For
tests/test_gpu.py it works without pandas, ruamel.yaml and tensorboard.

python -m tests.support.training MODEL SHARDS FOLDER RUNS HARDWARE     what `start_training` starts, in every rank
"""

import json
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import cases
from pipeline.clips.shards import RATES
from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.settings import from_dict, overlay
from pipeline.training.config import TrainConfig
from pipeline.training.devices import closing_ranks, make_fabric
from pipeline.training.logs import make_loggers
from pipeline.training.loop import Progress, Weights, train
from pipeline.training.model_card import ModelCard
from tests.support.nets import VARIANTS
from tests.support.project import environment

PROGRAM = ("-m", "tests.support.training")

SETTINGS = {
    "seed": 0,
    "height": 32,
    "width": 32,
    "encoder": "random",
    "context": 2,
    "horizon": 2,
    "off_by_one": False,
    "clip_feedback": True,
    "context_loss": 0.0,
    "sampling": {},
    "clips": {"spacing": 4, "fraction": 0.06, "overfit": 0},
    "augmentation": {"max_stride": 1, "reverse": False, "flip": False, "crop": 1.0},
    "curriculum": [{"fps": 15, "epochs": 1}, {"fps": 10, "epochs": 2}],
    "batch": 8,
    "loss": {"dssim": 1.0, "l1": 1.0},
    "optimizer": {"kind": "adamw", "lr": 0.003, "weight_decay": 0.01, "warmup_steps": 2, "clip_norm": 1.0, "ema": 0.0},
    "early_stopping": {"patience": 0, "validation_clips": 8},
}

LONGER = {"clips": {"fraction": 0.12}}  # than SETTINGS: a run that has time to be killed in

hardware = partial(cases.hardware, device="cpu")


def config(model: str = "lvln", **changes: object) -> TrainConfig:
    """SETTINGS with changes laid over them as a preset's are: of a mapping, what is not named stays."""
    tree = deepcopy(SETTINGS) | {"net": asdict(VARIANTS[model][1])}
    overlay(tree, changes)
    return from_dict(tree, TrainConfig, where=f"train.{model}")


def curriculum(*phases: tuple[int, int]) -> list[dict[str, int]]:
    """Of phases (fps, epochs)."""
    return [{"fps": fps, "epochs": epochs} for fps, epochs in phases]


def card(settings: TrainConfig) -> ModelCard:
    return settings.card("lvln", {"a": 1}, test_digest="")


def fresh(settings: TrainConfig, model: str = "lvln") -> Ladder:
    """The network before training."""
    torch.manual_seed(settings.seed)
    return build_net(model, settings.net, height=settings.height, width=settings.width)


class Trained(NamedTuple):
    net: Ladder
    record: Progress
    phases: list[Weights]


def run(
    settings: TrainConfig, shards: Path, folder: Path, *, model: str = "lvln", **hardware_changes: object
) -> Trained:
    """Trains in `folder`, on the shards at shards/25, 15 and 10."""
    chosen, net = hardware(**hardware_changes), fresh(settings, model)
    loggers = make_loggers(folder, name=model, wandb=chosen.wandb) if find_spec("tensorboard") else []
    fabric = make_fabric(chosen, height=settings.height, width=settings.width, loggers=loggers)
    torch.backends.cudnn.benchmark = False  # on a GPU, timing its algorithms takes longer than such a run
    folders = {rate: shards / str(rate) for rate in RATES}
    return Trained(net, *train(fabric, net, settings, chosen, folders, name=model, run=folder))


# --- in processes of its own -----------------------------------------------------------------------------------------


def start(*arguments: object, ranks: int = 1) -> subprocess.Popen:
    """Python with these arguments, in so many ranks, which torchrun then starts. What they print comes together."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, *torchrun, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def start_training(
    shards: Path,
    folder: Path,
    runs: dict[str, dict[str, Any]],
    *,
    model: str = "lvln",
    ranks: int = 1,
    program: tuple[object, ...] = PROGRAM,
    **hardware_changes: object,
) -> subprocess.Popen:
    """Runs one after the other, each with its own changes of SETTINGS, in folders of their names below `folder`."""
    given = json.dumps(runs), json.dumps({"devices": ranks, **hardware_changes})
    return start(*program, model, shards, folder, *given, ranks=ranks)


def train_runs(
    model: str, shards: Path, folder: Path, runs: dict[str, dict[str, Any]], hardware_changes: dict[str, Any]
) -> None:
    """Trains as `start_training` says; the result of each run is in result_<rank>.pt of its folder."""
    for name, changes in runs.items():
        own = folder / name
        settings = config(model, **changes)
        net, record, phases = run(settings, shards, own, model=model, **hardware_changes)
        result = {"curve": record.curve, "validation": record.validation}
        result |= {"weights": net.state_dict(), "phases": phases}
        torch.save(result, own / f"result_{os.environ.get('RANK', 0)}.pt")


def main() -> None:
    model, shards, folder, runs, hardware_changes = sys.argv[1:6]
    with closing_ranks():
        train_runs(model, Path(shards), Path(folder), json.loads(runs), json.loads(hardware_changes))


def results(folder: Path) -> list[Any]:
    """What each rank has saved."""
    return [torch.load(file) for file in sorted(folder.glob("result_*.pt"))]


def finish(process: subprocess.Popen, *, fails: bool = False) -> str:
    """What was printed, once the process has ended."""
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        kill(process)
    assert (process.returncode != 0) == fails, output
    return output


def kill(process: subprocess.Popen) -> None:
    """With the ranks, which torchrun puts into process groups of their own."""
    if process.poll() is None:
        import psutil

        torchrun = psutil.Process(process.pid)
        for each in [torchrun, *torchrun.children(recursive=True)]:
            each.kill()


def signal_after(process: subprocess.Popen, number: int, file: Path, *, delay: float) -> bool:
    """Sends a signal to the whole process group, loader workers too, `delay` seconds after `file` has changed, and
    waits for its end; False if the run was over before."""
    last, deadline = changed(file), time.monotonic() + 60
    while process.poll() is None and changed(file) == last and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL, 128 + number)
    return process.returncode != 0


def changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


# --- what came out ---------------------------------------------------------------------------------------------------


def assert_equal(a: object, b: object) -> None:
    """Bit for bit, of tensors and numbers in mappings and lists."""
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def assert_same(a: Trained, b: Trained) -> None:
    """Curves and weights, bit for bit."""
    assert (a.record.curve, a.record.validation) == (b.record.curve, b.record.validation)
    assert_equal([a.net.state_dict(), a.phases], [b.net.state_dict(), b.phases])


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def trainable(net: nn.Module) -> Tensor:
    """All trained weights, one after the other."""
    return torch.cat([weight.detach().double().flatten() for weight in net.parameters() if weight.requires_grad])


def losses(rows: list[dict[str, float]]) -> list[float]:
    return [row["loss"] for row in rows]


if __name__ == "__main__":
    main()
