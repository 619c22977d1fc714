"""params.yaml: what is accepted, what is refused and in which words; presets; how DVC rewrites it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from pipeline.decode.video import resample
from pipeline.settings import (
    Above,
    AtLeast,
    Between,
    MultipleOf,
    ParamsError,
    from_dict,
    given_path,
    load_section,
    read_yaml,
)
from stages.check import check, main
from stages.entry import run

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Above(0)]


@dataclass(frozen=True)
class Example:
    count: Annotated[int, AtLeast(1)]
    share: Annotated[float, Between(0, 1)]
    size: Annotated[int, MultipleOf(32)]
    kind: Literal["a", "b"]
    level: Literal[1, 2]
    on: bool
    root: str | None
    inner: Inner
    items: tuple[Inner, ...]
    free: dict

    def __post_init__(self) -> None:
        if self.kind == "b" and self.root is None:
            raise ValueError("kind is b: root must not be null")


GOOD = {
    "count": 1,
    "share": 1,
    "size": 64,
    "kind": "a",
    "level": 1,
    "on": False,
    "root": None,
    "inner": {"rate": 0.1},
    "items": [{"rate": 1}, {"rate": 2.5}],
    "free": {"width": 4},
}


def test_good_values_become_the_dataclass() -> None:
    got = from_dict(GOOD, Example, where="x")
    assert got == Example(1, 1.0, 64, "a", 1, False, None, Inner(0.1), (Inner(1.0), Inner(2.5)), {"width": 4})
    assert isinstance(got.share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "x.count: 0 is out of range; allowed: at least 1"),
        ({"count": 1.0}, "x.count: 1.0 is not an integer"),
        ({"count": True}, "x.count: true is not an integer"),
        ({"count": "1"}, "x.count: '1' is not an integer"),
        ({"count": None}, "x.count: null is not an integer"),
        ({"share": 1.01}, "x.share: 1.01 is out of range; allowed: from 0 to 1"),
        ({"share": float("nan")}, "x.share: nan is not a number"),
        ({"share": float("inf")}, "x.share: inf is not a number"),
        ({"share": "1e-5"}, "x.share: '1e-5' is not a number"),
        ({"size": 48}, "x.size: 48 is out of range; allowed: a positive multiple of 32"),
        ({"size": 0}, "x.size: 0 is out of range"),
        ({"kind": "c"}, "x.kind: 'c' is not allowed; allowed: 'a', 'b'"),
        ({"level": True}, "x.level: true is not allowed; allowed: 1, 2"),
        ({"on": 1}, "x.on: 1 is not true or false"),
        ({"root": 3}, "x.root: 3 is not a string"),
        ({"inner": 3}, "x.inner: 3 is not a mapping; allowed: rate"),
        ({"inner": {"rate": 0}}, "x.inner.rate: 0 is out of range; allowed: above 0"),
        ({"inner": {}}, "x.inner.rate: missing key; allowed: a number above 0"),
        ({"items": {"rate": 1}}, "x.items: {'rate': 1} is not a list"),
        ({"items": [{"rate": 1}, {"rate": -1}]}, "x.items.1.rate: -1 is out of range"),
        ({"items": [{"rate": 1, "extra": 2}]}, "x.items.0.extra: unknown key (value 2); allowed: rate"),
        ({"typo": 5}, "x.typo: unknown key (value 5); allowed: count, share"),
        ({"kind": "b"}, "x: kind is b: root must not be null"),
        ({"free": 3}, "x.free: 3 is not a mapping"),
    ],
)
def test_bad_values_are_refused_with_key_value_and_what_is_allowed(change: dict, message: str) -> None:
    with pytest.raises(ParamsError) as error:
        from_dict({**GOOD, **change}, Example, where="x")
    assert message in str(error.value)


def test_all_problems_are_reported_together() -> None:
    bad = {**GOOD, "count": 0, "on": "yes", "typo": 1}
    del bad["kind"]
    with pytest.raises(ParamsError) as error:
        from_dict(bad, Example, where="x")
    assert all(key in str(error.value) for key in ("x.count", "x.on", "x.typo", "x.kind"))


def test_small_rates_as_dvc_writes_them_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("probe:\n  rate: 1e-05\n")
    assert load_section(file, "probe", Inner).rate == 0.00001


@pytest.mark.parametrize(
    ("text", "section", "message"),
    [
        ("probe:\n  rate: 1\nother: 1\n", "probe", "unknown section other; allowed: source, decode"),
        ("train:\n  lvnl: 1\n", "train.lvln", "unknown section train.lvnl; allowed: lvln, one_frame, full_res"),
        ("decode: {}\n", "probe", "section probe is missing"),
        ("train:\n  lvln: 1\n", "train.one_frame", "section train.one_frame is missing"),
        ("- 1\n", "probe", "expected a mapping"),
        ("probe: [\n", "probe", "cannot be read as YAML"),
        ("probe:\n  rate: 1\n  rate: 2\n", "probe", "cannot be read as YAML"),
        (None, "probe", "no such file here"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str | None, section: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParamsError, match=message.replace("[", r"\[")):
        load_section(file, section, Inner)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_parameter_file_is_valid(file: Path) -> None:
    check(file)


@pytest.mark.parametrize(
    ("section", "old", "new", "message"),
    [
        ("features", "model: lvln_warp", "model: foo", "features.model: 'foo' is not allowed; allowed: 'lvln'"),
        ("features", "token_stride: 8", "token_stride: 12", "features.token_stride: 12 does not divide the model's"),
        ("probe", "  - 1\n", "  - 0\n", "probe: seeds is [0, 0, 2]; a seed may occur once"),
        ("probe", "hidden: 256", "hidden: 0", "probe.head.hidden: 0 is out of range"),
        (
            "train",
            "width: 16",
            "width: 5",
            "train.lvln.net.width: 5 is out of range; allowed: a positive multiple of 4",
        ),
    ],
)
def test_a_slip_in_a_late_section_is_found_first(
    tmp_path: Path, section: str, old: str, new: str, message: str
) -> None:
    text = (ROOT / "params.yaml").read_text()
    at = text.index(f"\n{section}:")
    (tmp_path / "params.yaml").write_text(text[:at] + text[at:].replace(old, new, 1))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check(tmp_path / "params.yaml")
    assert message in str(error.value)


def key_tree(node: object) -> object:
    return {key: key_tree(value) for key, value in node.items()} if isinstance(node, dict) else None


@pytest.mark.parametrize("file", FILES[1:], ids=lambda file: file.name)
def test_presets_have_the_key_tree_of_params_yaml(file: Path) -> None:
    assert key_tree(read_yaml(file)) == key_tree(read_yaml(ROOT / "params.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_clips_begin_at_each_place_of_the_rhythm(file: Path) -> None:
    """Of 25 fps in 10 and 15: else a constant factor of speed is learned, and scored."""
    tree = read_yaml(file)
    steps = [section["clips"]["step"] for section in tree["train"].values()] + [tree["evaluate"]["step"]]
    for fps, period in ((10, 2), (15, 3)):
        gaps = np.diff(resample(np.arange(301), Fraction(1, 25), fps))
        assert (gaps[period:] == gaps[:-period]).all()
        assert len(set(gaps)) == 2
        assert all(len({k * step % period for k in range(period)}) == period for step in steps)


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


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_parameter_files_are_written_as_dvc_rewrites_them(file: Path, tmp_path: Path) -> None:
    """`dvc exp run -S` must change one line and leave the rest, comments included."""
    from dvc.utils.serialize import modify_yaml

    copy = tmp_path / "params.yaml"
    copy.write_text(file.read_text())
    with modify_yaml(str(copy)) as data:
        data["probe"]["epochs"] = 77
    before, after = file.read_text().splitlines(), copy.read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [b.split("#")[0].rstrip() for _, b in changed] == ["  epochs: 77"]
