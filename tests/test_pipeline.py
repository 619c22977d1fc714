"""The pipeline as a user runs it: real `dvc` commands in a clone of their own, on the tiny preset."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.evaluation.baselines import BASELINES
from pipeline.nets.encoder import TAPS
from pipeline.pages.cells import facts
from pipeline.pages.results import accuracies
from pipeline.settings import read_yaml
from tests.support.import_closure import ROOT
from tests.support.project import call, copy_project, ran

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODELS = tuple(read_yaml(ROOT / "params.yaml")["train"])
CHOICES = ("deepest", "subsample", "combined", "pooled", "attentive")
ALL = {
    "fetch",
    "decode",
    "features",
    "controls",
    *(f"{stage}@{model}" for stage in ("train", "evaluate") for model in MODELS),
    *(f"probe@{choice}" for choice in CHOICES),
}
PROBES = {"controls", *(f"probe@{choice}" for choice in CHOICES)}


def widest(text: str) -> int:
    return max(len(line.rstrip()) for line in text.splitlines())


def stale(folder: Path) -> set[str]:
    """Stages that are not up to date, by `dvc status`; upstream ones come with all that wait for them."""
    return set(json.loads(call(folder, "dvc", "status", "--json", "dvc.yaml")))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree with the tiny preset, reproduced once."""
    folder = copy_project(tmp_path_factory.mktemp("project"), without=("metrics/", "plots/", "dvc.lock"))
    assert "83 values from presets/tiny.yaml" in call(folder, "python", "-m", "stages.preset", "tiny")
    assert ran(call(folder, "dvc", "repro")) == ALL
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "reproduced")
    return folder


@pytest.fixture
def restored(project: Path):
    """Any change a test makes to tracked files is undone."""
    yield project
    call(project, "git", "reset", "-q", "--hard")  # DVC has staged what the stages wrote
    call(project, "dvc", "checkout", "-q")


@pytest.fixture
def edited(project: Path):
    """For changes of tracked files that nothing is run with; they are undone."""
    yield project
    call(project, "git", "checkout", "-q", "--", ".")


def test_a_second_repro_runs_nothing(project: Path) -> None:
    output = call(project, "dvc", "repro")
    assert ran(output) == set()
    assert "Data and pipelines are up to date" in output
    assert call(project, "git", "status", "--porcelain") == ""


def test_metrics_are_few_and_fit_a_terminal(project: Path) -> None:
    (shown,) = json.loads(call(project, "dvc", "metrics", "show", "--json")).values()
    numbers = {file: found["data"] for file, found in shown["data"].items()}
    assert 40 <= sum(map(len, numbers.values())) <= 75
    assert numbers["metrics/decode.json"] == {"found": 176, "good": 176, "bad": 0, "frames": 176 * 25}
    for model in MODELS:
        assert set(numbers[f"metrics/train_{model}.json"]) == {"loss", "val_loss"}
        for suffix in ("", "_moving"):
            assert set(numbers[f"metrics/{model}{suffix}.json"]) == {"psnr", "ssim", "vs_copy", "vs_flow"}
    for choice in CHOICES:
        assert set(numbers[f"metrics/probe_{choice}.json"]) == {"top1", "vs_encoder", "vs_flow", "vs_untrained"}
    assert widest(call(project, "dvc", "metrics", "show")) <= 160


def test_tables_hold_everything(project: Path) -> None:
    for model in MODELS:
        folder = project / "plots/evaluate" / model
        scores = pd.read_csv(folder / "scores.csv")
        assert set(scores["predictor"]) == {model, *BASELINES}
        assert {"psnr", "ms_ssim", "nyquist_ratio", "loss"} < set(scores["metric"])
        assert (
            scores.groupby(["predictor", "region", "metric"])["horizon_step"].agg(list).map(str) == "[1, 2, 3]"
        ).all()
        phases = len(read_yaml(project / "params.yaml")["train"][model]["curriculum"])
        curriculum = pd.read_csv(folder / "curriculum.csv")
        assert set(curriculum["phase"]) == {*map(str, range(1, phases + 1)), "copy_last"}
        assert facts(folder / "facts.csv")["skipped.lpips"].startswith("evaluate.lpips is null")
        assert set(pd.read_csv(project / f"plots/train/{model}/curves.csv")["curve"]) == {"loss", "val_loss", "lr"}
    shared = {"chance", "encoder", *TAPS, "flow", "flow_pooled", "flow_pair", "encoder_flow"}
    assert set(accuracies(project / "plots/controls.csv", "top1").index) == shared
    for choice in CHOICES:
        file = project / f"plots/probe/{choice}/accuracy.csv"
        own = accuracies(file, "top1")
        assert set(own.index) == {"probe", "untrained", "still", "shuffled"}
        assert own.notna().all(axis=None)
        for metric in ("gain", "nearest_gain"):
            assert set(accuracies(file, metric).index) == shared | set(own.index) - {"probe"}
        assert set(accuracies(file, "nearest").index) == set(own.index)
        confusion = pd.read_csv(project / f"plots/probe/{choice}/confusion.csv")
        assert confusion.groupby("actual")["share"].sum().round(4).eq(1).all()


def test_forced_reproduction_is_bit_for_bit_the_same(project: Path) -> None:
    """One item of each stage, one after the other."""
    before = (project / "dvc.lock").read_bytes()
    items = ["train@lvln_warp", "evaluate@lvln_warp", "features", "controls", "probe@attentive"]
    again = ["fetch", "decode", *items]
    assert ran(call(project, "dvc", "repro", "--force", "--single-item", *again)) == set(again)
    assert (project / "dvc.lock").read_bytes() == before
    assert call(project, "git", "status", "--porcelain") == ""


CHANGED = [
    ("train.one_frame.optimizer.lr", 1e-4, {"train@one_frame"}),
    ("train.lvln.curriculum.1.epochs", 2, {"train@lvln"}),
    ("train.lvln.loss.l1", 0.2, {"train@lvln"}),
    ("evaluate.spacing", 5, {f"evaluate@{model}" for model in MODELS}),
    ("features.batch", 3, {"features"}),
    ("probe.head.hidden", 17, PROBES),
    ("decode.jpeg_quality", 90, {"decode"}),
    ("decode.scheduler", 1, {"decode"}),
    ("source.motions.seed", 9, {"fetch"}),
    ("hardware.workers", 2, set()),
    ("hardware.device", "cpu", set()),
    ("hardware.compile", False, set()),
    ("hardware.checkpoint_minutes", 9, set()),
    ("hardware.precision", "32-true", {f"train@{model}" for model in MODELS}),
]


def set_params(folder: Path, values: dict[str, object]) -> None:
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(str(folder / "params.yaml")) as tree:
        for key, value in values.items():
            node = tree
            *parents, last = key.split(".")
            for name in parents:
                node = node[int(name)] if name.isdigit() else node[name]
            node[last] = value


@pytest.mark.parametrize(("key", "value", "expected"), CHANGED)
def test_a_changed_param_makes_its_own_stages_stale(edited: Path, key: str, value: object, expected: set[str]) -> None:
    set_params(edited, {key: value})
    assert stale(edited) == expected


def test_params_diff_names_every_change(edited: Path) -> None:
    set_params(edited, {key: value for key, value, _ in CHANGED})
    shown = json.loads(call(edited, "dvc", "params", "diff", "--json"))["params.yaml"]
    assert set(shown) == {key.partition(".1.")[0] for key, *_ in CHANGED}  # a list is shown whole


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pipeline/variants/full_res.py", {"train@full_res", "evaluate@full_res"}),
        ("pipeline/variants/lvln_warp.py", {"train@lvln_warp", "evaluate@lvln_warp", "features"}),
        ("pipeline/evaluation/figures.py", {f"evaluate@{model}" for model in MODELS}),
        ("pipeline/probe/classifier.py", PROBES),
        ("pipeline/datasets/motions.py", {"fetch"}),
        ("README.md", set()),
    ],
)
def test_changed_code_makes_stale_only_what_imports_it(edited: Path, file: str, expected: set[str]) -> None:
    with (edited / file).open("a") as stream:
        stream.write("\n# changed\n")
    assert stale(edited) == expected


@pytest.fixture
def extended(restored: Path, request: pytest.FixtureRequest):
    """The project with the diff of a section of docs/extending.md, which is gone again afterwards."""
    section = (ROOT / "docs/extending.md").read_text().split(f"\n## {request.param}\n")[1].split("\n## ")[0]
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", section, re.M | re.S)
    (restored / "change.diff").write_text(diff)
    call(restored, "git", "apply", "change.diff")
    yield restored
    call(restored, "git", "reset", "-q", "--hard")  # DVC has staged what the stages wrote
    call(restored, "git", "clean", "-qfd")
    call(restored, "dvc", "checkout", "-q")
    assert stale(restored) == set()


@pytest.mark.parametrize("extended", ["A model"], indirect=True)
def test_a_new_model_is_a_file_and_a_section(extended: Path) -> None:
    lvln = read_yaml(extended / "params.yaml")["train"]["lvln"]
    small = ("net", "height", "width", "clips", "curriculum", "optimizer", "early_stopping")  # as the preset has them
    set_params(extended, {f"train.no_location.{key}": lvln[key] for key in small})
    assert stale(extended) == {"train@no_location", "evaluate@no_location"}
    assert "every section is valid" in call(extended, "python", "-m", "stages.check")
    output = call(extended, "dvc", "repro", "evaluate@no_location")
    assert ran(output) == {"train@no_location", "evaluate@no_location"}
    assert "metrics/no_location_moving.json" in call(extended, "dvc", "metrics", "diff")


@pytest.mark.parametrize("extended", ["A metric"], indirect=True)
def test_a_new_metric_is_a_function_and_an_entry(extended: Path) -> None:
    assert ran(call(extended, "dvc", "repro", "-s", "evaluate@one_frame")) == {"evaluate@one_frame"}
    scores = pd.read_csv(extended / "plots/evaluate/one_frame/scores.csv")
    psnr, l2 = (scores[(scores["metric"] == name) & (scores["region"] == "whole")] for name in ("psnr", "l2"))
    assert len(l2) == len(psnr) == 18
    assert (l2["value"].to_numpy() >= 10 ** (-psnr["value"].to_numpy() / 10) * 0.999).all()  # by Jensen's inequality


@pytest.mark.parametrize("extended", ["A loss"], indirect=True)
def test_a_new_loss_is_an_entry(extended: Path) -> None:
    output = call(extended, "dvc", "exp", "run", "-S", "+train.one_frame.loss.charbonnier=1.0", "train@one_frame")
    assert ran(output) == {"train@one_frame"}
    assert "charbonnier" in call(extended, "dvc", "params", "diff")


@pytest.mark.parametrize("extended", ["A data set"], indirect=True)
def test_a_new_data_set_is_a_module_and_a_kind(extended: Path, tmp_path: Path) -> None:
    for video in (extended / "data/raw/UCF-101").rglob("*_g0[1-5]_*.avi"):
        (tmp_path / video.parent.name).mkdir(exist_ok=True)
        shutil.copy(video, tmp_path / video.parent.name)
    changes = ["source.kind=by_class", f"source.by_class.root={tmp_path}"]
    output = call(extended, "dvc", "exp", "run", *(word for each in changes for word in ("-S", each)), "fetch")
    assert "by_class: 40 videos of 8 classes" in output
    table = pd.read_csv(extended / "data/raw/videos.csv")
    assert table.groupby("split").size().to_dict() == {"train": 24, "validation": 8, "test": 8}


@pytest.mark.parametrize("extended", ["A frame rate"], indirect=True)
def test_a_new_frame_rate_is_in_five_files(extended: Path) -> None:
    assert ran(call(extended, "dvc", "repro", "-s", "decode")) == {"decode"}
    assert list((extended / "data/shards/30").glob("test-*.tar"))
    manifest = pd.read_csv(extended / "data/manifest.csv")
    assert (manifest["frames_30"] == 29).all()  # of 25, the last of which is shown at 0.96 s
    params = extended / "params.yaml"
    params.write_text(params.read_text().replace("- fps: 25", "- fps: 30"))
    assert "every section is valid" in call(extended, "python", "-m", "stages.check")


def test_experiments(restored: Path) -> None:
    """`dvc exp run -S`, `exp show`, `metrics diff`, `params diff`, `plots diff` on one changed rate."""
    call(restored, "dvc", "exp", "remove", "--all-commits")  # those of the tests before
    output = call(restored, "dvc", "exp", "run", "-n", "slower", "-S", "train.one_frame.optimizer.lr=1e-5")
    assert ran(output) == {"train@one_frame", "evaluate@one_frame"}
    assert "lr: 1e-05" in (restored / "params.yaml").read_text()
    assert "train.one_frame.optimizer.lr" in call(restored, "dvc", "params", "diff")
    difference = call(restored, "dvc", "metrics", "diff")
    assert set(re.findall(r"metrics/\w+\.json", difference)) == {
        *(f"metrics/{name}.json" for name in ("train_one_frame", "one_frame", "one_frame_moving"))
    }
    assert 8 <= len(difference.splitlines()) <= 13
    narrow = ["env", "COLUMNS=140", "dvc", "exp", "show", "--only-changed", "--no-pager"]
    assert "slower" in call(restored, *narrow)
    assert widest(call(restored, *narrow)) <= 140
    turned = call(restored, "python", "-m", "stages.compare")
    assert widest(turned) <= 140
    names, *rows = [line.split() for line in turned.splitlines()]
    table = {number: dict(zip(names, values, strict=True)) for number, *values in rows}
    rates = table["train.one_frame.optimizer.lr"]
    assert (rates["main"], rates["slower"], rates["workspace"]) == ("0.001", "1e-05", "1e-05")
    psnr = table["metrics/one_frame_moving.json:psnr"]
    assert psnr["slower"] == psnr["workspace"] != psnr["main"]
    call(restored, "dvc", "plots", "diff", "HEAD", "workspace", "-o", "page")
    page = (restored / "page" / "index.html").read_text()
    assert page.count('"Prediction on the test split"') == page.count('"Probe on the test split"') == 1
    for model in MODELS:
        assert f'"{model}: all other metrics"' in page
        for kind in ("png", "gif"):
            assert list((restored / "page" / "static").glob(f"workspace*evaluate_{model}_predictions.{kind}"))
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
    items = ["train lvln_warp", "evaluate lvln_warp", "features", "controls", "probe attentive"]
    for stage in ["fetch", "decode", *items]:
        call(project, sys.executable, "-m", *f"stages.{stage}".split())
    assert objects(project / ".dvc" / "cache") == before
    call(project, "git", "checkout", "-q", "--", ".")
    call(project, "dvc", "checkout", "--force")
    assert objects(project / ".dvc" / "cache") == before
    assert stale(project) == set()
    assert call(project, "git", "status", "--porcelain") == ""


def corrupt(text: str) -> str:
    """The model's PSNR one frame ahead, 1.5 dB off."""
    row = re.search(r"^lvln,whole,psnr,1,([\d.]+),", text, re.M)
    return text.replace(row[0], row[0].replace(row[1], f"{float(row[1]) + 1.5:.4f}"))


def cut(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("lvln,whole,psnr")) + "\n"


@pytest.mark.parametrize(("change", "code"), [(str, 0), (corrupt, 1), (cut, 1)])
def test_ci_compares_with_the_committed_tables(restored: Path, change: Callable[[str], str], code: int) -> None:
    file = restored / "plots/evaluate/lvln/scores.csv"
    file.write_text(change(file.read_text()))
    done = subprocess.run(
        [sys.executable, ".ci/compare_metrics.py"], cwd=restored, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert ("plots/evaluate/lvln/scores.csv: lvln whole psnr 1, value: " in done.stderr) == bool(code)
