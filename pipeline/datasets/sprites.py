"""What the data sets of a moving sprite share: its state, the scene, drawing, and the files.

A textured sprite moves over a still background. Its state is a point on a torus of four circles: x, y, angle and
log-scale. The scale becomes a circle as pitch does in a Shepard tone (R. N. Shepard, "Circularity in judgments of
relative pitch", 1964): two nested copies of the sprite one octave apart, the small one fading in and the large one
out, so that an octave of zoom ends at the image it began with.

Files are as UCF101's: XviD in AVI, 320 × 240, 25 fps, folder and file names, and the three official splits, in which
split s tests groups 7(s−1)+1 … 7s and trains on the others. At least 22 groups are asked for: then each split has seven
groups of every class to test on, and one or more of groups 22–25, which are in no test list, to validate on.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from pipeline.datasets import generated
from pipeline.datasets.folder import LISTS, VIDEOS
from pipeline.datasets.generated import HEIGHT, WIDTH, Name
from pipeline.settings import Natural, section

X, Y, ANGLE, OCTAVE = range(4)
# pixels, pixels, degrees clockwise, octaves
PERIODS = np.array([WIDTH, HEIGHT, 360.0, 1.0])
# least and greatest step a frame along each circle; the zoom grows by 2.5 … 4 % a frame
SPEEDS = ((3.0, 6.0), (3.0, 6.0), (4.0, 8.0), (math.log2(1.025), math.log2(1.04)))
SMALLEST = 58.0  # diameter in pixels at octave 0, where a copy is invisible; full strength is 82 … 164
TEXTURE = 256  # side in pixels of the square texture that the sprite is drawn from


@section
class SpritesConfig:
    """The settings of every data set of a moving sprite."""

    seed: Natural
    groups: Annotated[int, Field(ge=22, le=25)]  # per class; UCF101 has 25
    clips: Annotated[int, Field(ge=1, le=99)]  # per group
    frames: Annotated[int, Field(ge=20)]  # per video, at 25 fps; 20 are 8 frames at 10 fps


Render = Callable[[SpritesConfig, str, int, int], np.ndarray]  # config, class, group, clip -> frames, as render's


def generate(
    config: SpritesConfig, classes: Sequence[str], render: Render, folder: Path, *, workers: int, title: str
) -> None:
    """Writes folder/UCF-101/<Class>/v_<Class>_gXX_cYY.avi and the lists in folder/ucfTrainTestlist.

    render: a function of a module, since worker processes import it. title: of the progress bar. The same config gives
    the same bytes on any number of `workers` (processes, ≥ 1; they are spawned, so a script that calls this needs an
    `if __name__ == "__main__"` guard). Files of the same names are replaced, others kept. Raises RuntimeError if ffmpeg
    fails, ValueError for workers < 1.
    """
    names = list(product(classes, range(1, config.groups + 1), range(1, config.clips + 1)))
    write_lists(classes, names, folder / LISTS)
    videos = folder / VIDEOS
    generated.write_all(partial(write_video, config, render, videos), names, videos, workers=workers, title=title)


def write_lists(classes: Sequence[str], names: Sequence[Name], folder: Path) -> None:
    """Writes classInd.txt and the three splits' lists of `names`."""
    tested = {split: range(7 * split - 6, 7 * split + 1) for split in (1, 2, 3)}
    generated.write_lists(folder, classes, names, tested)


def write_video(config: SpritesConfig, render: Render, folder: Path, name: Name) -> None:
    """Encodes the video of `name` to folder/<Class>/v_<Class>_gXX_cYY.avi, as generated.encode does."""
    generated.encode(render(config, *name), folder / generated.file_name(*name))


def render(scene: np.random.Generator, trajectory: np.ndarray) -> np.ndarray:
    """The frames (T, 240, 320, 3) uint8 of one video. scene: where background and sprite are drawn from.

    trajectory: the sprite's state (T, 4) float64 at each frame: x and y of its centre in pixels from the upper left
    corner, angle in degrees clockwise, octave of its scale; each from 0 to below its PERIODS entry.
    """
    background = Image.fromarray(_background(scene))
    sprite = Image.fromarray(_sprite(scene), "RGBX")
    frames = np.empty((len(trajectory), HEIGHT, WIDTH, 3), np.uint8)
    for frame, state in zip(frames, trajectory, strict=True):
        image = background.copy()
        _draw(image, sprite, *state)
        frame[:] = np.asarray(image)
    return frames


def _draw(image: Image.Image, sprite: Image.Image, x: float, y: float, angle: float, octave: float) -> None:
    """Draws the two copies of the sprite at a state, the larger first, wrapped around the image's edges."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for level in (octave + 1, octave):
        fade = min(1.0, 2 * level, 2 * (2 - level))
        strength = fade * fade * (3 - 2 * fade)
        diameter = SMALLEST * 2**level
        # texture pixels for one image pixel to the right, in the texture's own axes
        along, across = cos * TEXTURE / diameter, sin * TEXTURE / diameter
        left, top = math.floor(x - diameter / 2), math.floor(y - diameter / 2)
        side = math.ceil(diameter) + 1
        right_by, down_by = x - left, y - top
        inverse = (
            *(along, across, TEXTURE / 2 - along * right_by - across * down_by),
            *(-across, along, TEXTURE / 2 + across * right_by - along * down_by),
        )
        # bilinear and no minification filter: the texture is always larger than its copies, and smooth at their pitch
        patch = sprite.transform((side, side), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
        mask = patch.getchannel("X").point(np.rint(strength * np.arange(256)).astype(int).tolist())
        patch = patch.convert("RGB")
        for dx in (-WIDTH, 0, WIDTH):
            for dy in (-HEIGHT, 0, HEIGHT):
                image.paste(patch, (left + dx, top + dy), mask)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A muted smooth texture of several scales, (240, 320, 3) uint8."""
    shade = sum(_noise(rng, cells, HEIGHT, WIDTH) / cells**0.6 for cells in (3, 6, 12, 24))
    tint = _noise(rng, 4, HEIGHT, WIDTH)
    dark, light, other = rng.uniform(20, 110, 3), rng.uniform(90, 190, 3), rng.uniform(50, 160, 3)
    return _blend(_blend(dark, light, 0.5 + shade), other, 0.4 + 0.6 * tint).astype(np.uint8)


def _sprite(rng: np.random.Generator) -> np.ndarray:
    """A vivid irregular shape without symmetry, (256, 256, 4) uint8: colour everywhere, and alpha in the last channel.

    Its marks are about 1/10 of its diameter wide, or wider, and edges soft over 1/40: 1.5 pixels at its smallest.
    """
    centres = (np.arange(TEXTURE) + 0.5) / (TEXTURE / 2) - 1
    x, y = centres[None, :], centres[:, None]
    radius = np.sqrt(x * x + y * y)
    bend = 0.5 * _noise(rng, 3, TEXTURE, TEXTURE)
    stripes = _wave(rng.uniform(2.5, 4.0) * x + bend)
    pattern = (stripes, stripes * _wave(rng.uniform(2.5, 4.0) * y + bend), 1.5 * _noise(rng, 7, TEXTURE, TEXTURE))
    colours = rng.permutation(np.array([[235, 60, 50], [250, 210, 60], [60, 200, 90], [50, 110, 235], [230, 90, 220]]))
    colours = np.clip(colours[:3] + rng.uniform(-50, 50, (3, 3)), 0, 255)
    image = _blend(colours[0], colours[1], 0.5 + 2 * pattern[rng.integers(3)])
    # a bright spot off the centre, so that the angle of every sprite can be told
    spot = 0.5 + (0.2 - np.sqrt((x - 0.5) ** 2 + y * y)) / 0.05
    image = _blend(_blend(image, colours[2], 0.3 + 1.5 * _noise(rng, 2, TEXTURE, TEXTURE)), np.full(3, 255.0), spot)
    outline = 0.73 + 0.22 * _noise(rng, 4, TEXTURE, TEXTURE)
    alpha = np.clip(0.5 + (outline - radius) / 0.05, 0, 1)
    return np.concatenate([image, 255 * alpha[..., None]], axis=2).round().astype(np.uint8)


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Colours (…, 3) mixed to (H, W, 3) by the share (H, W) of the second, clipped to 0 … 1."""
    return first + (second - first) * np.clip(share, 0, 1)[..., None]


def _wave(phase: np.ndarray) -> np.ndarray:
    """A triangle wave in −1 … 1 of period 2."""
    return 2 * np.abs(phase % 2 - 1) - 1


def _noise(rng: np.random.Generator, cells: int, height: int, width: int) -> np.ndarray:
    """Smooth noise (height, width) within −1 … 1, `cells` random values high, interpolated bicubically."""
    grid = rng.uniform(-1, 1, (cells, round(cells * width / height))).astype(np.float32)
    return np.clip(np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)), -1, 1)
