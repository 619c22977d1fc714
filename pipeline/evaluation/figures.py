"""Pictures of context, targets and predictions (report, section 4), still and in motion, and of a filter's state."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import ceil
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.results import replacing

ERROR_GAIN = 4  # absolute errors are shown times this
CELL = 128  # pixels to which small frames are enlarged, at least
MARGIN, TITLE = 6, 44  # pixels
CONTEXT, PREDICTION = (110, 110, 110), (230, 120, 0)  # colours of the border
CONTEXT_MS, PREDICTION_MS = 400, 900  # how long a frame is shown
BLUE, RED = ((33, 102, 172), (178, 24, 43))  # of a state of −1 and of 1


def contact_sheet(
    rows: Sequence[Sequence[Tensor | None]],
    *,
    title: str,
    columns: Sequence[str],
    names: Sequence[str] = (),
    borders: Mapping[int, tuple[int, int, int]] | None = None,
) -> Image.Image:
    """A page with rows of images (3, h, w) in [0, 1], all of them enlarged to the size of the first; None leaves its
    place empty. columns, names: what stands above each column and beside each row. borders: colours around the images
    of a column, by its number."""
    height, width = rows[0][0].shape[1:]
    factor = -(-CELL // min(height, width))
    height, width = factor * height, factor * width
    font = ImageFont.load_default(13)
    left = MARGIN + (ceil(max(map(font.getlength, names))) + MARGIN if names else 0)
    page = Image.new("RGB", (left + len(columns) * (width + MARGIN), TITLE + len(rows) * (height + MARGIN)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 4), title, fill="black", font=font)
    for c, label in enumerate(columns):
        draw.text((left + c * (width + MARGIN), TITLE - 20), label, fill="black", font=font)
    for r, (images, name) in enumerate(zip_longest(rows, names, fillvalue="")):
        y = TITLE + r * (height + MARGIN)
        draw.text((MARGIN, y + height // 2), name, fill="black", font=font, anchor="lm")
        for c, image in enumerate(images):
            if image is None:
                continue
            x = left + c * (width + MARGIN)
            if borders and c in borders:
                draw.rectangle((x - 3, y - 3, x + width + 2, y + height + 2), fill=borders[c])
            pixels = (255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
            page.paste(Image.fromarray(pixels).resize((width, height), Image.NEAREST), (x, y))
    return page


def prediction_sheet(path: Path, *, context: Tensor, targets: Tensor, predictions: Tensor, title: str) -> None:
    """Writes a PNG with two rows a clip: context and targets above, predictions under the targets they answer.

    context (N, T, 3, H, W), targets and predictions (N, K, 3, H, W), all in [0, 1] (predictions are clipped).
    """
    n_in, horizon = context.shape[1], targets.shape[1]
    rows = []
    for seen, true, predicted in zip(context, targets, predictions, strict=True):
        rows += [[*seen, *true], [*[None] * n_in, *predicted]]
    columns = [*(f"context {t}" for t in range(n_in)), *(f"target {n_in + k}, {k + 1} ahead" for k in range(horizon))]
    page = contact_sheet(rows, title=title, columns=columns, names=["true", "predicted"] * len(context))
    with replacing(path) as unfinished:
        page.save(unfinished)


def filter_sheet(path: Path, *, frames: Tensor, before: Tensor, after: Tensor, title: str) -> None:
    """Writes a PNG with a ConvGRU filter's state over time (report, Fig. 5): a column a frame, and three rows: the
    frame fed, the state after it in the untrained and in the trained network. The scale is fixed, from −1, blue, over
    white to 1, red: a state goes no further.

    frames (T, 3, H, W) in [0, 1]; before, after (T, h, w).
    """
    page = contact_sheet(
        [frames, _coloured(before), _coloured(after)],
        title=f"{title.replace('×', 'x')}; states from -1, blue, over white to 1, red",  # PIL's font has no ×, no −
        columns=[f"frame {t}" for t in range(len(frames))],
        names=("fed", "before training", "after training"),
    )
    with replacing(path) as unfinished:
        page.save(unfinished)


def _coloured(states: Tensor) -> Tensor:
    """(T, h, w) in −1 … 1 -> (T, 3, h, w) in [0, 1]."""
    blue, red = (torch.tensor(colour).view(3, 1, 1) / 255 for colour in (BLUE, RED))
    states = states[:, None]
    return 1 - states.abs() * (1 - torch.where(states < 0, blue, red))


def animation(path: Path, *, context: Tensor, targets: Tensor, predictions: Tensor, title: str) -> None:
    """Writes an endless GIF (DVC shows no WebP), a row a clip: truth, prediction and error, through the context and
    then the horizon. While the context is shown the prediction is the true frame too, in a grey border in place of an
    orange one. The error is ERROR_GAIN · |prediction − truth| of the channel where it is largest, in grey.

    context (N, T, 3, H, W), targets and predictions (N, K, 3, H, W), all in [0, 1] (predictions are clipped).
    """
    truth = torch.cat([context, targets], 1)
    shown = torch.cat([context, predictions.clamp(0, 1)], 1)
    error = (ERROR_GAIN * (shown - truth).abs().amax(2, keepdim=True)).expand_as(truth)
    cells = torch.stack([truth, shown, error], 2)  # (N, T + K, 3, 3, H, W)
    n_in, columns = context.shape[1], ("truth", "prediction", f"error, {ERROR_GAIN} times")
    pages = []
    for t in range(cells.shape[1]):
        when, border = (f"context {t}", CONTEXT) if t < n_in else (f"{t - n_in + 1} ahead", PREDICTION)
        page = contact_sheet(cells[:, t], title=f"{title}, {when}", columns=columns, borders={1: border})
        # Of PIL's ways to 256 colours the one that keeps rare ones, as of small moving things.
        pages.append(page.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE))
    durations = [CONTEXT_MS] * n_in + [PREDICTION_MS] * (len(pages) - n_in)
    with replacing(path) as unfinished:
        pages[0].save(unfinished, save_all=True, append_images=pages[1:], duration=durations, loop=0)
