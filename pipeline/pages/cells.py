"""How numbers of the CSVs under plots/ are written into the cells of Markdown tables."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.evaluation.metrics import digits

# What a table of predictions shows: metric, region -> title, with the direction that is better.
SHOWN = {
    ("psnr", "whole"): "PSNR (dB) ↑",
    ("ssim", "whole"): "SSIM ↑",
    ("psnr", "moving"): "PSNR, moving ↑",
    ("ssim", "moving"): "SSIM, moving ↑",
    ("gradient_ratio", "whole"): "gradient energy → 1",
    ("nyquist_ratio", "whole"): "Nyquist share → 1",
}
QUALITY = {key: title for key, title in SHOWN.items() if not key[0].endswith("ratio")}


def facts(file: Path) -> pd.Series:
    """The values of a CSV of facts, as text, by name."""
    return pd.read_csv(file, index_col="name", dtype=str, na_filter=False)["value"]


def heading(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [row(cells), "|---" * len(cells) + "|"]


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def metric_of(scores: pd.DataFrame, metric: str, region: str) -> pd.DataFrame:
    """The rows of one metric over one region, in the order of the horizon steps."""
    chosen = scores[(scores["metric"] == metric) & (scores["region"] == region)]
    return chosen.sort_values("horizon_step")


def each_step(values: Iterable[float], places: int) -> str:
    """A metric at every horizon step."""
    return " / ".join(f"{value:.{places}f}" for value in values)


def shown(scores: pd.DataFrame) -> list[str]:
    """A predictor's cells: every entry of SHOWN at every horizon step, ± the largest spread where the rows have one."""
    cells = []
    for metric, region in SHOWN:
        found = metric_of(scores, metric, region)
        cell = each_step(found["value"], digits(metric))
        if "spread" in found and found["spread"].notna().any():
            cell += f" ± {found['spread'].max():.{digits(metric)}f}"
        cells.append(cell)
    return cells


def with_ends(value: float, low: float, high: float, form: str, *, spread: str = "") -> str:
    """value [low, high], the interval only where there is one. spread: what stands between them."""
    ends = "" if pd.isna(low) else f" [{form.format(low)}, {form.format(high)}]"
    return form.format(value) + spread + ends
