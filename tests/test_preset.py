"""`python -m stages.preset`: a preset, which holds only what differs, laid over params.yaml."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline.settings import read_params
from stages.entry import run
from stages.preset import main, with_preset
from tests.support.import_closure import ROOT
from tests.support.project import call

FILES = sorted((ROOT / "presets").glob("*.yaml"))
NAMES = [file.stem for file in FILES]


def leaves(node: object, key: str = "", *, items: bool = False) -> Iterator[tuple[str, object]]:
    """Dotted keys and their values; items: those in a list too, by index."""
    if isinstance(node, dict) or (items and isinstance(node, list)):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{key}.{name}" if key else str(name), items=items)
    else:
        yield key, node


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml and presets/, committed, in a git repository of their own; the working directory."""
    (tmp_path / "presets").mkdir()
    for file in (ROOT / "params.yaml", *FILES):
        (tmp_path / file.relative_to(ROOT)).write_bytes(file.read_bytes())
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        call(tmp_path, "git", *command)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def preset(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """The command in this process; SystemExit with its message when it cannot go on."""
    monkeypatch.setattr("sys.argv", ["preset", *names])
    run("preset", main)


def test_it_writes_the_values_and_keeps_the_comments(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, text = read_params(), Path("params.yaml").read_text()
    wanted = with_preset(Path("presets/tiny.yaml"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    said = call(repository, "python", "-m", "stages.preset", "tiny")
    after = Path("params.yaml").read_text()
    assert read_params() == wanted != before
    comments, kept = (re.findall("# .*", each) for each in (text, after))
    assert comments == kept
    first, *changes, last = said.splitlines()
    old, new = dict(leaves(before)), dict(leaves(wanted))
    expected = [f"  {key}: {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
    assert changes == expected
    assert "  decode.height: 64 -> 32" in expected
    assert first == f"params.yaml: {len(expected)} values from presets/tiny.yaml"
    assert last == "back again: git restore params.yaml"
    call(repository, "git", "restore", "params.yaml")
    assert Path("params.yaml").read_text() == text


def test_changes_of_ones_own_stay_and_are_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("dropout: 0.3", "dropout: 0.2").replace("epochs: 15", "epochs: 16"))
    preset(monkeypatch, "tiny")
    said = capsys.readouterr().out
    assert said.startswith("params.yaml was not as committed; your changes stay wherever the preset says nothing\n")
    assert "  probe.epochs: 16 -> 2\n" in said
    assert read_params()["probe"]["dropout"] == 0.2
    assert read_params()["probe"]["epochs"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decode: {hight: 32}", "decode.hight: unknown key (value 32); allowed: split, "),
        ("train: {lvln: {loss: {l3: 1}}}", "train.lvln: loss.l3 is not a loss; allowed: l1, "),
        ("train: {lvlm: {batch: 4}}", "train.lvlm: there is no pipeline/variants/lvlm.py; there are full_res, lvln"),
        (
            "train: {lvln_moving: {batch: 4}}",
            "train.lvln_moving: metrics/lvln_moving.json would be another's; give the",
        ),
        ("decoder: {height: 32}", "presets/mine.yaml: unknown section decoder; allowed: source, decode, "),
        ("decode: {height: 33}", "decode.height: 33 is not allowed; allowed: "),
        ("decode: 32", "decode: 32 is not allowed; allowed: a mapping of split, "),
        ("decode: [", "presets/mine.yaml: cannot be read as YAML"),
    ],
)
def test_a_preset_that_does_not_fit_changes_nothing(
    text: str, message: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("presets/mine.yaml").write_text(f"evaluate: {{spacing: 5}}\n{text}\n")
    before = Path("params.yaml").read_bytes()
    with pytest.raises(SystemExit) as exit:
        preset(monkeypatch, "mine")
    assert message in str(exit.value)
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize("names", [(), ("huge",), ("tiny", "ucf101"), ("presets/tiny.yaml",)])
def test_the_usage_names_the_presets(names: tuple[str, ...], repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("params.yaml").read_bytes()
    with pytest.raises(SystemExit) as exit:
        preset(monkeypatch, *names)
    assert str(exit.value) == f"usage: python -m stages.preset {'|'.join(NAMES)}"
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_every_key_can_be_changed_after_a_preset(name: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, as `dvc exp run -S` does: nothing is shared by YAML's anchors."""
    preset(monkeypatch, name)
    assert read_params() == with_preset(ROOT / "presets" / f"{name}.yaml", ROOT / "params.yaml")
    without_comments = re.sub("#.*", "", Path("params.yaml").read_text())
    assert not re.search(r"[&*]\w", without_comments)
    values = {key: 1000 + i for i, (key, _) in enumerate(leaves(read_params(), items=True))}
    apply_overrides(Path("params.yaml"), [f"{key}={value}" for key, value in values.items()])
    assert dict(leaves(read_params(), items=True)) == values


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_preset_holds_only_what_differs(file: Path) -> None:
    committed = dict(leaves(read_params(ROOT / "params.yaml")))
    assert not [key for key, value in leaves(read_params(file)) if committed.get(key) == value]
