"""Training over several processes (ranks): real ones, two on this machine's CPU, started by torchrun.

Several ranks do the sums of a single process in another order, which in float32 changes the last digits. AdamW
amplifies that: its first updates are about lr · sign(gradient), and a gradient near zero may change its sign. The
difference grows with the steps and the learning rate, so the runs here are short and slow. What they then differ by is
far less than by any mistake in sharing out the work.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from pipeline.clips.shards import RATES
from pipeline.training.hardware import HardwareConfig, make_fabric
from pipeline.training.model_file import load_model
from tests.test_training import CLIPS, HARDWARE, config, fresh, run

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

CHANGES = {  # of the settings of test_training.py
    "clips": CLIPS | {"fraction": 0.125},
    "curriculum": [{"fps": 10, "epochs": 2}],
    "optimizer": {"kind": "adamw", "lr": 0.001, "weight_decay": 0.01, "warmup_steps": 2, "clip_norm": 1.0, "ema": 0.0},
}
SIZES = {8: [8] * 6, 7: [7] * 6 + [6]}  # of the batches of an epoch, by the setting `batch`

TRAIN = """
import json, os, signal, sys, torch
from pathlib import Path
from pipeline.training.hardware import closing_ranks
from pipeline.training.step import Step
from tests.test_training import HARDWARE, config, run

shards, folder, stop_at, runs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
rank = int(os.environ["RANK"])

class CountedStep(Step):
    count = 0

    def __call__(self, *arguments, **named):
        self.count += 1
        (folder / f"steps_{rank}").write_text(str(self.count))
        if rank == 1 and self.count == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(*arguments, **named)

sys.modules["pipeline.training.loop"].Step = CountedStep
with closing_ranks():
    for name, changes in runs.items():
        net, record = run(config(hardware=HARDWARE | {"devices": 2}, **changes), shards, folder / name)
        result = {"curve": record.curve, "validation": record.validation, "weights": net.state_dict()}
        torch.save(result, folder / name / f"result_{rank}.pt")
"""

BATCH_NORM = """
import os, sys, torch
from pathlib import Path
from torch import nn
from pipeline.training.batch_norm import SyncedBatchNorm, synchronise

torch.distributed.init_process_group("gloo")
rank = int(os.environ["RANK"])
given = torch.load(Path(sys.argv[1]) / "given.pt")
net = nn.Sequential(nn.BatchNorm2d(3))
net.load_state_dict(given["weights"])
synchronise(net)
assert type(net[0]) is SyncedBatchNorm
results = []
for x, direction in given["batches"]:
    x = x.tensor_split([given["split"]])[rank].requires_grad_()
    y = net(x)
    y.backward(direction.tensor_split([given["split"]])[rank])
    results.append([y.detach(), x.grad])
gradients = [parameter.grad for parameter in net.parameters()]
evaluated = net.eval()(given["batches"][0][0])
torch.save([results, gradients, net.state_dict(), evaluated.detach()], Path(sys.argv[1]) / f"result_{rank}.pt")
torch.distributed.destroy_process_group()
"""

REFUSED = """
import json, os, sys
from pathlib import Path
from pipeline.training.hardware import HardwareConfig, closing_ranks, make_fabric

messages = []
with closing_ranks():
    for hardware in json.loads(sys.argv[2]):
        try:
            make_fabric(HardwareConfig(**hardware), key="train.lvln.hardware", height=32, width=32)
        except ValueError as error:
            messages.append(str(error))
(Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(messages))
"""


def start(code: str, *arguments: object, folder: Path) -> subprocess.Popen:
    """The code in two ranks; what they print comes together."""
    script = folder / "worker.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    )


def finish(process: subprocess.Popen, *, fails: bool = False) -> str:
    """What the ranks printed, once they have ended."""
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        kill(process)
    assert (process.returncode != 0) == fails, output
    return output


def kill(process: subprocess.Popen) -> None:
    """torchrun and its ranks, which it puts into process groups of their own."""
    if process.poll() is None:
        torchrun = psutil.Process(process.pid)
        for each in [torchrun, *torchrun.children(recursive=True)]:
            each.kill()


def start_training(shards: Path, folder: Path, *, stop_at: int = 0, **runs: dict[str, Any]) -> subprocess.Popen:
    """Runs one after the other, in folders of their names. stop_at: the step in which rank 1 gets SIGTERM."""
    settings = {name: CHANGES | changes for name, changes in runs.items()}
    return start(TRAIN, shards, folder, stop_at, json.dumps(settings), folder=folder)


def results(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"result_{rank}.pt") for rank in range(2)]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Of two results, bit for bit."""
    assert a["curve"] == b["curve"]
    assert a["validation"] == b["validation"]
    assert_equal(a["weights"], b["weights"])


def trainable(net: nn.Module) -> torch.Tensor:
    """All trained weights, one after the other."""
    return torch.cat([weight.detach().double().flatten() for weight in net.parameters() if weight.requires_grad])


def losses(rows: list[dict[str, float]]) -> list[float]:
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks' undisturbed runs, in folders batch_8 and batch_7."""
    folder = tmp_path_factory.mktemp("ranks")
    finish(start_training(shards, folder, **{f"batch_{batch}": {"batch": batch} for batch in SIZES}))
    return folder


@pytest.mark.parametrize("batch", SIZES)
def test_two_ranks_train_as_one_process_does(shards: Path, trained: Path, tmp_path: Path, batch: int) -> None:
    """With batches that divide evenly and with some that do not. Why not to the last bit: see the top of this file.

    Measured: losses differ by 4e-6 of their value, weights by 2e-3 of the way they have gone. Of these mistakes, made
    on purpose, each is 14 times or more beyond a tolerance: batch norms not synchronised, or their gradients not;
    uneven parts weighted alike; both ranks reading the same clips; validation losses of one rank alone.
    """
    settings = config(**CHANGES, batch=batch)
    torch.manual_seed(settings.seed)
    before = trainable(fresh(settings))
    net, record = run(settings, shards, tmp_path)
    assert record.step == 2 * len(SIZES[batch])
    first, second = results(trained / f"batch_{batch}")
    assert_same(first, second)
    assert losses(first["curve"]) == pytest.approx(losses(record.curve), rel=3e-5)
    assert losses(first["validation"]) == pytest.approx(losses(record.validation), rel=3e-5)
    alone = trainable(net)
    net.load_state_dict(first["weights"])
    assert torch.dist(trainable(net), alone) < 0.02 * torch.dist(alone, before)


def test_batch_norm_over_ranks_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """Over parts of 5 and 2 images, twice, in training; then in eval mode."""
    alone = nn.BatchNorm2d(3)
    nn.init.uniform_(alone.weight)
    nn.init.uniform_(alone.bias)
    net = nn.Sequential(alone)
    batches = [(torch.randn(7, 3, 4, 5) * 3 + shift, torch.randn(7, 3, 4, 5)) for shift in (2, -20)]
    torch.save({"weights": net.state_dict(), "batches": batches, "split": 5}, tmp_path / "given.pt")
    finish(start(BATCH_NORM, tmp_path, folder=tmp_path))
    parts, gradients, states, evaluated = zip(*results(tmp_path), strict=True)

    close = {"rtol": 1e-4, "atol": 1e-5}
    for i, (x, direction) in enumerate(batches):
        y = net(x.requires_grad_())
        y.backward(direction)
        torch.testing.assert_close(torch.cat([part[i][0] for part in parts]), y, **close)
        torch.testing.assert_close(torch.cat([part[i][1] for part in parts]), x.grad, **close)
    for parameter, *shares in zip(net.parameters(), *gradients, strict=True):
        torch.testing.assert_close(sum(shares), parameter.grad, **close)
    assert_equal(states[0], states[1])
    torch.testing.assert_close(states[0], net.state_dict(), **close)
    net.load_state_dict(states[0])
    assert torch.equal(net.eval()(batches[0][0]), evaluated[0])


def test_sigterm_to_one_rank_stops_both_and_they_continue(shards: Path, trained: Path, tmp_path: Path) -> None:
    """After the same step, in the middle of an epoch; the end is, to the bit, that of the undisturbed run."""
    stopped = finish(start_training(shards, tmp_path, stop_at=9, batch_8={}), fails=True)
    assert re.search(r"exitcode *: 143", stopped)  # 128 + SIGTERM, of the rank that ended first
    assert [(tmp_path / f"steps_{rank}").read_text() for rank in range(2)] == ["9", "9"]
    assert torch.load(tmp_path / "batch_8" / "state.pt")["progress"]["step"] == 9
    assert "continuing at step 9 from" in finish(start_training(shards, tmp_path, batch_8={}))
    for ours, undisturbed in zip(results(tmp_path / "batch_8"), results(trained / "batch_8"), strict=True):
        assert_same(ours, undisturbed)


@pytest.mark.slow
def test_two_killed_ranks_continue_to_the_same_bits(shards: Path, trained: Path, tmp_path: Path) -> None:
    process = start_training(shards, tmp_path, batch_8={"checkpoint_minutes": 1e-9})  # saves after every step
    state = tmp_path / "batch_8" / "state.pt"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not state.exists():
        time.sleep(0.002)
    kill(process)
    finish(process, fails=True)
    step = torch.load(state)["progress"]["step"]
    assert 0 < step < 2 * len(SIZES[8])
    assert f"continuing at step {step} from" in finish(start_training(shards, tmp_path, batch_8={}))
    for ours, undisturbed in zip(results(tmp_path / "batch_8"), results(trained / "batch_8"), strict=True):
        assert_same(ours, undisturbed)


def test_ranks_that_do_not_fit_the_params_are_refused(tmp_path: Path) -> None:
    """Two ranks, each of which tries to begin with other params; and one process where there should be two."""
    tries = [{"devices": 1}, {"devices": 1, "nodes": 3}, {"devices": 2, "compile": True}]
    finish(start(REFUSED, tmp_path, json.dumps([HARDWARE | changes for changes in tries]), folder=tmp_path))
    for rank in range(2):
        too_many, too_few, compiled = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "train.lvln.hardware: devices 1 on each of nodes 1 make 1 processes, but 2 started" in too_many
        assert "devices 1 on each of nodes 3 make 3 processes, but 2 started" in too_few
        assert too_few.endswith("2 of them here; start them with: torchrun --nnodes 3 --nproc-per-node 1")
        assert compiled.startswith("train.lvln.hardware.compile: true ")
    alone = HardwareConfig(**HARDWARE | {"devices": 2})
    with pytest.raises(ValueError, match="make 2 processes, but 1 started, 1 of them here; start "):
        make_fabric(alone, key="train.lvln.hardware", height=32, width=32)


def make_project(folder: Path, shards: Path, **hardware: int) -> None:
    """What the stage train@lvln needs: the tiny preset with these hardware params, and shards."""
    tree = YAML(typ="safe").load((ROOT / "presets" / "tiny.yaml").read_text())
    tree["train"]["lvln"]["hardware"] |= {"device": "cpu"} | hardware
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)
    (folder / "data" / "shards").mkdir(parents=True)
    for rate in RATES:
        (folder / "data" / "shards" / str(rate)).symlink_to(shards / str(rate))


def stage(folder: Path, shards: Path, **hardware: int) -> subprocess.CompletedProcess:
    make_project(folder, shards, **hardware)
    command = [sys.executable, "-m", "stages.train", "lvln"]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_stage_starts_its_ranks_by_itself(shards: Path, tmp_path: Path) -> None:
    """Two of them, since another number would be refused (above)."""
    done = stage(tmp_path, shards, devices=2)
    assert done.returncode == 0, done.stderr
    _, said = load_model(tmp_path / "models" / "lvln.safetensors")
    assert said.model == "lvln"
    steps = json.loads((tmp_path / "metrics" / "train_lvln.json").read_text())["steps"]
    curve = pd.read_csv(tmp_path / "plots" / "train_lvln.csv")
    assert list(curve["step"]) == list(range(1, steps + 1))
    assert list(pd.read_csv(tmp_path / "plots" / "validation_lvln.csv")["epoch"]) == [0, 1]
    assert len(list((tmp_path / "runs" / "train_lvln" / "tensorboard").glob("events.*"))) == 1
    assert not (tmp_path / "runs" / "train_lvln" / "state.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 8])
def test_ranks_do_not_outlive_the_stage(shards: Path, tmp_path: Path, seconds: float) -> None:
    """Killed by SIGKILL as soon as it has started them, or later, when they train: nobody would stop them."""
    make_project(tmp_path, shards, devices=2)
    tree = YAML(typ="safe").load((tmp_path / "params.yaml").read_text())
    tree["train"]["lvln"]["curriculum"] = [{"fps": 10, "epochs": 500}]
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)
    process = psutil.Popen([sys.executable, "-m", "stages.train", "lvln"], cwd=tmp_path, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while len(ranks := process.children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(seconds)
    process.kill()
    process.wait()
    assert len(ranks) == 2
    _, alive = psutil.wait_procs(ranks, timeout=40)
    for rank in alive:
        rank.kill()
    assert not alive


def test_the_stage_says_how_to_start_several_machines(shards: Path, tmp_path: Path) -> None:
    done = stage(tmp_path, shards, devices=4, nodes=2)
    assert done.returncode == 1
    assert "train.lvln.hardware.nodes: 2" in done.stderr
    assert "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 4" in done.stderr
    assert "-m stages.train lvln, and then record its result with: dvc commit -f train@lvln" in done.stderr
