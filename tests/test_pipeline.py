"""The pipeline as a user runs it: real `dvc` commands in a clone of their own, on the tiny preset."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.evaluation.score import PREDICTORS
from pipeline.nets.encoder import TAPS
from pipeline.settings import read_yaml
from tests.support.import_closure import ROOT
from tests.support.project import call, copy_project, ran

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODELS = tuple(read_yaml(ROOT / "params.yaml")["train"])
CHOICES = ("deepest", "subsample", "combined", "pooled", "attentive")
CONDITIONS = ("trained", "untrained", "still", "shuffled")
TABLE = {"top1", "top1_std", "top1_low", "top1_high", "top5"}  # of a probe and of each of its controls
ALL = {
    "fetch",
    "decode",
    "controls",
    *(f"features@{condition}" for condition in CONDITIONS),
    *(f"{stage}@{model}" for stage in ("train", "evaluate") for model in MODELS),
    *(f"probe@{choice}" for choice in CHOICES),
}
FEATURES = {f"features@{condition}" for condition in CONDITIONS}
PROBES = {"controls", *(f"probe@{choice}" for choice in CHOICES)}


def stale(folder: Path) -> set[str]:
    """Stages that are not up to date, by `dvc status`; upstream ones come with all that wait for them."""
    return set(json.loads(call(folder, "dvc", "status", "--json", "dvc.yaml")))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree with the tiny preset, reproduced once."""
    folder = copy_project(tmp_path_factory.mktemp("project"), without=("metrics/", "plots/", "dvc.lock"))
    assert "59 values from presets/tiny.yaml" in call(folder, "python", "-m", "stages.preset", "tiny")
    assert ran(call(folder, "dvc", "repro")) == ALL
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "reproduced")
    return folder


@pytest.fixture
def restored(project: Path):
    """Any change a test makes to tracked files is undone."""
    yield project
    call(project, "git", "checkout", "-q", "--", ".")
    call(project, "dvc", "checkout", "-q")


def test_a_second_repro_runs_nothing(project: Path) -> None:
    output = call(project, "dvc", "repro")
    assert ran(output) == set()
    assert "Data and pipelines are up to date" in output
    assert call(project, "git", "status", "--porcelain") == ""


def test_metrics_have_their_keys(project: Path) -> None:
    for model in MODELS:
        metrics = json.loads((project / f"metrics/evaluate_{model}.json").read_text())
        assert {*PREDICTORS, "resembles", "curriculum", "data"} < set(metrics)
        for predictor in PREDICTORS:
            assert {"psnr", "ssim_moving", "ms_ssim", "nyquist_ratio", "loss"} < set(metrics[predictor])
            assert all(set(steps) == {"1", "2", "3"} for steps in metrics[predictor].values())
        phases = len(read_yaml(project / "params.yaml")["train"][model]["curriculum"])
        assert set(metrics["curriculum"]) == {*map(str, range(1, phases + 1)), "copy_last"}
    for choice in CHOICES:
        metrics = json.loads((project / f"metrics/probe_{choice}.json").read_text())
        assert {*TABLE, "per_class", "mean_class", "confusion"} == set(metrics["probe"])
        controls = {"chance", "encoder", *TAPS, *CONDITIONS} - {"trained"}
        assert controls == set(metrics["controls"]) == set(metrics["gain"])
        assert all(set(row) == TABLE for row in metrics["controls"].values())
        assert all(set(row) == {"top1", "top1_low", "top1_high"} for row in metrics["gain"].values())
    decode = json.loads((project / "metrics/decode.json").read_text())
    assert decode["videos"] == {"found": 176, "good": 176, "bad": 0, "absent": 0}
    tracked = call(project, "git", "ls-files", "metrics", "plots").split()
    assert all((project / name).read_text() for name in tracked if name.endswith(("json", "csv")))


def test_forced_reproduction_is_bit_for_bit_the_same(project: Path) -> None:
    """One item of each stage, and all that it needs."""
    before = (project / "dvc.lock").read_bytes()
    again = {"fetch", "decode", "controls", "train@lvln_warp", "evaluate@lvln_warp", "probe@attentive", *FEATURES}
    assert ran(call(project, "dvc", "repro", "-f", "evaluate@lvln_warp", "probe@attentive")) == again
    assert (project / "dvc.lock").read_bytes() == before
    assert call(project, "git", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.one_frame.optimizer.lr", "1e-4", {"train@one_frame"}),
        ("train.lvln.curriculum.1.epochs", "2", {"train@lvln"}),
        ("train.lvln.loss.l1", "0.2", {"train@lvln"}),
        ("evaluate.spacing", "5", {f"evaluate@{model}" for model in MODELS}),
        ("features.batch", "3", FEATURES),
        ("probe.head.hidden", "17", PROBES),
        ("decode.jpeg_quality", "90", {"decode"}),
        ("decode.scheduler", "1", {"decode"}),
        ("source.motions.seed", "9", {"fetch"}),
        ("hardware.workers", "2", set()),
        ("hardware.device", "cpu", set()),
        ("hardware.compile", "false", set()),
        ("hardware.checkpoint_minutes", "9", set()),
        ("hardware.precision", "32-true", {f"train@{model}" for model in MODELS}),
    ],
)
def test_a_changed_param_makes_its_own_stages_stale(restored: Path, key: str, value: str, expected: set[str]) -> None:
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(str(restored / "params.yaml")) as tree:
        node = tree
        *parents, last = key.split(".")
        for name in parents:
            node = node[int(name)] if name.isdigit() else node[name]
        node[last] = yaml.safe_load(value.replace("1e-4", "0.0001"))
    assert stale(restored) == expected
    changed = json.loads(call(restored, "dvc", "params", "diff", "--json"))["params.yaml"]
    assert len(changed) == 1
    assert key.startswith(next(iter(changed)))  # a list is shown whole


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pipeline/variants/full_res.py", {"train@full_res", "evaluate@full_res"}),
        ("pipeline/variants/lvln_warp.py", {"train@lvln_warp", "evaluate@lvln_warp", *FEATURES}),
        ("pipeline/evaluation/figures.py", {f"evaluate@{model}" for model in MODELS}),
        ("pipeline/probe/classifier.py", PROBES),
        ("pipeline/datasets/motions.py", {"fetch"}),
        ("README.md", set()),
    ],
)
def test_changed_code_makes_stale_only_what_imports_it(restored: Path, file: str, expected: set[str]) -> None:
    with (restored / file).open("a") as stream:
        stream.write("\n# changed\n")
    assert stale(restored) == expected


def test_a_new_model_is_a_file_and_a_section(restored: Path) -> None:
    """Trained, evaluated, and gone again without a trace."""
    from dvc.utils.serialize import modify_yaml

    variant = restored / "pipeline" / "variants" / "half.py"
    variant.write_text(
        "from pipeline.nets.ladder import HalfResolution as Config\n"
        "from pipeline.nets.ladder import half_resolution\n\n\n"
        "def build(config, encoder, *, height, width):\n"
        "    return half_resolution(config, encoder, height=height, width=width)\n"
    )
    with modify_yaml(str(restored / "params.yaml")) as tree:
        tree["train"]["half"] = tree["train"]["one_frame"]
    assert stale(restored) == {"train@half", "evaluate@half"}
    assert "every section is valid" in call(restored, "python", "-m", "stages.check")
    assert ran(call(restored, "dvc", "repro", "evaluate@half")) == {"train@half", "evaluate@half"}
    assert json.loads((restored / "metrics/evaluate_half.json").read_text())["model"]["psnr"]["3"] > 0
    assert "half" in call(restored, "dvc", "metrics", "diff")
    variant.unlink()
    call(restored, "git", "checkout", "-q", "--", ".")
    call(restored, "git", "clean", "-qfd")
    assert stale(restored) == set()


def test_experiments(restored: Path) -> None:
    """`dvc exp run -S`, `exp show`, `metrics diff`, `params diff`, `plots show` on one changed rate."""
    output = call(restored, "dvc", "exp", "run", "-n", "slower", "-S", "train.one_frame.optimizer.lr=1e-5")
    assert ran(output) == {"train@one_frame", "evaluate@one_frame"}
    assert "lr: 1e-05" in (restored / "params.yaml").read_text()
    assert "train.one_frame.optimizer.lr" in call(restored, "dvc", "params", "diff")
    difference = call(restored, "dvc", "metrics", "diff")
    assert "metrics/evaluate_one_frame.json" in difference
    assert "model.psnr.1" in difference
    assert "metrics/evaluate_lvln.json" not in difference
    table = call(restored, "dvc", "exp", "show", "--csv")
    assert "slower" in table
    call(restored, "dvc", "plots", "show", "-o", "page")
    page = (restored / "page" / "index.html").read_text()
    for title in (
        "Training loss",
        "Loss on the validation groups",
        "Probe confusion",
        "Quality against the horizon step",
    ):
        assert title in page
    assert "half_velocity" in page
    for kind in ("png", "gif"):
        assert list((restored / "page" / "static").glob(f"*evaluate_lvln.{kind}"))
    shutil.rmtree(restored / "page")


def test_bad_params_stop_before_anything_runs(restored: Path) -> None:
    changes = ["decode.height=100", "decode.split=4", "+decode.hight=64"]
    output = call(restored, "dvc", "exp", "run", *(word for change in changes for word in ("-S", change)), check=False)
    assert "decode.height: 100 is not allowed; allowed: an integer, above 0, a multiple of 32" in output
    assert "decode.split: 4 is not allowed; allowed: one of 1, 2, 3" in output
    assert "decode.hight: unknown key" in output
    assert "failed to reproduce 'decode'" in output
    assert "Traceback" not in output


UNDO = "git restore --staged --worktree . && dvc checkout"  # README; the walk-through has it in two lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["decode.timeout_s=1e-6"], r"decode: 176 of 176 listed videos are bad, (?s:.*): runs/decode/manifest\.csv\n"),
        (
            ["source.kind=folder", "source.folder.root=/none", "source.folder.lists=/none"],
            "lists: /none is not a folder",
        ),
    ],
)
def test_a_failed_run_is_undone_by_the_words_of_the_readme(project: Path, changes: list[str], message: str) -> None:
    overrides = [word for change in changes for word in ("-S", change)]
    assert re.search(message, call(project, "dvc", "exp", "run", *overrides, check=False))
    assert UNDO in (project / "README.md").read_text()
    call(project, "bash", "-ec", UNDO)
    assert call(project, "git", "status", "--porcelain") == ""
    assert stale(project) == set()


def objects(cache: Path) -> dict[str, str]:
    """Name by which DVC knows each object of its cache -> digest of what is in it."""
    files = [file for file in (cache / "files" / "md5").glob("??/*") if file.is_file()]
    return {
        file.parent.name + file.name.removesuffix(".dir"): hashlib.md5(
            file.read_bytes(), usedforsecurity=False
        ).hexdigest()
        for file in files
    }


def test_a_stage_run_by_hand_leaves_the_cache_alone(project: Path) -> None:
    """What it replaces are hard links to the cache, where the file system has them."""
    if (project / "data" / "manifest.csv").stat().st_nlink < 2:
        pytest.skip("DVC does not make hard links here")
    before = objects(project / ".dvc" / "cache")
    assert len(before) > 200
    assert all(name == digest for name, digest in before.items())
    params = (project / "params.yaml").read_text()
    for old, new in (
        ("seed: 0", "seed: 5"),
        ("jpeg_quality: 96", "jpeg_quality: 91"),
        ("pictures: ", "pictures: 1  # "),
    ):
        assert old in params
        params = params.replace(old, new)
    (project / "params.yaml").write_text(params)
    items = ["train lvln_warp", "evaluate lvln_warp", "features trained", "controls", "probe attentive"]
    for stage in ["fetch", "decode", *items]:
        call(project, sys.executable, "-m", *f"stages.{stage}".split())
    assert objects(project / ".dvc" / "cache") == before
    call(project, "git", "checkout", "-q", "--", ".")
    call(project, "dvc", "checkout", "--force")
    assert objects(project / ".dvc" / "cache") == before
    assert stale(project) == set()
    assert call(project, "git", "status", "--porcelain") == ""


def corrupt(text: str) -> str:
    tree = json.loads(text)
    tree["model"]["psnr"]["1"] += 1.5
    return json.dumps(tree)


@pytest.mark.parametrize(("change", "code"), [(lambda text: text, 0), (corrupt, 1), (lambda _: "{}", 1)])
def test_ci_compares_with_the_committed_metrics(restored: Path, change: Callable[[str], str], code: int) -> None:
    file = restored / "metrics" / "evaluate_lvln.json"
    file.write_text(change(file.read_text()))
    done = subprocess.run(
        [sys.executable, ".ci/compare_metrics.py"], cwd=restored, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert ("model.psnr.1" in done.stderr) == bool(code)
