"""dvc.yaml: code deps are folders and files that cover the imports, params are the stages' own, outs are tracked as the
rules say."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.import_closure import ROOT, closure, imported

VARIANTS = sorted(file.stem for file in (ROOT / "pipeline/variants").glob("*.py") if file.stem != "__init__")
TOOLS = {
    "stages/charts.py",
    "stages/check.py",
    "stages/compare.py",
    "stages/predict.py",
    "stages/preset.py",
    "stages/tables.py",
    "pipeline/predict/export.py",
}  # no stage calls them


MEASURED = {"decode", "train", "evaluate", "probe"}  # the stages with headline numbers


def stages_of(file: str) -> dict[str, dict]:
    """The stages by name, without `foreach`."""
    stages = yaml.safe_load((ROOT / file).read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


STAGES, EXPERIMENTS = stages_of("dvc.yaml"), stages_of("experiments/dvc.yaml")


def code_deps(stage: dict, variant: str) -> set[str]:
    """Folders and files of code."""
    deps = (re.sub(r"\$\{(key|item\.model|features\.model)\}", variant, dep) for dep in stage["deps"])
    return {dep for dep in deps if dep.startswith(("pipeline/", "stages/"))}


def imports(stage: dict, variant: str) -> set[str]:
    """The variant's module is imported by name at run time, which reading the sources cannot see."""
    _, _, module, *arguments = stage["cmd"].split()
    roots = [ROOT / f"{module.replace('.', '/')}.py"]
    if any("variants/$" in dep for dep in stage["deps"]):
        roots.append(ROOT / f"pipeline/variants/{variant}.py")
    roots += [ROOT / f"pipeline/variants/{name}.py" for name in arguments if name in VARIANTS]
    return closure(*roots)


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", [*STAGES.values(), *EXPERIMENTS.values()], ids=lambda stage: stage["cmd"])
def test_code_deps_cover_the_imports_and_nothing_else(stage: dict) -> None:
    """Every file that is imported lies under one dep alone, and no dep is without an imported file."""
    used = set()
    for variant in VARIANTS:
        deps, files = code_deps(stage, variant), imports(stage, variant)
        assert {file: sum(covers(dep, file) for dep in deps) for file in files} == dict.fromkeys(files, 1)
        assert all((ROOT / dep).exists() for dep in deps)
        assert "pipeline/variants" not in deps  # editing one variant must not train the others again
        used |= {dep for dep in deps if any(covers(dep, file) for file in files)}
    assert used == set().union(*(code_deps(stage, variant) for variant in VARIANTS))


def test_stages_that_build_networks_depend_on_the_variant() -> None:
    builders = {name for name in STAGES if "pipeline/nets/build.py" in imports(STAGES[name], "lvln")}
    assert builders == {"train", "evaluate", "features"}
    assert builders == {name for name in STAGES if any("variants/$" in dep for dep in STAGES[name]["deps"])}


def test_packages_hold_no_code() -> None:
    """The closure does not follow them. That of the stages has two lines that change no result."""
    packages = {init for folder in ("pipeline", "stages") for init in (ROOT / folder).rglob("__init__.py")}
    assert {init.parent.name for init in packages if init.read_text()} == {"stages"}
    assert not imported(ROOT / "stages/__init__.py")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_file_section_and_metrics(name: str) -> None:
    stage = STAGES[name]
    assert stage["cmd"].startswith(f"python -m stages.{name}")
    assert (ROOT / f"stages/{name}.py").is_file()
    expected = {"fetch": ["source"], "controls": ["probe"], "train": ["train.${key}", "hardware.precision"]}
    assert stage["params"] == expected.get(name, [name])
    for kind, measured in (("metrics", MEASURED), ("plots", MEASURED | {"controls"})):
        files = dict(next(iter(entry.items())) for entry in stage.get(kind, []))
        assert all(file.startswith(f"{kind}/") for file in files)
        assert all(options["cache"] == file.endswith((".png", ".gif")) for file, options in files.items())
        assert bool(files) == (name in measured)


def test_every_module_is_used_by_a_stage_or_a_tool() -> None:
    stages = [*STAGES.values(), *EXPERIMENTS.values()]
    used = set().union(*(imports(stage, variant) for stage in stages for variant in VARIANTS))
    used |= closure(*(ROOT / tool for tool in TOOLS))
    here = {
        file.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "stages")
        for file in Path(ROOT, folder).rglob("*.py")
    }
    assert {file for file in here if not file.endswith("__init__.py")} == used


ROOMS = {  # of pipeline/: the rooms that each may import, beside the files on the ground
    "datasets": (),
    "decode": ("clips/shards", "datasets"),
    "clips": (),
    "nets": (),
    "variants": ("nets",),
    "training": ("nets", "clips"),
    "evaluation": ("training", "nets", "clips"),
    "probe": ("evaluation", "training", "nets", "clips"),
    "predict": ("training", "nets", "clips", "decode"),
    "experiments": ("probe", "evaluation", "training", "nets", "clips", "decode", "datasets"),
    "cost": ("probe", "evaluation", "training", "nets", "clips", "decode", "datasets"),
    "pages": ("cost", "experiments", "probe", "evaluation", "training", "nets", "clips", "decode", "datasets"),
}


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_go_down(room: str) -> None:
    for file in (ROOT / "pipeline" / room).rglob("*.py"):
        found = {other.relative_to(ROOT / "pipeline") for other in imported(file)}
        above = {other.as_posix() for other in found if len(other.parts) > 1 and other.parts[0] != room}
        assert all(name.startswith(ROOMS[room]) for name in above), (file, above)


def test_rooms_are_the_folders() -> None:
    assert {folder.name for folder in (ROOT / "pipeline").iterdir() if folder.is_dir()} - {"__pycache__"} == set(ROOMS)


def test_the_pipeline_knows_neither_stages_nor_dvc() -> None:
    for file in (ROOT / "pipeline").rglob("*.py"):
        text, where = file.read_text(), file.relative_to(ROOT).as_posix()
        assert "import dvc" not in text and "from dvc" not in text, where  # noqa: PT018
        assert "from stages" not in text, where
        if where.split("/")[1] in ("datasets", "decode"):
            assert "import torch" not in text and "from torch" not in text, where  # noqa: PT018
