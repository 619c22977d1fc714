"""The table of an evaluation as tidy rows, one a value, and the few numbers of it that are metrics.

K horizon steps, counted from 1. region: one of metrics.REGIONS.
"""

from collections.abc import Iterator, Mapping

from pipeline.evaluation.metrics import digits, metric_and_region, over
from pipeline.evaluation.score import COMPARED, PREDICTORS

Row = dict[str, object]
GAINS = {"vs_copy": "copy_last", "vs_flow": "constant_velocity"}


def headline(table: Mapping[str, dict], *, region: str) -> dict[str, float]:
    """psnr and ssim of the model over a region, one frame ahead; vs_copy and vs_flow: its PSNR minus that of copying
    and of constant velocity along the optical flow. What has no value is absent."""
    found = {name: table["model"].get(over(region, name), {}) for name in ("psnr", "ssim")}
    found |= {name: table.get(f"model_over_{of}", {}).get(over(region, "psnr"), {}) for name, of in GAINS.items()}
    places = {name: digits("ssim" if name == "ssim" else "psnr") for name in found}
    return {name: round(steps["1"], places[name]) for name, steps in found.items() if "1" in steps}


def score_rows(table: Mapping[str, dict], *, model: str) -> list[Row]:
    """predictor (the model by its name, or a baseline), region, metric, horizon_step, value, low, high: the ends of the
    95 % interval, where it has one."""
    names = {name: model if name == "model" else name for name in PREDICTORS if name in table}
    return [{"predictor": names[key], **row} for key in names for row in tidy(table[key], "low", "high")]


def gain_rows(table: Mapping[str, dict]) -> list[Row]:
    """baseline, region, metric, horizon_step, value, low, high: the model's value minus the baseline's."""
    found = {name: table[f"model_over_{name}"] for name in COMPARED if f"model_over_{name}" in table}
    return [{"baseline": name, **row} for name, metrics in found.items() for row in tidy(metrics, "low", "high")]


def tidy(metrics: Mapping[str, Mapping[str, float]], *beside: str) -> Iterator[Row]:
    """{metric: {horizon step: value}} -> rows of region, metric, horizon_step, value, and a column for each of
    `beside`, whose values are those of <metric>_<beside>."""
    ends = tuple(f"_{name}" for name in beside)
    for name, steps in sorted(metrics.items()):
        if name.endswith(ends):
            continue
        metric, region = metric_and_region(name)
        others = {column: metrics.get(f"{name}_{column}", {}) for column in beside}
        for step, value in steps.items():
            row = {"region": region, "metric": metric, "horizon_step": int(step), "value": value}
            yield row | {column: values.get(step) for column, values in others.items()}


def resemblance_rows(table: Mapping[str, dict]) -> list[Row]:
    """horizon_step, frame (of the clip, from 0), psnr: how much the prediction is like each frame."""
    return [
        {"horizon_step": int(step), "frame": int(frame), "psnr": value}
        for step, row in table["resembles"].items()
        for frame, value in row.items()
    ]


def curriculum_rows(matrix: Mapping[str, dict]) -> list[Row]:
    """phase (of the curriculum from 1, or copy_last), fps, metric, horizon_step, value."""
    return [
        {"phase": phase, "fps": int(fps), "metric": metric, "horizon_step": int(step), "value": value}
        for phase, rates in matrix.items()
        for fps, metrics in rates.items()
        for metric, steps in metrics.items()
        for step, value in steps.items()
    ]
