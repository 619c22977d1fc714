"""The decode stage once over a data set of UCF101's full size: time, peak memory, shard sizes.

    python -m benchmarks.full_scale --root DIR --work DIR     about 50 GB are written below --work, and deleted

Every one of the 13,320 listed names becomes a link to one of the videos in DIR/UCF-101, in turn: the work is that of
the full data set, the contents repeat (which the stage notices and says).
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.decode import PROJECT, link_all, make_project
from benchmarks.measure import environment, report
from pipeline.clips.shards import RATES

MIB = 2**20
COUNTED = ("videos.", "frames.")  # of plots/decode.csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds UCF-101/ and ucfTrainTestlist/")
    parser.add_argument("--work", type=Path, required=True, help="a folder on a disk with 50 GB free")
    parser.add_argument("--videos", type=int, default=0, help="at most this many; 0: all that are listed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        linked = link_all(arguments.root, Path(folder, "linked"), count=arguments.videos)
        (project := Path(folder, "project")).mkdir()
        make_project(project, linked)
        report(measure(project) | {"environment": environment("imageio-ffmpeg", "simplejpeg")})


def measure(project: Path) -> dict[str, object]:
    """Runs the stage; its figures and those of its results."""
    start = time.perf_counter()
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.decode"], cwd=project, env=os.environ | {"PYTHONPATH": str(PROJECT)}
    )
    together = largest = 0
    while stage.poll() is None:
        sizes = memory_of(psutil.Process(stage.pid))
        together, largest = max(together, sum(sizes)), max(largest, *sizes, 0)
        time.sleep(1)
    seconds = time.perf_counter() - start
    if stage.returncode:
        raise SystemExit(f"the stage ended with {stage.returncode}")
    with (project / "plots" / "decode.csv").open() as stream:
        counts = {row["name"]: int(row["value"]) for row in csv.DictReader(stream) if row["name"].startswith(COUNTED)}
    shards = {rate: [file.stat().st_size for file in (project / "data/shards" / str(rate)).iterdir()] for rate in RATES}
    return {
        **counts,
        "seconds": seconds,
        "videos_per_s": counts["videos.good"] / seconds,
        "source_frames_per_s": counts["frames.source"] / seconds,
        "peak_memory_mib": {"all_processes": together / MIB, "largest_process": largest / MIB},
        "shards": {
            str(rate): {"files": len(sizes), "gib": sum(sizes) / 2**30, "largest_mib": max(sizes) / MIB}
            for rate, sizes in shards.items()
        },
    }


def memory_of(stage: psutil.Process) -> list[int]:
    """Bytes of each process of the stage, what they share divided among them."""
    sizes = []
    for process in [stage, *stage.children(recursive=True)]:
        try:
            sizes.append(process.memory_full_info().pss)
        except psutil.Error:  # it has ended meanwhile
            continue
    return sizes


if __name__ == "__main__":
    main()
