"""How long a model trains until it beats motion carried on: the figure to race against.

    python -m benchmarks.time_to_beat lvln_warp [--shards data/shards] [--minutes 15] [--as default]

Trains train.<model> of params.yaml on the rate that section evaluate scores, from the same start as the train stage,
with the learning rate held after the warm-up and without scheduled sampling. Now and then it scores the validation
groups, one frame ahead and in float32, as the evaluate stage does. It stops at the first score whose gain over constant
velocity, in the PSNR of moving pixels, paired frame by frame, has a 95 % interval above 0 (over groups), or when the
minutes are over. Minutes are those of training, the loader included and scoring not; on a CPU with as many threads as
OMP_NUM_THREADS says.

Writes the rows of this model and data in plots/time_to_beat.csv anew, a row a score. --as: what they are called there.
"""

import argparse
import os
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path

import pandas as pd
import torch

from benchmarks.cases import endless_batches, make_net
from benchmarks.measure import device_name, environment, report
from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.evaluation.metrics import over
from pipeline.evaluation.score import EvaluateConfig, baselines_for, score_clips
from pipeline.hardware import HardwareConfig
from pipeline.results import write_table
from pipeline.settings import load_section
from pipeline.training.config import TrainConfig
from pipeline.training.devices import make_fabric
from pipeline.training.loop import phase_clips
from pipeline.training.step import Step, learning_rate

FIRST, GROWTH = 10, 1.15  # steps before the first score, and how much further each next one is
GAIN = over("moving", "psnr")

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a section of train in params.yaml")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="the decode stage's, a folder a rate")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, at most")
    parser.add_argument("--as", dest="data", default="default", help="name of the data in the table")
    parser.add_argument("--out", type=Path, default=Path("plots/time_to_beat.csv"))
    given = parser.parse_args()
    rows = []
    for row in scores(given.model, given.shards, minutes=given.minutes):
        rows.append({"data": given.data, "model": given.model, **row})
        print(
            "{steps} steps, {minutes:.2f} minutes: {gain:+.2f} dB [{low:+.2f}, {high:+.2f}]".format(**row), flush=True
        )
    if given.out.exists():
        others = pd.read_csv(given.out)
        others = others[(others["data"] != given.data) | (others["model"] != given.model)]
        rows = sorted(others.to_dict("records") + rows, key=lambda row: (row["data"], row["model"], row["steps"]))
    write_table(given.out, rows)


def scores(model: str, shards: Path, *, minutes: float) -> Iterator[Row]:
    """steps, minutes, gain (dB), low, high of every score, until the gain is above 0 or the minutes are over."""
    config, evaluate = load_section(f"train.{model}", TrainConfig), load_section("evaluate", EvaluateConfig)
    machine = load_section("hardware", HardwareConfig)
    fabric = make_fabric(machine, height=config.height, width=config.width)
    net, card = make_net(model, config), config.card(model, {}, test_digest="")
    folder = shards / str(evaluate.fps)
    clips, _ = phase_clips(config, folder)
    held_back = Clips(open_videos(folder, "validation"), length=card.context + 1, spacing=evaluate.spacing)
    evaluate = replace(evaluate, horizon=1)
    beside = baselines_for(card, held_back, evaluate, workers=len(os.sched_getaffinity(0)))
    step = Step(fabric, net, config, compile=machine.compile)
    batches = endless_batches(clips, config, machine, fabric.device)
    seconds, following = 0.0, 0
    for number in count():
        if number == following or seconds > 60 * minutes:
            scored = deepcopy(step.eval_net)
            scored.encoder.fuse(None)
            table, _ = score_clips(scored, card, held_back, evaluate, beside, device=fabric.device)
            ends = {"gain": "", "low": "_low", "high": "_high"}
            try:
                gain = {name: table["model_over_constant_velocity"][f"{GAIN}{end}"]["1"] for name, end in ends.items()}
            except KeyError as error:
                raise SystemExit(f"there is no such gain: {table['data']['skipped']}") from error
            yield {"steps": number, "minutes": seconds / 60, **gain}
            if gain["low"] > 0 or seconds > 60 * minutes:
                break
            following = max(FIRST, round(number * GROWTH))
        begun = time.perf_counter()
        batch = next(batches)
        float(step(batch, lr=learning_rate(config.optimizer, number), clips_of_all=len(batch))[0])
        seconds += time.perf_counter() - begun
    report({"device": device_name(fabric.device), "threads": torch.get_num_threads(), **environment("torch")})


if __name__ == "__main__":
    main()
