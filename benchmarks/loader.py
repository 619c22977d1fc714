"""Clips a second from shards, against bare JPEG decoding of the same bytes.

    python -m benchmarks.loader --shards DIR     DIR holds train-*.tar, such as data/shards/25
    python -m benchmarks.loader --root DIR       makes them first, at 128×160, from DIR/UCF-101 and DIR/ucfTrainTestlist

Clips of six frames, shuffled, in batches. One process on one thread; `torchvision.io.decode_jpeg` decodes the same
frames from memory in the same run, ten batches each in turn. Then the loader with a worker a core; and where there is a
GPU, its batched decoder on the same bytes.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.measure import environment, report
from pipeline.clips.batches import EpochOrder, load, load_encoded
from pipeline.clips.clips import Clips, decode_jpegs
from pipeline.clips.shards import open_videos

LENGTH, BATCH = 6, 16
TURN = 10  # batches, before the other's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--shards", type=Path, help="a folder with train-*.tar")
    given.add_argument("--root", type=Path, help="holds UCF-101/ and ucfTrainTestlist/")
    parser.add_argument("--batches", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.shards:
        measure(arguments.shards, arguments.batches)
    else:
        from benchmarks.decode import make_project, run_stage  # needs DVC, which a GPU machine may lack

        with tempfile.TemporaryDirectory() as folder:
            run_stage(make_project(Path(folder), arguments.root, videos_per_shard=8))
            measure(Path(folder) / "data" / "shards" / "25", arguments.batches)


def measure(shards: Path, batches: int) -> None:
    """Prints the figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clips = Clips(open_videos(shards, "train"), length=LENGTH, spacing=1)
    order = EpochOrder(len(clips), BATCH)
    batches = min(batches, len(order)) // TURN * TURN
    if not batches:
        raise SystemExit(f"{shards}: {len(clips)} clips are too few for {TURN} batches of {BATCH}")

    ours = bare = 0.0
    loaded, encoded = iter(load(clips, order)), load_encoded(clips, order)
    for _ in range(0, batches, TURN):
        in_memory = [next(encoded)[0] for _ in range(TURN)]
        start = time.perf_counter()
        for _ in range(TURN):
            frames = next(loaded)
        ours += time.perf_counter() - start
        start = time.perf_counter()
        for jpegs in in_memory:
            for jpeg in jpegs:
                decode_jpeg(jpeg, mode=ImageReadMode.RGB)
        bare += time.perf_counter() - start

    cores = len(os.sched_getaffinity(0))
    with_workers = iter(load(clips, order, workers=cores))
    next(with_workers)  # the workers have started
    start = time.perf_counter()
    for _ in range(batches - 1):
        next(with_workers)
    together = (batches - 1) * BATCH / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    report(
        {
            "clips": batches * BATCH,
            "frames": [LENGTH, *frames.shape[-2:]],
            "bytes_per_frame": sum(map(len, jpegs)) / len(jpegs),
            "clips_per_s": batches * BATCH / ours,
            "bare_clips_per_s": batches * BATCH / bare,
            "fraction_of_decode": bare / ours,
            "workers": {"workers": cores, "clips_per_s": together, "clips_per_s_per_core": together / cores},
            "gpu": measure_gpu(clips, order, batches),
            "environment": environment("torch", "torchvision"),
        }
    )


def measure_gpu(clips: Clips, order: EpochOrder, batches: int) -> dict[str, object] | str:
    """Clips a second of the GPU's batched decoder, from encoded batches in memory; and how far its pixels are off."""
    if not torch.cuda.is_available():
        return "not measured: no GPU"
    encoded = [jpegs for (jpegs, _), _ in zip(load_encoded(clips, order), range(batches), strict=False)]
    try:
        decode_jpegs(encoded[0], "cuda")
    except RuntimeError as error:  # a torchvision or GPU without the decoder must not cost the other figures
        return f"failed: {error}".splitlines()[0]
    torch.cuda.synchronize()
    start = time.perf_counter()
    for jpegs in encoded:
        frames = decode_jpegs(jpegs, "cuda")
    torch.cuda.synchronize()
    rate = len(encoded) * BATCH / (time.perf_counter() - start)
    off = (frames.cpu().int() - decode_jpegs(encoded[-1]).int()).abs().float()
    return {
        "device": torch.cuda.get_device_name(),
        "clips_per_s": rate,
        "levels_off_mean": off.mean().item(),
        "levels_off_most": off.max().item(),
    }


if __name__ == "__main__":
    main()
