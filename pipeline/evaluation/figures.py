"""Pictures of seeds, targets and predictions (report, section 4)."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor


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
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _show(axis: matplotlib.axes.Axes, frame: Tensor) -> None:
    axis.imshow(frame.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
