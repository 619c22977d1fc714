"""The generated data set "orders": small real videos in UCF101's layout whose classes differ only by order.

A textured sprite over a still background (sprites.py) makes five movements in turn, over and over: Slide (right and
back), Lift (up and back), Turn (clockwise and back), Zoom (larger and back) and Rest, which is none. A class is a
cyclic order of the five. A video begins with one of them, drawn, and goes on for a cycle or more:

    frame within a movement, of five    0 1 2 3 4
    steps away from where it began      0 2 3 3 2

Nothing but the order of many frames tells the class:

- Background, sprite, start, speeds and the place in the cycle where a video begins are drawn without the class. The
  eight videos of a group and clip visit the same states in a cycle, each as often: before they are encoded, its frames
  in no order are the same frames.
- At 25, 15 and 10 fps a movement's first frame, at which the sprite is where it began, is among those shown. So no pair
  of neighbouring frames belongs to two movements, and every movement is equally likely at every place of a video, in
  every class: the flow of one pair has the same distribution in all of them.

There are 24 cyclic orders. The eight are four and their time reversals, for a movement that comes back the way it went
is its own reversal: whether a video runs forwards matters too.
"""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from pipeline.datasets import sprites
from pipeline.datasets.folder import table_in
from pipeline.datasets.sprites import PERIODS, SPEEDS, SpritesConfig
from pipeline.settings import section

# the sense along x, y, angle and octave
MOVEMENTS = {
    "Slide": (+1, 0, 0, 0),
    "Lift": (0, -1, 0, 0),
    "Turn": (0, 0, +1, 0),
    "Zoom": (0, 0, 0, +1),
    "Rest": (0, 0, 0, 0),
}
AWAY = (0, 2, 3, 3, 2)  # steps from where a movement began, at each of its frames
# after each comes Rest, and then the first movement again
FORWARDS = (
    ("Slide", "Lift", "Turn", "Zoom"),
    ("Slide", "Turn", "Zoom", "Lift"),
    ("Slide", "Zoom", "Lift", "Turn"),
    ("Lift", "Slide", "Zoom", "Turn"),
)
ORDERS = {"".join(order): (*order, "Rest") for order in (*FORWARDS, *(order[::-1] for order in FORWARDS))}
CLASSES = tuple(sorted(ORDERS))


@section
class OrdersConfig(SpritesConfig):
    """Section `source.orders`."""

    frames: Annotated[int, Field(ge=25, multiple_of=5)]  # per video, at 25 fps: whole movements, at least a cycle


def make_table(config: OrdersConfig, raw: Path) -> pd.DataFrame:
    """Generates the videos in the folder `raw`, on all cores."""
    generate(config, raw, workers=len(os.sched_getaffinity(0)))
    return table_in(raw)


def generate(config: OrdersConfig, folder: Path, *, workers: int) -> None:
    """Writes the videos and the lists, as sprites.generate does."""
    sprites.generate(config, CLASSES, render, folder, workers=workers, title="orders")


def render(config: OrdersConfig, class_name: str, group: int, clip: int) -> np.ndarray:
    """The frames (T, 240, 320, 3) uint8 of one video; group and clip count from 1."""
    return sprites.render(_rng(config, group, 0), trajectory(config, class_name, group, clip))


def trajectory(config: OrdersConfig, class_name: str, group: int, clip: int) -> np.ndarray:
    """The sprite's state (T, 4) float64 at each frame, as sprites.render takes it."""
    rng = _rng(config, group, clip)
    start, speeds = PERIODS * rng.random(4), rng.uniform(*np.transpose(SPEEDS))
    movement, frame = np.divmod(np.arange(config.frames), len(AWAY))
    movement = (rng.integers(len(MOVEMENTS)) + movement) % len(MOVEMENTS)  # (T,), in the cycle
    steps = speeds * np.array([MOVEMENTS[name] for name in ORDERS[class_name]])  # (5, 4)
    return (start + np.array(AWAY)[frame, None] * steps[movement]) % PERIODS


def _rng(config: OrdersConfig, group: int, clip: int) -> np.random.Generator:
    """A random stream that all classes share, for each clip, and clip 0 for the scene that the group's clips share."""
    return np.random.default_rng([config.seed, group, clip])
