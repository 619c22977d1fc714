"""The workflows of GitHub Actions: what they run exists, and nobody's input becomes code."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.import_closure import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)


def steps(file: Path) -> list[dict]:
    jobs = yaml.safe_load(file.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_sets_up_python_and_runs_what_is_here(file: Path) -> None:
    tree = yaml.safe_load(file.read_text())
    assert {"name", True, "permissions", "jobs"} == set(tree)  # YAML 1.1 reads `on` as true
    assert all("timeout-minutes" in job for job in tree["jobs"].values())
    used = [step["uses"] for step in steps(file) if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in used), used
    (setup,) = [step["with"] for step in steps(file) if step.get("uses", "").startswith("actions/setup-python")]
    assert setup["python-version"] == "3.11"
    for command in (step["run"] for step in steps(file) if "run" in step):
        assert "${{" not in command, "an expression is pasted into the script: pass it through env"
        program, name, *_ = command.split()
        assert program in ("bash", "make"), command
        assert name in TARGETS if program == "make" else (ROOT / name).is_file(), command


def test_ci_reproduces_and_compares() -> None:
    assert "bash .ci/run" in [step.get("run") for step in steps(ROOT / ".github/workflows/ci.yml")]
    script = (ROOT / ".ci/run").read_text().splitlines()
    for command in ("make repro", "dvc metrics diff HEAD", "python .ci/compare_metrics.py HEAD"):
        assert command in script


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_leaves_metrics_and_plots(file: Path) -> None:
    (report,) = [step["run"] for step in steps(file) if ".ci/report" in step.get("run", "")]
    (upload,) = [step for step in steps(file) if step.get("uses", "").startswith("actions/upload-artifact")]
    assert report.split()[2] == upload["with"]["path"]
