"""Clips a second of the stage evaluate: a model with random weights and the baselines, scored on stored clips.

    python -m benchmarks.evaluate --shards DIR [--model lvln_warp] [--size 128x160] [--clips 128]

DIR holds validation-*.tar, such as data/shards/10. The baselines, which all models share, are timed apart: every core
works on them. Reading and decoding JPEGs is counted. One batch is scored before the clock starts.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks.cases import add_case, make_config, make_net
from benchmarks.measure import device_name, environment, report
from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.evaluation.score import EvaluateConfig, baselines_for, score_clips
from pipeline.hardware import pick_device

FPS = 10
EVALUATION = EvaluateConfig(
    fps=FPS,
    horizon=3,
    spacing=7,
    batch=32,
    moving_threshold=0.1,
    lpips=None,
    bootstrap=1000,
    seed=0,
    curriculum_clips=1,
    pictures=4,
)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=128 if on_gpu else 32, help="to score, at most")
    add_case(parser, size="128x160" if on_gpu else "64x64", channels=64 if on_gpu else 16)
    given = parser.parse_args()
    config, device = make_config(given), pick_device("auto")
    net, card = make_net(given.model, config).eval().to(device), config.card(given.model, {}, test_digest="")
    videos, cut = open_videos(given.shards, "validation"), {"length": card.context + EVALUATION.horizon}

    def score(count: int) -> tuple[float, float, dict]:
        """Clips a second of the baselines and of the model, and what the table says of its data."""
        clips = Clips(videos, spacing=EVALUATION.spacing, at_most=count, **cut)
        begun = time.perf_counter()
        beside = baselines_for(card, clips, EVALUATION, workers=len(os.sched_getaffinity(0)))
        half = time.perf_counter()
        table, _ = score_clips(net, card, clips, EVALUATION, beside, device=device)  # ends with numbers, so no wait
        return len(clips) / (half - begun), len(clips) / (time.perf_counter() - half), table["data"]

    score(EVALUATION.batch)
    baselines, model, data = score(given.clips)
    report(
        {
            "case": {"model": given.model, "size": given.size, "channels": given.channels, "clips": data["clips"]},
            "baselines_clips_per_s": baselines,
            "model_clips_per_s": model,
            "skipped": data["skipped"],
            "device": device_name(device),
            "environment": environment("torch", "opencv-python-headless"),
        }
    )


if __name__ == "__main__":
    main()
