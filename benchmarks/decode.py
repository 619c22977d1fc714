"""The whole decode stage against the bare program, the floor, and what one would otherwise use.

    python -m benchmarks.decode --root DIR     DIR holds UCF-101/ and ucfTrainTestlist/

Alternating, on the same files (DIR's, linked in turn until there are --videos, so that starting up is a small part)
and with the same number of processes:

    stage    `python -m stages.decode`: three rates of shards, digests, manifest, the accounts checked
    bare     one ffmpeg a video: decode, scale and JPEG-encode every frame once, output discarded
    floor    one ffmpeg a video: decode alone

and then, on a sample of the videos, two peers that make the same three rates of JPEGs and discard them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from io import BytesIO
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import imageio_ffmpeg
from ruamel.yaml import YAML

from benchmarks.measure import Cost, cost_of_children, environment, report
from pipeline.clips.shards import RATES
from pipeline.datasets.lists import read_split
from pipeline.datasets.source import SourceConfig, fetch
from pipeline.settings import from_dict, overlay
from stages.preset import with_preset

PROJECT = Path(__file__).parents[1]
HEIGHT, WIDTH = 128, 160
BARE = ["-an", "-vf", f"scale={WIDTH}:{HEIGHT}:flags=bicubic", "-c:v", "mjpeg", "-q:v", "3", "-f", "mjpeg", "-"]
FLOOR = ["-an", "-f", "null", "-"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds UCF-101/ and ucfTrainTestlist/")
    parser.add_argument("--videos", type=int, default=1000, help="links to the videos of DIR, in turn (0: 13,320)")
    parser.add_argument("--rounds", type=int, default=2, help="times that stage, bare and floor alternate")
    parser.add_argument("--videos-per-shard", type=int, default=16, help="small, so that few videos share evenly")
    parser.add_argument("--sample", type=int, default=60, help="videos for the peers")
    parser.add_argument("--work", type=Path, help="folder for the shards (default: a temporary one)")
    arguments = parser.parse_args()

    processes = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        linked = link_all(arguments.root, Path(folder, "linked"), count=arguments.videos)
        files = sorted((linked / "UCF-101").glob("*/*.avi"))
        (project := Path(folder, "project")).mkdir()
        make_project(project, linked, videos_per_shard=arguments.videos_per_shard)
        jobs: dict[str, Callable[[], object]] = {
            "stage": partial(run_stage, project),
            "bare": partial(run_ffmpeg, files, BARE, processes),
            "floor": partial(run_ffmpeg, files, FLOOR, processes),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in jobs}
        for turn in range(arguments.rounds):
            for name, job in jobs.items():
                cost = cost_of_children(job)
                costs[name].append(cost)
                print(f"round {turn + 1}  {name:5}  wall {cost.wall:6.2f} s  CPU {cost.cpu:6.2f} s", flush=True)
    total = {
        name: Cost(sum(cost.wall for cost in found), sum(cost.cpu for cost in found)) for name, found in costs.items()
    }
    stage, bare, floor = total["stage"], total["bare"], total["floor"]
    sample = sorted((arguments.root / "UCF-101").glob("*/*.avi"))
    sample = sample[:: max(1, len(sample) // arguments.sample)]
    report(
        {
            "videos": len(files),
            "rounds": arguments.rounds,
            "processes": processes,
            "videos_per_s": len(files) * arguments.rounds / stage.wall,
            "ratio_to_bare": stage.wall / bare.wall,
            "ratio_to_bare_cpu": stage.cpu / bare.cpu,
            "ratio_to_decode_only": stage.wall / floor.wall,
            "ratio_to_decode_only_cpu": stage.cpu / floor.cpu,
            "seconds": {name: asdict(cost) for name, cost in total.items()},
            "peers": {name: measure_peer(name, sample, processes) | {"videos": len(sample)} for name in PEERS},
            "environment": environment("imageio-ffmpeg", "av", "opencv-python-headless", "pillow"),
        }
    )


def link_all(root: Path, linked: Path, *, count: int, classes: int = 101) -> Path:
    """A folder in UCF101's layout whose videos are links to those of `root`, in turn, under listed names of split 1, of
    the first so many classes: `count` of them, spread over the lists, or with 0 all."""
    clips = sorted((root / "UCF-101").glob("*/*.avi"))
    if not clips:
        raise SystemExit(f"--root: no {root / 'UCF-101'}/<Class>/*.avi")
    split = read_split(root / "ucfTrainTestlist", 1)
    names = sorted(split.train | split.test)
    first = sorted({name.split("/")[0] for name in names})[:classes]
    names = [name for name in names if name.split("/")[0] in first]
    if count:
        names = names[:: max(1, len(names) // count)][:count]
    for name, clip in zip(names, cycle(clips), strict=False):
        link = linked / "UCF-101" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(clip.resolve())
    (linked / "ucfTrainTestlist").symlink_to((root / "ucfTrainTestlist").resolve())
    return linked


def make_project(folder: Path, root: Path, **decode: object) -> Path:
    """A working folder in which `python -m stages.decode` finds the videos of `root` as stage fetch leaves them."""
    tree = with_preset(PROJECT / "presets" / "ucf101.yaml", PROJECT / "params.yaml")
    videos = {"root": str(root / "UCF-101"), "lists": str(root / "ucfTrainTestlist")}
    overlay(tree, {"source": {"kind": "folder", "folder": videos}, "decode": decode})
    with (folder / "params.yaml").open("w") as params:
        YAML().dump(tree, params)
    source = from_dict(tree["source"], SourceConfig, where="source")
    fetch(source, folder / "data" / "raw", downloads=folder)
    return folder


def run_stage(project: Path) -> None:
    """The stage as DVC starts it."""
    environ = os.environ | {"PYTHONPATH": str(PROJECT)}
    subprocess.run(
        [sys.executable, "-m", "stages.decode"], cwd=project, env=environ, check=True, stderr=subprocess.DEVNULL
    )


def run_ffmpeg(files: Sequence[Path], options: Sequence[str], processes: int) -> None:
    """One single-threaded ffmpeg a file, output discarded."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-threads", "1", "-i"]

    def one(file: Path) -> None:
        subprocess.run([*program, str(file), *options], stdout=subprocess.DEVNULL, check=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, files))


def measure_peer(name: str, files: Sequence[Path], processes: int) -> dict[str, object]:
    """Videos a second of a peer, its imports not counted."""
    try:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(PEERS[name], files[:processes]))
            start = time.perf_counter()
            list(pool.map(PEERS[name], files))
            return {"videos_per_s": len(files) / (time.perf_counter() - start)}
    except ImportError as error:
        return {"videos_per_s": "not measured", "why": str(error)}


def with_pyav(file: Path) -> int:
    """PyAV frame by frame: resize, keep the frames of the three rates, JPEG; returns the bytes."""
    import av

    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate)
        size = 0
        for number, frame in enumerate(container.decode(stream)):
            image = frame.reformat(width=WIDTH, height=HEIGHT).to_image()
            for _ in range(times_kept(number, fps)):
                out = BytesIO()
                image.save(out, "JPEG", quality=95)
                size += out.tell()
        return size


def with_opencv(file: Path) -> int:
    """OpenCV: decode once, resize and JPEG-encode each frame that any rate keeps once; returns the bytes."""
    import cv2

    cv2.setNumThreads(1)
    video = cv2.VideoCapture(str(file))
    fps, size, number = video.get(cv2.CAP_PROP_FPS), 0, 0
    while True:
        there, frame = video.read()
        if not there:
            return size
        if kept := times_kept(number, fps):
            small = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            size += kept * len(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
        number += 1


def times_kept(number: int, fps: float) -> int:
    """In how many of the three rates source frame `number` is, by its number and the nominal rate."""
    return sum(int((number + 1) * rate / fps) > int(number * rate / fps) for rate in RATES)


PEERS = {"pyav": with_pyav, "opencv": with_opencv}

if __name__ == "__main__":
    main()
