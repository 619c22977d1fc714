"""Pictures of seeds, targets and predictions (report, section 4), still and in motion, and of a filter's state."""

from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.results import replacing

ERROR_GAIN = 4  # absolute errors are shown times this
CELL = 128  # pixels of the animation to which small frames are enlarged, at least
MARGIN, TITLE = 6, 44  # pixels
SEED, PREDICTION = (110, 110, 110), (230, 120, 0)  # colours of the border
SEED_MS, PREDICTION_MS = 400, 900  # how long a frame is shown


def prediction_sheet(path: Path, *, seeds: Tensor, targets: Tensor, predictions: Tensor, title: str) -> None:
    """Writes a PNG with two rows a clip: seeds and targets above, predictions under the targets they answer.

    seeds (N, T, 3, H, W), targets and predictions (N, K, 3, H, W), all in [0, 1] (predictions are clipped).
    """
    clips, n_in, _, height, width = seeds.shape
    horizon = targets.shape[1]
    columns = n_in + horizon
    cell = 1.3
    with matplotlib.rc_context({"font.size": 8, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(cell * columns, 0.4 + cell * height / width * 2 * clips + 0.25), layout="constrained")
        figure.suptitle(title)
        grid = figure.subplots(2 * clips, columns, squeeze=False)
        for axis in grid.flat:
            axis.set_axis_off()
        for n in range(clips):
            frames = [*seeds[n], *targets[n]]
            for t, frame in enumerate(frames):
                _show(grid[2 * n][t], frame)
            for k in range(horizon):
                _show(grid[2 * n + 1][n_in + k], predictions[n, k])
        for t in range(n_in):
            grid[0][t].set_title(f"seed {t}")
        for k in range(horizon):
            grid[0][n_in + k].set_title(f"target {n_in + k}")
            grid[1][n_in + k].set_title(f"prediction {k + 1}")
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=110, metadata={"Software": None})


def filter_sheet(path: Path, *, frames: Tensor, before: Tensor, after: Tensor, title: str) -> None:
    """Writes a PNG with a ConvGRU filter's state over time (report, Fig. 5): a column a frame, and three rows: the
    frame fed, the state after it in the untrained and in the trained network. The scale is fixed, from −1, blue, over
    white to 1, red: a state goes no further.

    frames (T, 3, H, W) in [0, 1]; before, after (T, h, w).
    """
    height, width = frames.shape[2:]
    cell = 1.3
    with matplotlib.rc_context({"font.size": 8, "font.family": "DejaVu Sans"}):
        figure = Figure(
            figsize=(cell * len(frames) + 1.2, 0.4 + 3 * cell * height / width + 0.25), layout="constrained"
        )
        figure.suptitle(title)
        grid = figure.subplots(3, len(frames), squeeze=False)
        for row, label in zip(grid, ("fed", "before training", "after training"), strict=True):
            row[0].set_ylabel(label)
        for axis in grid.flat:
            axis.set(xticks=[], yticks=[])
        for t, frame in enumerate(frames):
            _show(grid[0][t], frame)
            grid[0][t].set_title(f"frame {t}")
            for row, states in ((1, before), (2, after)):
                image = grid[row][t].imshow(
                    states[t].numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
                )
                grid[row][t].set_box_aspect(height / width)
        figure.colorbar(image, ax=grid[1:], fraction=0.02, pad=0.01, ticks=[-1, 0, 1], label="state")
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=110, metadata={"Software": None})


def _show(axis: matplotlib.axes.Axes, frame: Tensor) -> None:
    axis.imshow(frame.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")


def animation(path: Path, *, seeds: Tensor, targets: Tensor, predictions: Tensor, title: str) -> None:
    """Writes an endless GIF (DVC shows no WebP), a row a clip: truth, prediction and error, through the seeds and then
    the steps ahead. While a seed is shown the prediction is the seed too, in a grey border in place of an orange one.
    The error is ERROR_GAIN · |prediction − truth| of the channel where it is largest, in grey.

    seeds (N, T, 3, H, W), targets and predictions (N, K, 3, H, W), all in [0, 1] (predictions are clipped).
    """
    truth = torch.cat([seeds, targets], 1)
    shown = torch.cat([seeds, predictions.clamp(0, 1)], 1)
    error = (ERROR_GAIN * (shown - truth).abs().amax(2, keepdim=True)).clamp(0, 1).expand_as(truth)
    columns = torch.stack([truth, shown, error], 2)  # (N, T, 3, 3, H, W)
    n_in, height, width = seeds.shape[1], *seeds.shape[3:]
    factor = -(-CELL // min(height, width))
    font = ImageFont.load_default(13)
    pages = []
    for t in range(columns.shape[1]):
        when = f"seed {t}" if t < n_in else f"{t - n_in + 1} ahead"
        row, column = factor * height + MARGIN, factor * width + MARGIN
        page = Image.new("RGB", (3 * column + MARGIN, len(columns) * row + MARGIN + TITLE), "white")
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, 4), f"{title}, {when}", fill="black", font=font)
        for c, label in enumerate(("truth", "prediction", f"error, {ERROR_GAIN} times")):
            draw.text((MARGIN + c * column, TITLE - 20), label, fill="black", font=font)
        for n, clip in enumerate(columns):
            for c, image in enumerate(clip[t]):
                x, y = MARGIN + c * column, TITLE + n * row
                if c == 1:
                    border = (x - 3, y - 3, x + column - MARGIN + 2, y + row - MARGIN + 2)
                    draw.rectangle(border, fill=SEED if t < n_in else PREDICTION)
                pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
                page.paste(Image.fromarray(pixels).resize((factor * width, factor * height), Image.NEAREST), (x, y))
        # Of PIL's ways to 256 colours the one that keeps rare ones, as of small moving things.
        pages.append(page.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE))
    durations = [SEED_MS] * n_in + [PREDICTION_MS] * (len(pages) - n_in)
    with replacing(path) as unfinished:
        pages[0].save(unfinished, save_all=True, append_images=pages[1:], duration=durations, loop=0)
