"""params.yaml: what is accepted, what is refused and in which words; and how DVC rewrites it."""

from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from dvc.utils.hydra import apply_overrides
from pydantic import Field

from pipeline.decode.resample import resample
from pipeline.settings import (
    Count,
    NotNegative,
    ParamsError,
    Pixels,
    Positive,
    Share,
    from_dict,
    given_path,
    load_section,
    overlay,
    read_params,
    section,
)
from stages.check import check, main
from stages.entry import run
from stages.preset import with_preset
from tests.support.import_closure import ROOT

PARAMS = ROOT / "params.yaml"
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
TREES = {"params": read_params(PARAMS)} | {file.stem: with_preset(file, PARAMS) for file in PRESETS}


@section
class Inner:
    rate: Positive


@section
class Example:
    count: Count
    share: Share
    part: Annotated[float, Field(gt=0, lt=1)]
    size: Pixels
    kind: Literal["a", "b"]
    level: Literal["auto", 1, True]
    on: bool
    root: str | None
    inner: Inner
    items: tuple[Inner, ...]
    weights: dict[str, NotNegative]
    free: dict

    def __post_init__(self) -> None:
        if self.kind == "b" and self.root is None:
            raise ValueError("kind is b: root must not be null")


GOOD = {
    "count": 1,
    "share": 1,
    "part": 0.5,
    "size": 64,
    "kind": "a",
    "level": "auto",
    "on": False,
    "root": None,
    "inner": {"rate": 0.1},
    "items": [{"rate": 1}, {"rate": 2.5}],
    "weights": {"l1": 1},
    "free": {"width": 4},
}


def refused(node: object, into: type = Example, *, where: str = "x") -> list[str]:
    """The lines that name the problems."""
    with pytest.raises(ParamsError) as error:
        from_dict(node, into, where=where)
    first, *problems = str(error.value).split("\n  ")
    assert first == "params:"
    return problems


def test_good_values_become_the_dataclass() -> None:
    got = from_dict(GOOD, Example, where="x")
    rest = Inner(0.1), (Inner(1.0), Inner(2.5)), {"l1": 1.0}, {"width": 4}
    assert got == Example(1, 1.0, 0.5, 64, "a", "auto", False, None, *rest)
    assert isinstance(got.share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "x.count: 0 is not allowed; allowed: an integer, at least 1"),
        ({"count": 1.0}, "x.count: 1.0 is not allowed; allowed: an integer, at least 1"),
        ({"count": True}, "x.count: true is not allowed; allowed: an integer, at least 1"),
        ({"count": "1"}, "x.count: '1' is not allowed; allowed: an integer, at least 1"),
        ({"count": None}, "x.count: null is not allowed; allowed: an integer, at least 1"),
        ({"share": 1.01}, "x.share: 1.01 is not allowed; allowed: a number, at least 0, at most 1"),
        ({"share": float("nan")}, "x.share: nan is not allowed; allowed: a number, at least 0, at most 1"),
        ({"share": float("inf")}, "x.share: inf is not allowed; allowed: a number, at least 0, at most 1"),
        ({"share": "1e-5"}, "x.share: '1e-5' is not allowed; allowed: a number, at least 0, at most 1"),
        ({"part": 1}, "x.part: 1 is not allowed; allowed: a number, above 0, below 1"),
        ({"size": 48}, "x.size: 48 is not allowed; allowed: an integer, above 0, a multiple of 32"),
        ({"size": 0}, "x.size: 0 is not allowed; allowed: an integer, above 0, a multiple of 32"),
        ({"kind": "c"}, "x.kind: 'c' is not allowed; allowed: one of 'a', 'b'"),
        ({"level": 2}, "x.level: 2 is not allowed; allowed: one of 'auto', 1, true"),
        ({"on": 1}, "x.on: 1 is not allowed; allowed: true or false"),
        ({"root": 3}, "x.root: 3 is not allowed; allowed: a string or null"),
        ({"inner": 3}, "x.inner: 3 is not allowed; allowed: a mapping of rate"),
        ({"inner": {"rate": 0}}, "x.inner.rate: 0 is not allowed; allowed: a number, above 0"),
        ({"inner": {}}, "x.inner.rate: missing; allowed: a number, above 0"),
        ({"items": {"rate": 1}}, "x.items: {'rate': 1} is not allowed; allowed: a list, each a mapping of rate"),
        ({"items": [{"rate": 1}, {"rate": -1}]}, "x.items.1.rate: -1 is not allowed; allowed: a number, above 0"),
        ({"items": [{"rate": 1, "extra": 2}]}, "x.items.0.extra: unknown key (value 2); allowed: rate"),
        ({"weights": [1]}, "x.weights: [1] is not allowed; allowed: a mapping, each a number, at least 0"),
        ({"weights": {"l1": -1}}, "x.weights.l1: -1 is not allowed; allowed: a number, at least 0"),
        ({"typo": 5}, f"x.typo: unknown key (value 5); allowed: {', '.join(GOOD)}"),
        ({"kind": "b"}, "x: kind is b: root must not be null"),
        ({"free": 3}, "x.free: 3 is not allowed; allowed: a mapping"),
    ],
)
def test_bad_values_are_refused_with_key_value_and_what_is_allowed(change: dict, message: str) -> None:
    assert refused({**GOOD, **change}) == [message]


@pytest.mark.parametrize("node", [3, None, [1], "text"])
def test_what_is_no_section_is_refused(node: object) -> None:
    (problem,) = refused(node, Inner)
    assert problem.startswith("x: ")
    assert problem.endswith("is not allowed; allowed: a mapping of rate")


def test_all_problems_are_reported_together() -> None:
    bad = {**GOOD, "count": 0, "on": "yes", "typo": 1}
    del bad["kind"]
    assert {problem.split(":")[0] for problem in refused(bad)} == {"x.count", "x.on", "x.typo", "x.kind"}


def test_small_rates_as_dvc_writes_them_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("probe:\n  rate: 1e-05\n")
    assert load_section("probe", Inner, path=file).rate == 0.00001


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("probe:\n  rate: 1\nother: 1\n", "probe", "unknown section other; allowed: source, decode"),
        ("decode: {}\n", "probe", "section probe is missing"),
        ("train:\n  lvln: 1\n", "train.one_frame", "section train.one_frame is missing"),
        ("train: 3\n", "train.lvln", "section train.lvln is missing"),
        ("- 1\n", "probe", r"holds \[1\], expected a mapping"),
        ("", "probe", "holds null, expected a mapping"),
        ("probe: [\n", "probe", "cannot be read as YAML"),
        ("probe:\n  rate: 1\n  rate: 2\n", "probe", "cannot be read as YAML"),
        (None, "probe", "no such file here"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str | None, name: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParamsError, match=f"params.yaml: {message}"):
        load_section(name, Inner, path=file)


@pytest.mark.parametrize("name", TREES)
def test_every_parameter_file_is_valid(name: str) -> None:
    check(TREES[name], source=name)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The committed tree with changes laid over it."""
    tree = deepcopy(TREES["params"])
    overlay(tree, changes)
    return tree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": {"model": "foo"}},
            "features.model: 'foo' is not allowed; allowed: lvln, one_frame, full_res, lvln_match, lvln_warp",
        ),
        ({"features": {"token_stride": 12}}, "features.token_stride: 12 does not divide the model's frames of 64×64"),
        (
            {"features": {"choices": ["errors", "errors"]}},
            "features: choices is ['errors', 'errors']; it needs at least",
        ),
        ({"features": {"frames": 1}}, "features: frames is 1, of which there is no flow; allowed: 0 (the whole video)"),
        ({"features": {"labels": "directions", "frames": 3}}, "frames is 3; allowed: an even number"),
        ({"probe": {"seeds": [0, 0, 2]}}, "probe: seeds is [0, 0, 2]; each may occur once"),
        ({"probe": {"head": {"hidden": 0}}}, "probe.head.hidden: 0 is not allowed; allowed: an integer, at least 1"),
        ({"hardware": {"device": "gpu"}}, "hardware.device: 'gpu' is not allowed; allowed: one of 'auto', 'cpu'"),
        ({"train": {"lvln": {"net": {"width": 5}}}}, "train.lvln.net.width: 5 is not allowed; allowed: an integer"),
        ({"train": {"lvln": {"loss": {"l3": 1}}}}, "train.lvln: loss.l3 is not a loss; allowed: l1, l2, dssim"),
        ({"train": {"mine": {}}}, "train.mine: there is no pipeline/variants/mine.py; there are full_res, lvln"),
        ({"train": None}, "train: null is not allowed; allowed: a mapping"),
        (
            {"decode": {"width": 32}},
            "train.lvln: frames of 64×64, but decode stores them at 64×32; raise decode.height and decode.width, or",
        ),
        ({"decode": None}, "decode: null is not allowed; allowed: a mapping of split"),
    ],
)
def test_a_slip_in_a_late_section_is_found_first(changes: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check(changed(changes), source="mine.yaml")
    assert message in str(error.value)


def test_the_problems_of_all_sections_are_reported_together() -> None:
    slips = {
        "source": {"kind": "film"},
        "train": {"lvln": {"batch": 0, "net": {"width": 5}}, "lvln_warp": {"clips": {"spacing": 0}}},
        "evaluate": {"step": 3},
        "probe": {"epochs": 0},
        "hardware": {"workers": -1},
    }
    with pytest.raises(ParamsError) as error:
        check(changed(slips), source="mine.yaml")
    first, *problems = str(error.value).split("\n")
    assert first == "mine.yaml:"
    assert {problem.strip().split(": ")[0] for problem in problems} == {
        "source.kind",
        "train.lvln.batch",
        "train.lvln_warp.clips.spacing",
        "evaluate.step",
        "probe.epochs",
        "hardware.workers",
    }


@pytest.mark.parametrize("name", TREES)
def test_clips_begin_at_each_place_of_the_rhythm(name: str) -> None:
    """Of 25 fps in 10 and 15: else a constant factor of speed is learned, and scored."""
    spacings = {section["clips"]["spacing"] for section in TREES[name]["train"].values()}
    for fps, period in ((10, 2), (15, 3)):
        gaps = np.diff(resample(np.arange(301), Fraction(1, 25), fps))
        assert (gaps[period:] == gaps[:-period]).all()
        assert len(set(gaps)) == 2
        for spacing in spacings | {TREES[name]["evaluate"]["spacing"]}:
            assert len({k * spacing % period for k in range(period)}) == period


def test_paths_mean_the_same_in_the_copies_in_which_dvc_runs_experiments(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert given_path("~/w.pth") == tmp_path / "home" / "w.pth"
    assert given_path("/data/w.pth") == Path("/data/w.pth")
    for copy in ("", ".dvc/tmp/exps/tmpx3", ".dvc/tmp/exps/standalone/tmpx3"):
        (tmp_path / copy).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / copy)
        assert given_path("../videos").resolve() == tmp_path.parent / "videos"


def test_the_check_of_a_file_elsewhere_leaves_its_traceback_in_runs(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.yaml").write_text("source: 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["check", str(tmp_path / "mine.yaml")])
    with pytest.raises(SystemExit, match=r"traceback in runs/check/traceback\.txt"):
        run("check", main)
    assert (tmp_path / "runs" / "check" / "traceback.txt").is_file()


def overridden(folder: Path, override: str) -> list[str]:
    """The lines of params.yaml after `dvc exp run -S`."""
    copy = folder / "params.yaml"
    copy.write_text(PARAMS.read_text())
    apply_overrides(copy, [override])
    return copy.read_text().splitlines()


def comments(lines: list[str]) -> list[str]:
    return [line.partition("#")[2] for line in lines if "#" in line]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("probe.epochs", "  epochs: 77"),
        ("hardware.workers", "  workers: 77"),
        ("train.lvln.loss.l1", "    loss: {dssim: 0.6, l1: 77, l2: 0.1}"),
        ("train.lvln.curriculum.1.epochs", "      epochs: 77"),
    ],
)
def test_dvc_changes_one_line_and_keeps_the_comments(key: str, line: str, tmp_path: Path) -> None:
    """Beside that it gives each item of a list its own line, whichever key is changed."""
    before, after = (overridden(tmp_path, override) for override in ("source.kind=motions", f"{key}=77"))
    changes = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [change.split("#")[0].rstrip() for change in changes] == [line]
    assert comments(after) == comments(PARAMS.read_text().splitlines())
