"""The stand-in data set "motions": small real videos in UCF101's layout whose classes differ only by motion.

A textured sprite moves over a still background (sprites.py). Its state is a point on a torus of four circles: x, y,
angle and log-scale. Every clip of every class starts at a uniform point of the torus; the class says which one circle
is walked and in which sense, at a constant speed from the same range both ways. A uniform point stays uniform when it
is shifted, so every single frame has the same distribution in all classes: what a model knows of the class, it has from
motion.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.datasets import sprites
from pipeline.datasets.folder import table_in
from pipeline.datasets.sprites import ANGLE, OCTAVE, PERIODS, SPEEDS, SpritesConfig, X, Y
from pipeline.settings import section

MOTIONS = {
    "RotateClockwise": (ANGLE, +1),
    "RotateCounterclockwise": (ANGLE, -1),
    "TranslateDown": (Y, +1),
    "TranslateLeft": (X, -1),
    "TranslateRight": (X, +1),
    "TranslateUp": (Y, -1),
    "ZoomIn": (OCTAVE, +1),
    "ZoomOut": (OCTAVE, -1),
}
CLASSES = tuple(MOTIONS)


@section
class MotionsConfig(SpritesConfig):
    """Section `source.motions`."""


def make_table(config: MotionsConfig, raw: Path) -> pd.DataFrame:
    """Generates the videos in the folder `raw`, on all cores."""
    generate(config, raw, workers=len(os.sched_getaffinity(0)))
    return table_in(raw)


def generate(config: MotionsConfig, folder: Path, *, workers: int) -> None:
    """Writes the videos and the lists, as sprites.generate does."""
    sprites.generate(config, CLASSES, render, folder, workers=workers, title="motions")


def render(config: MotionsConfig, class_name: str, group: int, clip: int) -> np.ndarray:
    """The frames (T, 240, 320, 3) uint8 of one video; group and clip count from 1."""
    return sprites.render(_rng(config, class_name, group, 0), trajectory(config, class_name, group, clip))


def trajectory(config: MotionsConfig, class_name: str, group: int, clip: int) -> np.ndarray:
    """The sprite's state (T, 4) float64 at each frame, as sprites.render takes it."""
    rng = _rng(config, class_name, group, clip)
    start = PERIODS * rng.random(4)
    circle, sign = MOTIONS[class_name]
    step = np.zeros(4)
    step[circle] = sign * rng.uniform(*SPEEDS[circle])
    return (start + np.arange(config.frames)[:, None] * step) % PERIODS


def _rng(config: MotionsConfig, class_name: str, group: int, clip: int) -> np.random.Generator:
    """An independent random stream for each clip, and clip 0 for the scene that the group's clips share."""
    return np.random.default_rng([config.seed, CLASSES.index(class_name), group, clip])
