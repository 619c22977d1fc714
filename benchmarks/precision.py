"""Whether bf16 learns what float32 learns: two trainings that differ in nothing else.

    python -m benchmarks.precision --shards DIR [--model lvln] [--size 64x96] [--batch 16] [--channels 64] [--steps 500]

DIR holds train-*.tar and validation-*.tar. Both start from the same weights and take their steps in turn, on the same
batches. Their losses are compared as means of a tenth of the steps, and on the validation clips at the end. Float32 is
whole here: a GPU's convolutions would otherwise round their inputs (TF32).
"""

import argparse
import statistics
from itertools import islice
from pathlib import Path

import torch

from benchmarks.cases import COMPILE, add_case, endless_batches, hardware, make_config, make_net
from benchmarks.measure import device_name, environment, report
from pipeline.clips.batches import EpochOrder, batches
from pipeline.training.devices import make_fabric
from pipeline.training.loop import phase_clips
from pipeline.training.step import Step

PRECISIONS = {"bf16": "bf16-mixed", "float32": "32-true"}
PARTS = 10  # of the steps, each a mean


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500 if on_gpu else 50, help="a multiple of ten")
    parser.add_argument("--workers", type=int, default=8 if on_gpu else 0, help="loader processes")
    add_case(parser, size="64x96" if on_gpu else "64x64", channels=64 if on_gpu else 8)
    given = parser.parse_args()
    if given.steps < PARTS or given.steps % PARTS:
        parser.error(f"--steps: {given.steps} is not a multiple of {PARTS}")
    torch.backends.cudnn.allow_tf32 = False
    config = make_config(given)
    clips, held_back = phase_clips(config, given.shards)
    steps = {}
    for name, precision in PRECISIONS.items():
        machine = hardware(workers=given.workers, precision=precision, compile=COMPILE[given.compile])
        fabric = make_fabric(machine, height=config.height, width=config.width)
        steps[name] = Step(fabric, make_net(given.model, config), config, compile=machine.compile)
    device = fabric.device
    losses = {name: [] for name in steps}
    for batch in islice(endless_batches(clips, config, machine, device), given.steps):
        for name, step in steps.items():
            losses[name].append(step(batch, lr=config.optimizer.lr, clips_of_all=len(batch))[0])
    curves = {name: [part.mean().item() for part in torch.stack(each).chunk(PARTS)] for name, each in losses.items()}
    order = EpochOrder(len(held_back), config.batch, shuffle=False)
    validated = {name: [] for name in steps}
    for batch in batches(held_back, order, machine, device):
        for name, step in steps.items():
            validated[name] += step.evaluate(batch).tolist()
    report(
        {
            "case": {"model": given.model, "size": given.size, "batch": given.batch, "channels": given.channels},
            "steps": given.steps,
            "loss": curves,
            "loss_off_most": max(abs(a - b) / b for a, b in zip(curves["bf16"], curves["float32"], strict=True)),
            "validation_loss": {name: statistics.fmean(each) for name, each in validated.items()},
            "device": device_name(device),
            "environment": environment("torch", "lightning"),
        }
    )


if __name__ == "__main__":
    main()
