"""Not a DVC stage: reads every section of params.yaml as its stage will, so that a slip in the last one is found
before the first one runs; and says how much disk and time the run needs. `make repro` calls it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.cost.disk import at_most, disk_use, used
from pipeline.cost.machines import MACHINES
from pipeline.cost.source import data_set
from pipeline.cost.work import work_of
from pipeline.datasets.source import SourceConfig
from pipeline.decode.plan import DecodeConfig
from pipeline.evaluation.score import EvaluateConfig
from pipeline.hardware import HardwareConfig
from pipeline.nets.build import variant
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig, token_grid
from pipeline.settings import ParamsError, from_dict, read_params
from pipeline.training.config import TrainConfig, check_ranks
from stages.entry import run

CONFIGS = {
    "source": SourceConfig,
    "decode": DecodeConfig,
    "evaluate": EvaluateConfig,
    "features": FeaturesConfig,
    "probe": ProbeConfig,
    "hardware": HardwareConfig,
}


def check(tree: dict[str, object], *, source: str) -> None:
    """ValueError with the problems of all sections. source: the file that they come from, for messages."""
    problems: list[str] = []

    def read(node: object, config: type, where: str) -> Any:
        try:
            return from_dict(node, config, where=where, source=source)
        except ParamsError as error:
            problems.extend(str(error).split("\n")[1:])
            return {}

    sections = {name: read(tree.get(name), config, name) for name, config in CONFIGS.items()}
    trained = {}
    for name, node in read(tree.get("train"), dict[str, dict], "train").items():
        if name == "decode" or name.startswith(("train_", "probe_")) or name.endswith("_moving"):
            problems.append(f"  train.{name}: metrics/{name}.json would be another's; give the model another name")
        try:
            module = variant(name)
        except ValueError as error:
            problems.append(f"  {error}")
            continue
        if settings := read(node, TrainConfig, f"train.{name}"):
            trained[name] = settings
            read(settings.net, module.Config, f"train.{name}.net")
    if problems:
        raise ParamsError("\n".join([f"{source}:", *problems]))
    stored = sections["decode"]
    for name, settings in trained.items():
        check_ranks(settings, sections["hardware"], model=name)
        if settings.height > stored.height or settings.width > stored.width:
            raise ParamsError(
                f"{source}: train.{name}: frames of {settings.height}×{settings.width}, but decode stores them at "
                f"{stored.height}×{stored.width}; raise decode.height and decode.width, or lower the model's"
            )
    features = sections["features"]
    if features.model not in trained:
        raise ParamsError(f"{source}: features.model: {features.model!r} is not allowed; allowed: {', '.join(trained)}")
    of = trained[features.model]
    token_grid(features.token_stride, height=of.height, width=of.width)


def needs(tree: dict[str, Any], project: Path) -> Iterator[str]:
    """Lines on the disk and the time that a run of these settings needs, with a warning where the disk of the folder
    `project` is too small."""
    data = data_set(tree)
    if data is None:
        yield f"disk and time: not known for source.kind {tree['source']['kind']}"
        return
    try:
        needed, works = at_most(disk_use(tree, data)), work_of(tree, data)
    except ValueError as error:
        yield f"disk and time: not known: {error}"
        return
    there, free = used(project), shutil.disk_usage(project).free
    missing = needed - there - free
    yield f"disk: some {needed / 1e9:.1f} GB for {data.name}; {(there + free) / 1e9:.1f} GB are free or hold results"
    if missing > 0:
        yield f"WARNING: {missing / 1e9:.1f} GB too few: the disk will be full before the run ends; make room on it"
    for machine in MACHINES:
        hours = {work.stage: machine.hours(work) for work in works}
        known = sum(each for each in hours.values() if each is not None)
        unknown = without_hours(hours)
        rest = f"; not measured: {', '.join(unknown)}" if unknown else ""
        yield f"time: at least {in_words(known)} hours on {machine.name}{rest}"
        if known < 1:
            return  # nobody needs a larger machine for it


def without_hours(hours: dict[str, float | None]) -> list[str]:
    """The stages whose hours are not known: train@lvln; or evaluate, where none of that name is."""
    names = {stage: stage.split("@")[0] for stage in hours}
    known = {names[stage] for stage, each in hours.items() if each is not None}
    return list(
        dict.fromkeys(stage if names[stage] in known else names[stage] for stage in hours if hours[stage] is None)
    )


def in_words(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def main() -> None:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "params.yaml")
    tree = read_params(file)
    check(tree, source=str(file))
    print(f"{file}: every section is valid")
    for line in needs(tree, Path.cwd()):
        print(line)


if __name__ == "__main__":
    run("check", main)
