"""The tables of the models and probes of dvc.yaml. root: the folder of their CSVs, plots or one like it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.metrics import REGIONS, digits
from pipeline.evaluation.score import COMPARED
from pipeline.pages.cells import QUALITY, SHOWN, each_step, facts, heading, metric_of, row, shown, with_ends
from pipeline.probe.samples import CHOICES

OWN = ("untrained", "still", "shuffled")  # controls of which each choice of features has its own
COMPARED_WITH = ("untrained", "flow", "flow_pair", "encoder", "encoder_flow", "still", "shuffled", "chance")


def prediction(root: str, *models: str) -> list[str]:
    """The models, and the baselines on the clips of the last of them, at horizon steps 1 / 2 / 3."""
    return [*heading("predictor", *SHOWN.values()), *(row([name, *shown(part)]) for name, part in _parts(root, models))]


def one_ahead(root: str, *models: str) -> list[str]:
    """The same one frame ahead, without the two ratios."""
    lines = heading("predictor", *QUALITY.values())
    for name, part in _parts(root, models):
        first = part[part["horizon_step"] == 1]
        cells = (each_step(metric_of(first, *key)["value"], digits(key[0])) for key in QUALITY)
        lines.append(row([f"`{name}`", *cells]))
    return lines


def _parts(root: str, models: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    tables = {model: pd.read_csv(Path(root, "evaluate", model, "scores.csv")) for model in models}
    parts = [(model, table[table["predictor"] == model]) for model, table in tables.items()]
    last = tables[models[-1]]
    return parts + [(name, last[last["predictor"] == name]) for name in BASELINES]


def gains(root: str, model: str) -> list[str]:
    """The model minus each baseline, frame by frame, with 95 % intervals over groups."""
    table = pd.read_csv(Path(root, "evaluate", model, "gains.csv"))
    steps = sorted(table["horizon_step"].unique())
    lines = heading(f"`{model}` minus", "metric", *(f"{step} ahead" for step in steps))
    for name in COMPARED:
        part = table[table["baseline"] == name]
        for (metric, region), title in QUALITY.items():
            number = f"{{:+.{digits(metric)}f}}"
            found = metric_of(part, metric, region).set_index("horizon_step")[["value", "low", "high"]]
            cells = (with_ends(*found.loc[step], number) if step in found.index else "" for step in steps)
            lines.append(row([f"`{name}`", title, *cells]))
    return lines


def regions(root: str, *models: str) -> list[str]:
    """PSNR one frame ahead over every region, of the models and the baselines."""
    lines = heading("predictor", *REGIONS)
    for name, part in _parts(root, models):
        first = part[part["horizon_step"] == 1]
        cells = (each_step(metric_of(first, "psnr", region)["value"], digits("psnr")) for region in REGIONS)
        lines.append(row([f"`{name}`", *cells]))
    return lines


def time_to_beat(root: str) -> list[str]:
    """Of each model on each data set, the first score above constant velocity, or the last below it."""
    lines = heading("videos", "model", "minutes ↓", "steps ↓", "minus `constant_velocity` then (dB)")
    for (data, model), part in pd.read_csv(Path(root, "time_to_beat.csv")).groupby(["data", "model"], sort=False):
        last = part.iloc[-1]
        more = "" if last["low"] > 0 else "more than "
        spent = [f"{more}{last['minutes']:.1f}", f"{more}{last['steps']:,.0f}"]
        gain = with_ends(last["gain"], last["low"], last["high"], "{:+.2f}")
        lines.append(row([data, f"`{model}`", *spent, gain]))
    return lines


def curriculum(root: str, model: str) -> list[str]:
    """PSNR one frame ahead of the best weights of each phase of the curriculum, at each frame rate."""
    table = pd.read_csv(Path(root, "evaluate", model, "curriculum.csv"))
    table = table[(table["metric"] == "psnr") & (table["horizon_step"] == 1)]
    rates = sorted(table["fps"].unique(), reverse=True)
    lines = heading(f"`{model}`, weights of", *(f"{fps} fps" for fps in rates))
    for phase, part in table.groupby("phase", sort=False):
        name = phase if phase == "copy_last" else f"phase {phase}"
        lines.append(row([name, *(f"{part[part['fps'] == fps]['value'].item():.2f}" for fps in rates)]))
    return lines


def parameters(root: str, *models: str) -> list[str]:
    """How many parameters are trained."""
    lines = heading("model", "trainable parameters", "steps")
    for model in models:
        found = facts(Path(root, "train", model, "facts.csv"))
        lines.append(row([f"`{model}`", f"{int(found['trainable_parameters']):,}", f"{int(found['steps']):,}"]))
    return lines


def probe(root: str) -> list[str]:
    """Top-1 of every choice of features beside its own controls, in per cent ± spread [interval]; and of the nearest
    neighbour."""
    lines = heading("features", "dimensions", "probe", *OWN, "nearest neighbour", "that of `untrained`")
    for choice, file in choices_of(root).items():
        dimensions = int(facts(file.with_name("facts.csv"))["dimensions"])
        top1, nearest = (accuracies(file, metric) for metric in ("top1", "nearest"))
        cells = [share(top1.loc[name]) for name in ("probe", *OWN)]
        cells += [share(nearest.loc[name]) for name in ("probe", "untrained")]
        lines.append(row([f"`{choice}`", f"{dimensions:,}", *cells]))
    return lines


def probe_gains(root: str) -> list[str]:
    """The probe's top-1 minus that of each control, in percentage points [interval]."""
    lines = heading("features", *(f"minus {name}" for name in COMPARED_WITH))
    for choice, file in choices_of(root).items():
        lines.append(row([f"`{choice}`", *gains_over(accuracies(file, "gain"))]))
    return lines


def controls(root: str) -> list[str]:
    """The controls that all choices share, by the head and by the nearest neighbour."""
    found = {metric: accuracies(Path(root, "controls.csv"), metric) for metric in ("top1", "nearest")}
    lines = heading("control", "head (%)", "nearest neighbour (%)")
    for name in found["top1"].index:
        lines.append(row([f"`{name}`", *(share(each.loc[name]) for each in found.values())]))
    return lines


def choices_of(root: str) -> dict[str, Path]:
    """accuracy.csv of every choice of features that was probed."""
    files = {choice: Path(root, "probe", choice, "accuracy.csv") for choice in CHOICES}
    return {choice: file for choice, file in files.items() if file.exists()}


def gains_over(gain: pd.DataFrame) -> list[str]:
    """A cell for each of COMPARED_WITH."""
    return [points(gain.loc[name]) for name in COMPARED_WITH]


def points(gain: pd.Series) -> str:
    """A difference in top-1 in percentage points [interval]."""
    return with_ends(100 * gain["value"], 100 * gain["low"], 100 * gain["high"], "{:+.1f}")


def share(accuracy: pd.Series) -> str:
    """Top-1 in per cent ± spread [interval]."""
    value, low, high = 100 * accuracy[["value", "low", "high"]].astype(float)
    return with_ends(value, low, high, "{:.1f}", spread=f" ± {100 * accuracy['spread']:.1f}")


def accuracies(file: Path, metric: str) -> pd.DataFrame:
    """The rows of one metric of an accuracy.csv or controls.csv, by control."""
    table = pd.read_csv(file)
    return table[table["metric"] == metric].set_index("control")
