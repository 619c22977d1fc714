"""What each lever of lvln_warp gives: one change at a time, several seeds, on the validation groups.

    python -m benchmarks.ablations [--shards data/shards] [--seeds 0 1 2] [--out benchmarks/ablations.json]

A row is section train.lvln_warp of params.yaml with one change, what `dvc exp run -S train.lvln_warp.<key>=<value>`
does, trained on CURRICULUM, which is shorter than the section's own. A run that is there already (runs/ablations), of
the same code and data, is not done again. Writes mean and standard deviation over the seeds, for README's table.
"""

import argparse
import hashlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.measure import device_name, environment
from pipeline.evaluation.score import EvaluateConfig, score
from pipeline.experiments.trial import start
from pipeline.params import from_dict, load_section, read_yaml
from pipeline.results import write_metrics
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.video.shards import RATES, open_videos

NAME = "lvln_warp"
CURRICULUM = [{"fps": 10, "epochs": 2}]
RUNS = Path("runs/ablations")
OFF = {"dssim": 0.0, "l1": 0.0, "l2": 0.0, "ms_dssim": 0.0, "laplacian": 0.0, "gradient": 0.0}
ROWS: dict[str, dict[str, object]] = {  # what it is -> dotted keys of the section, and their values
    "as it is": {},
    "adds a colour instead of moving pixels": {"net.output": "residual"},
    "redraws, as the report": {"net.output": "redraw"},
    "no observed flow": {"net.observed_flow": False},
    "cost volume, radius 4": {"net.cost_volume": 4},
    "cost volume instead of observed flow": {"net.cost_volume": 4, "net.observed_flow": False},
    "batch norm": {"net.norm": "batch"},
    "no ICNR": {"net.icnr": False},
    "no loss on seeds": {"observed_loss": 0.0},
    "second output, as the report's code (no loss on seeds)": {"observed_loss": 0.0, "feeding": "second_output"},
    "the report's loss": {"loss": OFF | {"dssim": 0.6, "l1": 0.3, "l2": 0.1}},
    "Laplacian pyramid": {"loss": OFF | {"laplacian": 1.0}},
    "MS-SSIM, L1, gradient difference": {"loss": OFF | {"ms_dssim": 0.4, "l1": 0.4, "gradient": 0.2}},
    "no mirroring, no reversal": {"clips.flip": False, "clips.reverse": False},
    "crops down to 0.8": {"clips.crop": 0.8},
    "random stride up to 2": {"clips.stride": 2},
    "reverse scheduled sampling": {"sampling": {"own_seeds": 0.5, "true_frames": 0.5, "steps": 60}},
    "running mean of the weights": {"optimizer.ema": 0.98},
}
SHOWN = ("psnr", "ssim", "psnr_moving", "nyquist_ratio", "gradient_ratio")


def changed(changes: Mapping[str, object], *, seed: int) -> TrainConfig:
    """The section of params.yaml with these changes, CURRICULUM and the seed."""
    section = read_yaml("params.yaml")["train"][NAME]
    for key, value in {"curriculum": CURRICULUM, "seed": seed, **changes}.items():
        *path, last = key.split(".")
        node = section
        for name in path:
            node = node[name]
        node[last] = value
    return from_dict(section, TrainConfig, where=f"train.{NAME}")


def run(config: TrainConfig, evaluation: EvaluateConfig, shards: Path, folder: Path) -> dict[str, object]:
    """Trains and scores: {predictor: {metric: {step ahead: value}}}."""
    fabric, net, card = start(NAME, config)
    train(fabric, net, config, {rate: shards / str(rate) for rate in RATES}, name=NAME, run=folder)
    table, _ = score(net, card, open_videos(shards / str(evaluation.fps), "validation"), evaluation)
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()  # the state
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ablations.json"))
    arguments = parser.parse_args()
    evaluation = load_section("params.yaml", "evaluate", EvaluateConfig)
    digest = hashlib.sha256(repr(evaluation).encode())
    for file in (*sorted(Path("pipeline").rglob("*.py")), *sorted(arguments.shards.rglob("*.tar"))):
        digest.update(file.read_bytes())
    found: dict[str, list[dict]] = {row: [] for row in ROWS}
    for seed in arguments.seeds:
        for number, (row, changes) in enumerate(ROWS.items()):
            config = changed(changes, seed=seed)
            folder = RUNS / f"{number}_{seed}"
            kept = RUNS / f"{number}_{seed}.json"
            mark = f"{config!r} {digest.hexdigest()}"
            if not kept.exists() or json.loads(kept.read_text())["made_of"] != mark:
                print(f"seed {seed}: {row}", flush=True)
                write_metrics(kept, {"made_of": mark, **run(config, evaluation, arguments.shards, folder)})
            found[row].append(json.loads(kept.read_text()))
    rows = {
        row: {
            "number": number,
            "changes": ROWS[row],
            "runs": len(tables),
            "first_resembles": [resembled(table["resembles"]["1"]) for table in tables],  # of each seed
            **{metric: spread([table["model"][metric] for table in tables]) for metric in SHOWN},
        }
        for number, (row, tables) in enumerate(found.items())
    }
    data = found["as it is"][0]["data"] | {"split": "validation", "seeds_of_training": arguments.seeds}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = {
        "curriculum": CURRICULUM,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": environment("torch", "torchvision", "lightning", "opencv-python-headless"),
    }
    write_metrics(arguments.out, {"rows": rows, "data": data, "made": made})


def resembled(psnr: dict[str, float]) -> int:
    """The frame of the clip, from 0, that a prediction is most like; {frame: PSNR}."""
    return int(max(psnr, key=psnr.get))


def spread(values: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The values of several runs, by step ahead -> their mean and standard deviation."""
    return {
        step: {
            "mean": statistics.mean(value[step] for value in values),
            "std": statistics.stdev(value[step] for value in values) if len(values) > 1 else 0.0,
        }
        for step in values[0]
    }


if __name__ == "__main__":
    main()
