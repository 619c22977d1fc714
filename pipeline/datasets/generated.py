"""What the generated data sets share: videos and lists in UCF101's form.

XviD in AVI, 320 × 240, 25 fps, folder and file names, and the official lists.
"""

import multiprocessing
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
from tqdm import tqdm

from pipeline.results import replacing, write_text

HEIGHT, WIDTH, FPS = 240, 320, 25

Name = tuple[str, int, int]  # of a video: class, group, clip


def file_name(class_name: str, group: int, clip: int) -> str:
    """A video's line in the lists, and its path in the folder of videos."""
    return f"{class_name}/v_{class_name}_g{group:02}_c{clip:02}.avi"


def write_lists(
    folder: Path, classes: Sequence[str], names: Sequence[Name], tested: Mapping[int, Collection[int]]
) -> None:
    """Writes classInd.txt and each split's lists, with CRLF as the official. tested: {split: groups to test on}."""
    labels = {class_name: label for label, class_name in enumerate(classes, start=1)}

    def write(list_name: str, lines: list[str]) -> None:
        write_text(folder / list_name, "".join(f"{line}\r\n" for line in lines))

    write("classInd.txt", [f"{label} {class_name}" for class_name, label in labels.items()])
    for split, groups in tested.items():
        train = [name for name in names if name[1] not in groups]
        test = [name for name in names if name[1] in groups]
        write(f"trainlist{split:02}.txt", [f"{file_name(*name)} {labels[name[0]]}" for name in train])
        write(f"testlist{split:02}.txt", [file_name(*name) for name in test])


def write_all(write: Callable[[Name], None], names: Sequence[Name], folder: Path, *, workers: int, title: str) -> None:
    """Calls write(name) for each video, after making its class folder in `folder`, in so many spawned processes.

    title: of the progress bar. Raises ValueError for workers < 1.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} is out of range; allowed: at least 1")
    for class_name in {name[0] for name in names}:
        (folder / class_name).mkdir(parents=True, exist_ok=True)
    # spawn: a fork of a parent that has loaded torch inherits locked thread pools
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in tqdm(pool.map(write, names), total=len(names), desc=title, unit="video"):
            pass


def encode(frames: np.ndarray, path: Path) -> None:
    """Frames (T, 240, 320, 3) uint8 -> an AVI file at `path`, whole or not at all.

    Raises RuntimeError with the file name and the end of ffmpeg's messages.
    """
    with replacing(path) as unfinished:
        try:
            _command(unfinished).run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=frames.tobytes(), quiet=True)
        except ffmpeg.Error as error:
            raise RuntimeError(f"{path}: ffmpeg failed: {error.stderr.decode(errors='replace')[-1000:]}") from error


def _command(path: Path) -> ffmpeg.nodes.OutputStream:
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{WIDTH}x{HEIGHT}", r=FPS, threads=1)
    # a fixed quantiser: rate control would give the classes, which differ in cost, different image quality
    encoded = source.output(
        str(path),
        format="avi",
        vcodec="libxvid",
        vtag="XVID",
        pix_fmt="yuv420p",
        sws_flags="bicubic+accurate_rnd+bitexact",
        threads=1,
        flags="+bitexact+qscale",
        fflags="+bitexact",
        **{"q:v": 3},
    )
    return encoded.global_args("-loglevel", "error", "-nostdin").overwrite_output()
