"""README.md and docs/: tables are of the committed figures, links lead somewhere, and what is named exists."""

import hashlib
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.evaluation.baselines import BASELINES
from pipeline.experiments.runs import listed
from pipeline.pages.cells import with_ends
from pipeline.pages.fill import END, KINDS, fill
from tests.support.committed import of_committed_figures
from tests.support.import_closure import ROOT
from tests.support.project import run_here

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
MARKER = re.compile(r"<!-- table: (\w+)([^\n]*?) -->")
EVERYWHERE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
NAMED = re.compile(r"`((?:\.github|\.ci|tests|presets|pipeline|stages|benchmarks|experiments|docs)/[\w./]+)`")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@of_committed_figures
def test_tables_are_those_of_the_committed_figures() -> None:
    done = run_here(ROOT, "stages.tables", "--check")
    assert done.returncode == 0, done.stderr


@EVERYWHERE
def test_links_and_names_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target, _, anchor in re.findall(r"\]\((?!http)([^)#]*)(#?)([^)]*)\)", text):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    for name in NAMED.findall(text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r'<img src="([^"]+)"', text):
        assert (page.parent / name).exists(), name


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300


def test_the_five_files_are_short() -> None:
    section = (ROOT / "README.md").read_text().split("## The code in five files")[1].split("\n## ")[0]
    files = re.findall(r"^\d\. \[`[^`]+`\]\(([^)]+)\)", section, re.M)
    assert len(files) == 5
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) < 1000


def test_the_animation_is_the_pipelines_own() -> None:
    """Byte for byte the output that dvc.lock records of the stage evaluate, whose videos are generated."""
    animation = (ROOT / "docs/lvln_warp.gif").read_bytes()
    assert len(animation) < 1_000_000
    outs = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["evaluate@lvln_warp"]["outs"]
    recorded = {out["path"]: out["md5"] for out in outs}
    digest = hashlib.md5(animation, usedforsecurity=False).hexdigest()
    assert digest == recorded["plots/evaluate/lvln_warp/predictions.gif"]


def test_every_run_of_the_experiments_is_in_a_table() -> None:
    shown = [word for page in PAGES for _, words in MARKER.findall(page.read_text()) for word in words.split()]
    levers = {words.strip() for page in PAGES for kind, words in MARKER.findall(page.read_text()) if kind == "levers"}
    for model, run in listed(file=str(ROOT / "experiments/runs.yaml")):
        assert f"{model}.{run}" in shown or model in levers, run


# --- the filler ------------------------------------------------------------------------------------------------------


def marked(kind: str, *old: str) -> str:
    return "\n".join([f"<!-- table: {kind} -->", *old, END])


@of_committed_figures
def test_filling_keeps_the_text_and_does_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = f"before\n\n{marked('one_ahead plots lvln')}\n\nbetween\n\n{marked('controls plots', 'old')}\nafter\n"
    filled = fill(page)
    assert filled == fill(filled)
    assert "old" not in filled
    text = [re.sub(rf"(-->)\n.*?{END}", r"\1", version, flags=re.S) for version in (page, filled)]
    assert text[0] == text[1]
    scores = pd.read_csv("plots/evaluate/lvln/scores.csv")
    first = scores[(scores["predictor"] == "lvln") & (scores["horizon_step"] == 1) & (scores["region"] == "whole")]
    assert f"| `lvln` | {first[first['metric'] == 'psnr']['value'].item():.2f} |" in filled


def test_a_marker_that_is_wrong_is_refused() -> None:
    with pytest.raises(
        ValueError, match=f"table: grids lvln.overfit_5 -->: grids is not allowed; allowed: {', '.join(KINDS)}"
    ):
        fill(marked("grids lvln.overfit_5"))
    with pytest.raises(ValueError, match="lacks its start or its"):
        fill("<!-- table: grid lvln.overfit_5 -->\n")
    with pytest.raises(ValueError, match="lacks its <!-- end"):
        fill(f"<!-- table: grid -->\n{marked('grid')}")


def test_tables_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    curve = {
        "seed": [0, 0, 0],
        "step": [0, 10, 20],
        "loss": [0.2, 0.08, 0.02],
        "psnr_moving": [10.0, 12.0, 15.5],
        "copy_last_psnr_moving": [14.0] * 3,
        "nyquist_ratio": [1500.0, 3.0, 1.25],
    }
    Path("plots/experiments/lvln/looks").mkdir(parents=True)
    pd.DataFrame(curve).to_csv("plots/experiments/lvln/looks/overfit_5.csv", index=False)
    page = fill(f"{marked('motion lvln.overfit_5')}\n{marked('grid lvln.overfit_5')}")
    assert "| lvln.overfit_5 | 0 | step 10 | -2.00 dB | step 20 | 0.020 | 0.020 | +1.50 dB |" in page
    assert "| lvln.overfit_5 | 1,500.00 | 3.00 | 1.25 |" in page


OWN = ("untrained", "still", "shuffled")
SHARED = ("encoder", "flow", "flow_pair", "encoder_flow", "chance")


def probed(features: str) -> list[dict[str, object]]:
    """Rows of an accuracy.csv, with an interval that is absent, as where there are too few groups."""
    row = {"features": features, "value": 0.5, "low": 0.25, "high": 0.625, "spread": 0.125}
    without = row | {"value": 0.125, "low": None, "high": None, "spread": 0.0}
    gain = row | {"metric": "gain", "value": -0.25, "low": -0.5, "high": 0.125, "spread": None}
    rows = [row | {"control": "probe", "metric": "top1"}, without | {"control": "probe", "metric": "top5"}]
    rows += [row | {"control": "probe", "metric": "nearest", "value": 0.75, "spread": 0.0}]
    rows += [without | {"control": name, "metric": metric} for name in OWN for metric in ("top1", "nearest")]
    return rows + [gain | {"control": name} for name in (*OWN, *SHARED)]


def test_tables_of_a_probe_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for choice in ("deepest", "pooled"):  # a choice that was not probed has no row
        folder = Path("plots/probe", choice)
        folder.mkdir(parents=True)
        pd.DataFrame(probed(choice)).to_csv(folder / "accuracy.csv", index=False)
        (folder / "facts.csv").write_text("name,value\ndimensions,1272\nclips,4\n")
    page = fill(f"{marked('probe plots')}\n{marked('probe_gains plots')}")
    neighbour = "75.0 ± 0.0 [25.0, 62.5] | 12.5 ± 0.0"
    assert f"| `pooled` | 1,272 | 50.0 ± 12.5 [25.0, 62.5] |{' 12.5 ± 0.0 |' * 3} {neighbour} |" in page
    assert f"| `deepest` |{' -25.0 [-50.0, +12.5] |' * 8}" in page
    assert "attentive" not in page
    rows = [row for row in probed("memoryless") if row["control"] == "probe"]
    Path("plots/controls.csv").write_text(pd.DataFrame(rows).to_csv(index=False))
    shared = "| `probe` | 50.0 ± 12.5 [25.0, 62.5] | 75.0 ± 0.0 [25.0, 62.5] |"
    assert shared in fill(marked("controls plots"))
    with pytest.raises(ValueError, match="table: probe plots extra -->: "):
        fill(marked("probe plots extra"))


def test_tables_of_a_pretraining_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("plots/pretraining/m")
    folder.mkdir(parents=True)
    row = {"features": "memoryless", "metric": "top1", "value": 0.25, "low": None, "high": None, "spread": 0.0}
    rows = [*probed("attentive"), *(row | {"control": name} for name in SHARED)]
    pd.DataFrame(rows).to_csv(folder / "accuracy.csv", index=False)
    looks = [
        {"step": step, "control": "probe", "value": step / 80, **dict.fromkeys(("low", "high", "spread"), 0.5)}
        for step in (0, 56)
    ]
    pd.DataFrame([*looks, looks[0] | {"control": "flow"}]).to_csv(folder / "steps.csv", index=False)
    page = fill("\n".join(map(marked, ("pretraining m", "pretraining_gains m", "steps m"))))
    gain = "-25.0 [-50.0, +12.5]"
    neighbour = "75.0 ± 0.0 [25.0, 62.5] | 12.5 ± 0.0"
    assert f"| m | `attentive` | 50.0 ± 12.5 [25.0, 62.5] | 12.5 ± 0.0 | {gain} | {neighbour} |" in page
    assert f"| `flow` | 25.0 ± 0.0 | {gain} |" in page
    assert f"| `still` | 12.5 ± 0.0 | {gain} |" in page
    assert "| steps of training | 0 | 56 |" in page
    assert "| top-1 (%) | 0.0 ± 50.0 [50.0, 50.0] | 70.0 ± 50.0 [50.0, 50.0] |" in page


def test_a_table_of_regions_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    psnr = {"whole": 30, "moving": 18.25, "expected": 19, "outcome": 17.5}
    rows = [
        {"predictor": name, "region": region, "metric": "psnr", "horizon_step": k, "value": value - 2 * k - less}
        for k in (1, 2)
        for less, name in enumerate(("m", *BASELINES))
        for region, value in psnr.items()
    ]
    rows += [row | {"metric": "ssim", "value": 0.5} for row in rows]
    Path("plots/evaluate/m").mkdir(parents=True)
    pd.DataFrame(rows).to_csv("plots/evaluate/m/scores.csv", index=False)
    page = fill(marked("regions plots m"))
    assert "| predictor | whole | moving | expected | outcome |" in page
    assert "| `m` | 28.00 | 16.25 | 17.00 | 15.50 |" in page
    assert "| `copy_last` | 27.00 | 15.25 | 16.00 | 14.50 |" in page


def test_a_table_of_the_time_to_beat_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model gets above the baseline, at its last score; the other does not in its time."""
    monkeypatch.chdir(tmp_path)
    scores = {"steps": [0, 1200, 0, 10], "minutes": [0, 2.5, 0, 1.5], "gain": [-1, 0.5, -3, -2.5]}
    ends = {"low": [-1.5, 0.25, -4, -3.5], "high": [0.5, 0.75, -2, -1.5]}
    names = {"data": ["some"] * 4, "model": ["quick", "quick", "slow", "slow"]}
    Path("plots").mkdir()
    pd.DataFrame(names | scores | ends).to_csv("plots/time_to_beat.csv", index=False)
    page = fill(marked("time_to_beat plots"))
    assert "| some | `quick` | 2.5 | 1,200 | +0.50 [+0.25, +0.75] |" in page
    assert "| some | `slow` | more than 1.5 | more than 10 | -2.50 [-3.50, -1.50] |" in page


def test_a_step_without_a_value_leaves_its_cell_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots/evaluate/m").mkdir(parents=True)
    rows = ["copy_last,whole,psnr,1,1.5,,", "copy_last,whole,psnr,2,2.5,2,3", "copy_last,moving,psnr,2,-1,-2,0.5"]
    header = "baseline,region,metric,horizon_step,value,low,high"
    Path("plots/evaluate/m/gains.csv").write_text("\n".join([header, *rows]))
    page = fill(marked("gains plots m"))
    assert "| metric | 1 ahead | 2 ahead |" in page
    assert "| PSNR (dB) ↑ | +1.50 | +2.50 [+2.00, +3.00] |" in page
    assert "| PSNR, moving ↑ |  | -1.00 [-2.00, +0.50] |" in page


def test_a_value_without_an_interval_is_shown_alone() -> None:
    """Too few groups in every class."""
    assert with_ends(25, -12.5, 50, "{:+.1f}") == "+25.0 [-12.5, +50.0]"
    assert with_ends(25, float("nan"), float("nan"), "{:+.1f}") == "+25.0"


# --- commands --------------------------------------------------------------------------------------------------------

RUN_BY = {  # how a command begins -> where it is run, in these or like words
    r"make (repro|test|setup)": (".ci/run", "make repro"),
    r"make experiments": ("tests/test_experiments.py", '"dvc", "repro", *targets'),
    r"source ": ("docs/walkthrough.md", "$ source .venv/bin/activate"),
    r"git (restore|commit)": ("docs/walkthrough.md", "$ git restore --staged --worktree ."),
    r"dvc checkout": ("docs/walkthrough.md", "$ dvc checkout"),
    r"dvc repro$": (".ci/run", "make repro"),
    r"dvc repro (evaluate@|decode)": ("tests/test_pipeline.py", '"dvc", "repro", "-s", "decode"'),
    r"dvc repro -f -s train@": ("tests/test_ranks.py", "torchrun"),
    r"dvc repro experiments/": ("tests/test_experiments.py", '"dvc", "repro", *targets'),
    r"dvc exp run -S (train|source|\+train|'train)": ("tests/test_pipeline.py", '"dvc", "exp", "run"'),
    r"dvc exp run -S decode.executor=dask": ("tests/test_resume_decode.py", "dask_scheduler"),
    r"dvc exp run --queue": ("docs/walkthrough.md", "$ dvc exp run --queue"),
    r"dvc queue start": ("docs/walkthrough.md", "$ dvc queue start"),
    r"dvc (metrics|plots) show": ("docs/walkthrough.md", "$ dvc metrics show"),
    r"python -m stages.compare": ("docs/walkthrough.md", "$ python -m stages.compare"),
    r"python -m stages.charts": ("docs/walkthrough.md", "$ python -m stages.charts"),
    r"dvc (params|metrics) diff": ("docs/walkthrough.md", "$ dvc metrics diff"),
    r"dvc plots diff HEAD workspace": ("tests/test_pipeline.py", '"dvc", "plots", "diff", "HEAD", "workspace"'),
    r"dvc commit -f train@": ("tests/test_ranks.py", "dvc commit"),
    r"torchrun ": ("tests/test_ranks.py", "torchrun"),
    r"python -m dask ": ("tests/test_resume_decode.py", "dask_scheduler"),
    r"python -m stages.preset (tiny|folder_cpu|ucf101)": ("tests/test_preset.py", "preset"),
    r"python -m stages.predict ": ("tests/test_predict.py", '"-m", "stages.predict"'),
    r"python -m stages.experiment one_frame sgd": (
        "tests/test_experiments.py",
        '"stages.experiment", "one_frame", "sgd"',
    ),
    r"python -m stages.tables": ("tests/test_pages.py", '"stages.tables", "--check"'),
    r"python -m benchmarks.full_scale": ("tests/test_full_scale.py", "full_scale.watched"),
}


def commands(page: Path) -> list[str]:
    """Those of the fences without a language, comments aside; the walk-through's are run by its own test."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S):
        if language:
            continue
        lines = (line.split(" # ")[0].strip() for line in block.splitlines())
        found += [part.strip() for line in lines for part in line.split("&&")]
    return [command for command in found if re.match(r"(dvc|git|make|python|source|torchrun)", command)]


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.name)
def test_every_command_is_run_by_a_test_or_by_ci(page: Path) -> None:
    for command in commands(page):
        (file, words), *_ = [where for start, where in RUN_BY.items() if re.match(start, command)] or [(None, None)]
        assert file, f"{command}: nothing runs it"
        assert words in (ROOT / file).read_text(), (file, words)


def python_of(page: str) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
    return code


@of_committed_figures
def test_the_line_of_pandas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    exec(python_of("metrics.md"), {})
    printed = capsys.readouterr().out
    assert "constant_velocity" in printed
    assert "moving" in printed


def test_the_shards_are_read_as_the_page_says(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shards").symlink_to(shards)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_of("data.md"), names)
    assert names["first_jpeg"][:2] == b"\xff\xd8"
    assert names["label"] in range(8)
