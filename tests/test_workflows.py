"""The workflows of GitHub Actions: what they run exists, and nobody's input becomes code."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.import_closure import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)


CI = ROOT / ".github/workflows/ci.yml"


def jobs(file: Path) -> dict[str, dict]:
    return yaml.safe_load(file.read_text())["jobs"]


def steps(file: Path) -> list[dict]:
    return [step for job in jobs(file).values() for step in job["steps"]]


def pythons(job: dict) -> list[str]:
    """The versions of Python that a job is run with."""
    (setup,) = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python")]
    name = setup["python-version"]
    return job["strategy"]["matrix"]["python"] if name == "${{ matrix.python }}" else [name]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_sets_up_python_and_runs_what_is_here(file: Path) -> None:
    tree = yaml.safe_load(file.read_text())
    assert {"name", True, "permissions", "jobs"} == set(tree)  # YAML 1.1 reads `on` as true
    assert all("timeout-minutes" in job for job in tree["jobs"].values())
    used = [step["uses"] for step in steps(file) if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in used), used
    for name, job in jobs(file).items():
        assert pythons(job) == (["3.11", "3.14"] if name == "tests" else ["3.11"]), name
    for command in (step["run"] for step in steps(file) if "run" in step):
        assert "${{" not in command, "an expression is pasted into the script: pass it through env"
        program, name, *_ = command.split()
        assert program in ("bash", "make"), command
        assert name in TARGETS if program == "make" else (ROOT / name).is_file(), command


def test_ci_reproduces_and_compares() -> None:
    assert "bash .ci/run" in [step.get("run") for step in jobs(CI)["reproduce"]["steps"]]
    script = (ROOT / ".ci/run").read_text().splitlines()
    for command in ("make repro", "dvc metrics diff HEAD", "python .ci/compare_metrics.py HEAD"):
        assert command in script


def test_ci_runs_the_fast_tests_from_the_oldest_python_on() -> None:
    job = jobs(CI)["tests"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert job["strategy"]["fail-fast"] is False  # each version is told of
    oldest = pythons(job)[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={oldest}"
    assert f"sys.version_info >= ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_leaves_metrics_and_plots(file: Path) -> None:
    (report,) = [step["run"] for step in steps(file) if ".ci/report" in step.get("run", "")]
    (upload,) = [step for step in steps(file) if step.get("uses", "").startswith("actions/upload-artifact")]
    assert report.split()[2] == upload["with"]["path"]
