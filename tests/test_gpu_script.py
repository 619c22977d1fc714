"""benchmarks/gpu.sh, on the CPU: what it runs, what that needs, and what it says when something fails."""

import json
import os
import re
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.import_closure import ROOT

SCRIPT = "benchmarks/gpu.sh"
# measure PART NAME SECONDS MODULE …, or train PART NAME SECONDS …
MEASUREMENT = re.compile(r"^ *(?:measure|train) (\d) (\w+) (\d+)(?: (benchmarks\.\w+))?", re.M)


def gpu(python: str | Path, out: Path, **settings: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHON": str(python), "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(
        ["bash", SCRIPT, "", str(out)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_a_part_takes_less_than_eight_minutes() -> None:
    text = (ROOT / SCRIPT).read_text()
    before, end = (int(re.search(name, text, re.M).group(1)) for name in (r"^due=(\d+)", r"--kill-after=(\d+)"))
    found = MEASUREMENT.findall(text)
    for part in "123":
        seconds = {name: int(limit) for its_part, name, limit, _ in found if its_part == part}
        assert len(seconds) > 2
        assert before + sum(seconds.values()) + end <= 480
    assert all(find_spec(module) for *_, module in found if module)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = gpu(sys.executable, tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


def test_make_calls_it_with_the_projects_python() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == f"PYTHON=python {SCRIPT}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_with_torch_torchvision_lightning_pydantic_and_pytest_alone(tmp_path: Path) -> None:
    """As on a GPU machine with a plain tree: a Python that has those and what they need. Only the probe needs more.
    That it fails is said, and the others still run."""
    python = bare_python(tmp_path / "bare", ["torch", "torchvision", "lightning", "pydantic", "pytest"])
    there = {
        module for module in ("ruamel", "pandas", "cv2", "safetensors", "tensorboard", "dvc") if has(python, module)
    }
    assert not there
    out = tmp_path / "out"
    measured = "lvln full_res_one_frame match_warp loader probe evaluate tests resume precision"
    done = gpu(python, out, CPU="1", ONLY=measured)  # on a CPU the others are the same commands, or compile
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "did not end well: probe", done.stdout
    assert "No module named" in (out / "probe.err").read_text()
    found: dict[str, list] = {}
    for line in (out / "results.jsonl").read_text().splitlines():
        for name, figures in json.loads(line).items():
            found.setdefault(name, []).append(figures)
    assert list(found) == measured.split()
    assert re.fullmatch(r"\d+ passed, \d+ deselected.* in .*", found["tests"][0])
    assert [each["case"]["model"] for each in found["match_warp"]] == ["lvln_match", "lvln_warp", "lvln_warp"]
    (lvln, inside), (resumed,), (compared,) = found["lvln"], found["resume"], found["precision"]
    keys = ["ms_per_step", "clips_per_s", "tflops", "fraction_of_peak", "ratio_to_plain", "peak_memory_gib", "device"]
    assert set(keys) <= lvln.keys()
    assert lvln["from_shards"]["jpeg_decoder"]["cpu"]["clips_per_s"] > 0
    assert inside["kernels"]["ms_by_kind"]["convolution"] > 0
    assert compared["loss_off_most"] < 0.01
    assert resumed["same_weights"] == {"undisturbed": True, "killed": True}


def has(python: Path, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def bare_python(folder: Path, todo: list[str]) -> Path:
    """A virtual environment with these packages and what they need, linked from this Python's; its interpreter."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    there = set()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in there:
            continue
        there.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        needed = map(Requirement, found.requires or [])
        todo += [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    return folder / "bin/python"
