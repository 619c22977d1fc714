"""The report's moving circle (section 4): small real videos of a circle that moves horizontally.

A circle of one colour on a plain background moves at one constant speed, to the right or to the left. The report
trains on one such sequence, shifted and mirrored into five:

    CircleRight  g08, g09, g10     in the upper, middle and lower height
    CircleLeft   g08, g10          the mirror images of the first and the last

All other groups hold the same motion at shifts drawn by the seed, in both directions: 1–7 are in the test list, 22–25
in the training list for `decode.validation_groups`, which must name them, to hold back. Heights alone do not tell the
direction, and a model that has the five sequences by heart fails on the others. A circle starts where it stays inside
the image to the end: nothing is cut by an edge, and nothing wraps around.

The three splits have the same lists: with five sequences there is nothing to divide in other ways.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from pipeline.datasets import generated
from pipeline.datasets.folder import LISTS, VIDEOS, table_in
from pipeline.datasets.generated import HEIGHT, WIDTH, Name
from pipeline.settings import Natural, section

DIRECTIONS = {"CircleLeft": -1, "CircleRight": +1}
CLASSES = tuple(DIRECTIONS)
# (start, height), from 0 to 1 of the room there is, of the five; start counts from the side that the circle comes from
SEQUENCES = {
    ("CircleRight", 8): (0.5, 0.1),
    ("CircleRight", 9): (0.0, 0.5),
    ("CircleRight", 10): (1.0, 0.9),
    ("CircleLeft", 8): (0.5, 0.1),
    ("CircleLeft", 10): (1.0, 0.9),
}
TEST_GROUPS, VALIDATION_GROUPS = range(1, 8), range(22, 26)
BACKGROUND, CIRCLE = (40.0, 55.0, 90.0), (240.0, 200.0, 70.0)  # RGB


@section
class CirclesConfig:
    """Section `source.circles`. At 10 fps, where every second or third frame is taken in turn, a speed of 4 is 1.6 and
    2.4 pixels a frame of width 64."""

    seed: Natural  # of the shifts that are not trained on
    diameter: Annotated[float, Field(ge=20, le=120)]  # pixels of 320 × 240
    speed: Annotated[float, Field(ge=1, le=8)]  # pixels a frame at 25 fps
    frames: Annotated[int, Field(ge=20)]  # per video, at 25 fps; 20 are 8 frames at 10 fps

    def __post_init__(self) -> None:
        if self.diameter + self.travel > WIDTH:
            raise ValueError(
                f"diameter {self.diameter:g} and {self.frames - 1} steps of speed {self.speed:g} are "
                f"{self.diameter + self.travel:g} pixels; allowed: at most {WIDTH}, for the circle to stay inside"
            )

    @property
    def travel(self) -> float:
        """Pixels from the first to the last frame."""
        return self.speed * (self.frames - 1)


def names() -> list[Name]:
    """All videos, as (class, group, clip)."""
    held_out = [(class_name, group) for class_name in CLASSES for group in (*TEST_GROUPS, *VALIDATION_GROUPS)]
    return [(*video, 1) for video in sorted([*SEQUENCES, *held_out])]


def make_table(config: CirclesConfig, raw: Path) -> pd.DataFrame:
    """Generates the videos in the folder `raw`, on all cores."""
    generate(config, raw, workers=len(os.sched_getaffinity(0)))
    return table_in(raw)


def generate(config: CirclesConfig, folder: Path, *, workers: int) -> None:
    """Writes folder/UCF-101/<Class>/v_<Class>_gXX_c01.avi and the lists in folder/ucfTrainTestlist.

    The same config gives the same bytes on any number of `workers` (processes, ≥ 1; they are spawned, so a script
    that calls this needs an `if __name__ == "__main__"` guard). Files of the same names are replaced, others kept.
    Raises RuntimeError if ffmpeg fails, ValueError for workers < 1.
    """
    generated.write_lists(folder / LISTS, CLASSES, names(), dict.fromkeys((1, 2, 3), TEST_GROUPS))
    videos = folder / VIDEOS
    generated.write_all(partial(write_video, config, videos), names(), videos, workers=workers, title="circles")


def write_video(config: CirclesConfig, folder: Path, name: Name) -> None:
    """Encodes the video of `name` to folder/<Class>/v_<Class>_gXX_cYY.avi, as generated.encode does."""
    generated.encode(render(config, *name), folder / generated.file_name(*name))


def render(config: CirclesConfig, class_name: str, group: int, clip: int) -> np.ndarray:
    """The frames (T, 240, 320, 3) uint8 of one video; edges are soft over a pixel."""
    rows, columns = np.arange(HEIGHT)[:, None] + 0.5, np.arange(WIDTH) + 0.5
    frames = np.empty((config.frames, HEIGHT, WIDTH, 3), np.uint8)
    for frame, (x, y) in zip(frames, trajectory(config, class_name, group, clip), strict=True):
        distance = np.hypot(columns - x, rows - y)
        inside = np.clip(config.diameter / 2 - distance + 0.5, 0, 1)[..., None]
        frame[:] = (BACKGROUND + inside * np.subtract(CIRCLE, BACKGROUND)).round()
    return frames


def trajectory(config: CirclesConfig, class_name: str, group: int, clip: int) -> np.ndarray:
    """The circle's centre (T, 2) float64 at each frame: x and y in pixels from the upper left corner of 320 × 240."""
    if (class_name, group) in SEQUENCES:
        start, height = SEQUENCES[class_name, group]
    else:
        start, height = np.random.default_rng([config.seed, CLASSES.index(class_name), group, clip]).random(2)
    first = config.diameter / 2 + start * (WIDTH - config.diameter - config.travel)
    x = first + config.speed * np.arange(config.frames)
    if DIRECTIONS[class_name] < 0:
        x = WIDTH - x
    y = config.diameter / 2 + height * (HEIGHT - config.diameter)
    return np.stack([x, np.full_like(x, y)], axis=1)
