"""dvc.yaml: code deps are exact, params are the stages' own, outs are tracked as the rules say."""

from pathlib import Path

import pytest
import yaml

from tests.import_closure import ROOT, closure

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
EXPERIMENTS = yaml.safe_load((ROOT / "experiments/dvc.yaml").read_text())["stages"]
VARIANTS = ("lvln", "one_frame", "full_res", "lvln_warp")
TOOLS = {"stages/check.py", "stages/predict.py", "pipeline/nets/export.py"}  # for people; no stage calls them


def code_deps(stage: dict, variant: str) -> set[str]:
    deps = (dep.replace("${item.model}", variant).replace("${features.model}", variant) for dep in stage["deps"])
    return {dep for dep in deps if dep.endswith(".py")}


@pytest.mark.parametrize("stage", [*STAGES.values(), *EXPERIMENTS.values()], ids=lambda stage: stage["cmd"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_code_deps_are_the_import_closure(stage: dict, variant: str) -> None:
    """The variant's module is imported by name at run time, which reading the sources cannot see."""
    _, _, module, *arguments = stage["cmd"].split()
    roots = [ROOT / f"{module.replace('.', '/')}.py"]
    if any("nets/$" in dep for dep in stage["deps"]):
        roots.append(ROOT / f"pipeline/nets/{variant}.py")
    roots += [ROOT / f"pipeline/nets/{name}.py" for name in arguments if name in VARIANTS]
    assert code_deps(stage, variant) == closure(*roots)


def test_stages_that_build_networks_depend_on_the_variant() -> None:
    builders = {name for name in STAGES if "pipeline/training/model_file.py" in STAGES[name]["deps"]}
    assert builders == {"train", "evaluate", "features"}
    assert builders == {name for name in STAGES if any("nets/$" in dep for dep in STAGES[name]["deps"])}


def test_packages_hold_no_code() -> None:
    """Their files are not listed as deps."""
    assert all(
        not init.read_text() for folder in ("pipeline", "stages") for init in (ROOT / folder).rglob("__init__.py")
    )


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_file_section_and_metrics(name: str) -> None:
    stage = STAGES[name]
    assert stage["cmd"].startswith(f"python -m stages.{name}")
    assert (ROOT / f"stages/{name}.py").is_file()
    sections = {str(param).split(".")[0] for param in stage["params"]}
    assert sections == {{"fetch": "source", "controls": "probe"}.get(name, name)}
    ((metrics, options),) = [next(iter(entry.items())) for entry in stage["metrics"]]
    assert metrics.startswith(f"metrics/{name}")
    assert options == {"cache": False}


def test_every_module_is_used_by_a_stage_or_a_tool() -> None:
    stages = [*STAGES.values(), *EXPERIMENTS.values()]
    used = set().union(*(code_deps(stage, variant) for stage in stages for variant in VARIANTS))
    used |= closure(*(ROOT / tool for tool in TOOLS))
    here = {
        file.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "stages")
        for file in Path(ROOT, folder).rglob("*.py")
    }
    assert {file for file in here if not file.endswith("__init__.py")} == used


def test_layers() -> None:
    """stages -> pipeline; nets never import video, nor video torch.nn; nothing in the pipeline knows stages or dvc."""
    for file in (ROOT / "pipeline").rglob("*.py"):
        text, where = file.read_text(), file.relative_to(ROOT).as_posix()
        assert "import dvc" not in text and "from dvc" not in text, where  # noqa: PT018
        assert "from stages" not in text, where
        if "/nets/" in where:
            assert "pipeline.video" not in text, where
        if "/video/" in where:
            assert "torch.nn" not in text and "from torch import nn" not in text, where  # noqa: PT018
            assert "pipeline.nets" not in text and "pipeline.training" not in text, where  # noqa: PT018
