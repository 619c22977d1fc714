"""The tables of what a preset costs on the whole of UCF101."""

from math import isnan, log
from pathlib import Path

import pandas as pd

from pipeline.cost.data_set import UCF101
from pipeline.cost.disk import disk_use
from pipeline.cost.machines import MACHINES
from pipeline.cost.work import work_of
from pipeline.pages.cells import heading, row
from pipeline.settings import overlay, read_params


def disk(preset: str) -> list[str]:
    """A row a stage. ValueError for a preset whose JPEGs are of another quality than those measured."""
    uses = disk_use(_settings(preset), UCF101)
    lines = heading("stage", "what", "GB", "GB more while it runs")
    for use in uses:
        passing = f"{use.passing / 1e9:.1f}" if use.passing else ""
        lines.append(row([f"`{use.stage}`", use.what, f"{use.kept / 1e9:.1f}", passing]))
    return [*lines, row(["all", "", f"{sum(use.kept for use in uses) / 1e9:.1f}", ""])]


def time(preset: str) -> list[str]:
    """A row a stage, with the hours on each machine."""
    works = work_of(_settings(preset), UCF101)
    lines = heading("stage", *(f"hours on {machine.name}" for machine in MACHINES))
    for work in works:
        hours = (machine.hours(work) for machine in MACHINES)
        cells = ("not measured" if each is None else f"{each:.1f}" if each < 100 else f"{each:,.0f}" for each in hours)
        lines.append(row([f"`{work.stage}`", *cells]))
    return lines


def full_scale() -> list[str]:
    """A row a stage of benchmarks/full_scale.csv, of the runs with all classes: what it took at each number of
    videos."""
    table = pd.read_csv("benchmarks/full_scale.csv")
    return _growth(table[table["classes"] == table["classes"].max()], "videos")


def full_scale_classes() -> list[str]:
    """A row a stage of benchmarks/full_scale.csv, of the runs with as many videos as that of the fewest classes: what
    it took at each number of classes."""
    table = pd.read_csv("benchmarks/full_scale.csv")
    videos = table.loc[table["classes"].idxmin(), "videos"]
    return _growth(table[table["videos"] == videos], "classes")


def _growth(table: pd.DataFrame, what: str) -> list[str]:
    """What each stage took at each size, and in which power of the size its CPU seconds and its memory grow from the
    smallest to the largest. The last columns are of the largest."""
    by_size = {size: rows.set_index("stage") for size, rows in table.groupby(what)}
    sizes = list(by_size)
    steps = log(sizes[-1] / sizes[0])
    lines = heading(
        "stage",
        f"CPU seconds at {', '.join(f'{size:,}' for size in sizes)} {what}",
        "growth",
        "MiB",
        "growth",
        "seconds",
        "until the first progress",
        "GB",
    )
    for stage, largest in by_size[sizes[-1]].iterrows():
        rows = [by_size[size].loc[stage] for size in sizes]
        cells = [f"`{stage}`"]
        for name in ("cpu_seconds", "memory_mib"):
            values = [each[name] for each in rows]
            cells += [" / ".join(f"{value:,.0f}" for value in values), f"{log(values[-1] / values[0]) / steps:.2f}"]
        starts = largest["starts_s"]
        cells += [f"{largest['seconds']:,.0f}", "" if isnan(starts) else f"{starts:.0f}", f"{largest['gb']:.1f}"]
        lines.append(row(cells))
    return lines


def _settings(preset: str) -> dict:
    tree = read_params()
    overlay(tree, read_params(Path("presets", f"{preset}.yaml")))
    return tree
