"""Whether an interruption changes the result, and by how much.

    python -m benchmarks.resume --shards DIR [--model lvln] [--size 64x96] [--batch 16] [--channels 64]

DIR holds train-*.tar and validation-*.tar. Three runs of the training loop side by side, each in a process of its own:
two that are left alone, and one that is killed (SIGKILL) after its first save and started again. On a CPU all three end
with the same loss curve and weights, bit for bit. A GPU adds in varying order: there the first two show how far runs
lie apart anyway, and the interrupted one should lie no further.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.cases import COMPILE, add_case, hardware, make_config, make_net
from benchmarks.measure import device_name, environment, report
from pipeline.training.devices import make_fabric
from pipeline.training.loop import STATE, train


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    add_case(parser, size="64x96" if on_gpu else "64x64", channels=64 if on_gpu else 8)
    parser.add_argument("--clips", type=int, default=1600 if on_gpu else 160, help="an epoch, of which there are two")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # a child: trains in this folder
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments)
    else:
        compare(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Trains and prints what came out as one line."""
    config = make_config(arguments, clips={"overfit": arguments.clips}, curriculum=[{"fps": 10, "epochs": 2}])
    machine = hardware(workers=2, checkpoint_minutes=1 / 60, compile=COMPILE[arguments.compile])
    fabric = make_fabric(machine, height=config.height, width=config.width)
    net = make_net(arguments.model, config)
    record, _ = train(fabric, net, config, machine, {10: arguments.shards}, name=arguments.model, run=arguments.run)
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    curve = [row["loss"] for row in (*record.curve, *record.validation)]
    print(json.dumps({"curve": curve, "steps": record.step, "weights": digest.hexdigest()}))


def compare(arguments: argparse.Namespace) -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as work, children() as start:
        undisturbed = [start(Path(work, name)) for name in ("first", "second")]
        process, state = start(Path(work, "killed")), Path(work, "killed", STATE)
        while process.poll() is None and not state.exists():
            time.sleep(0.01)
        if process.poll() is not None:
            raise SystemExit("the run ended before it saved its state; give it more --clips")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        at = torch.load(state, weights_only=True, map_location="cpu")["progress"]["step"]
        third = start(Path(work, "killed"))
        first, second, third = (finish(each) for each in (*undisturbed, third))
    others = {"undisturbed": second, "killed": third}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report(
        {
            "steps": first["steps"],
            "killed_after_saving_step": at,
            "same_weights": {name: first["weights"] == other["weights"] for name, other in others.items()},
            "loss_off_most": {name: apart(first, other) for name, other in others.items()},
            "device": device_name(device),
            "environment": environment("torch", "lightning"),
        }
    )


@contextmanager
def children() -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Starts the same command once more, as a child that trains in a folder. Children do not outlive the block, nor
    this process if it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started: list[subprocess.Popen] = []

    def start(folder: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "benchmarks.resume", *sys.argv[1:], "--run", str(folder)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def finish(process: subprocess.Popen) -> dict[str, object]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run failed with {process.returncode}")
    return json.loads(output.splitlines()[-1])


def apart(a: dict, b: dict) -> float:
    """The largest difference between two curves, as a part of the value."""
    return max(abs(x - y) / x for x, y in zip(a["curve"], b["curve"], strict=True))


if __name__ == "__main__":
    main()
