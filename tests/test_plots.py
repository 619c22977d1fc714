"""The plots page: every chart has a title and axes, a template that is here, and marks when Vega draws it."""

import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import vl_convert
import yaml

from pipeline.evaluation.baselines import BASELINES
from pipeline.settings import read_yaml
from tests.support.committed import of_committed_figures
from tests.support.import_closure import ROOT
from tests.support.project import call

FILES = ("dvc.yaml", "experiments/dvc.yaml")
TEMPLATES = {file.stem: file.read_text() for file in (ROOT / ".dvc/plots").glob("*.json")}


def charts() -> Iterator[tuple[str, dict]]:
    for file in FILES:
        tree = yaml.safe_load((ROOT / file).read_text())
        for entry in tree["plots"]:
            yield from entry.items()
        for stage in tree["stages"].values():
            plots = stage.get("do", stage).get("plots", [])
            for name, properties in (item for entry in plots for item in entry.items()):
                if name.endswith(".csv"):
                    yield name, properties


@pytest.mark.parametrize(("name", "properties"), list(charts()))
def test_a_chart_has_title_and_axes(name: str, properties: dict) -> None:
    assert {"title", "x", "y", "template"} <= set(properties), name
    assert properties["template"] in TEMPLATES
    if isinstance(properties["y"], dict):
        assert {"x_label", "y_label"} <= set(properties), name
        fields = list(properties["y"].values())
        assert all(field == fields[0] for field in fields), "one field, so that a curve is a file"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_takes_title_data_and_axes(name: str) -> None:
    json.loads(TEMPLATES[name])
    for anchor in ("DATA", "TITLE", "X", "Y"):
        assert f"<DVC_METRIC_{anchor}>" in TEMPLATES[name]
    assert name in {properties.get("template") for _, properties in charts()}


def test_the_charts_of_all_models_show_every_model() -> None:
    """A new model is added to these two by hand (docs/extending.md)."""
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    (prediction,) = [entry["prediction"] for entry in tree["plots"] if "prediction" in entry]
    models = read_yaml(ROOT / "params.yaml")["train"]
    assert set(prediction["y"]) == {f"plots/evaluate/{model}/scores.csv" for model in models}
    assert {name: entry["path"] for name, entry in tree["artifacts"].items()} == {
        model: f"models/{model}.safetensors" for model in models
    }
    assert all(entry["type"] == "model" and entry["desc"] for entry in tree["artifacts"].values())


# ---- the page and its charts, of the committed figures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], dict[str, str]]:
    """Every chart that DVC makes of the committed CSVs: its Vega-Lite specification, and what Vega makes of it."""
    names = [entry for entry, _ in charts()]
    assert len(names) == len(set(names))
    output = call(tmp_path_factory.getbasetemp(), "dvc", "--cd", str(ROOT), "plots", "show", "--json")
    found = json.loads(output[output.index("{") :])["data"]
    specs = {name: chart["content"] for name, all_of in found.items() for chart in all_of if chart["type"] == "vega"}
    return specs, {name: vl_convert.vegalite_to_svg(spec, vl_version="5.8") for name, spec in specs.items()}


@of_committed_figures
def test_every_chart_draws_its_marks(drawn: tuple[dict, dict]) -> None:
    _, pictures = drawn
    for name, picture in pictures.items():
        assert re.search(r'aria-roledescription="(point|bar|rect|rule|text|line|text mark|line mark)"', picture), name
        assert not re.search(r"NaN|undefined", picture), name


@of_committed_figures
def test_all_models_and_baselines_are_in_the_first_chart(drawn: tuple[dict, dict]) -> None:
    """Every model once, and the baselines of one model alone."""
    _, pictures = drawn
    models = read_yaml(ROOT / "params.yaml")["train"]
    for predictor in (*models, *BASELINES):
        assert f">{predictor}<" in pictures["prediction"]
    marks = r'aria-label="frames ahead: (\d); [^"]*?model or baseline: (\w+)[^"]*" [^>]*aria-roledescription="point"'
    points = Counter(re.findall(marks, pictures["prediction"]))
    assert set(points.values()) == {4}, "a point a panel"
    assert len(points) == 3 * (len(models) + len(BASELINES))
    for title in ("PSNR (dB), whole image", "SSIM, moving pixels"):
        assert title in pictures["prediction"]


def test_nothing_is_shown_twice() -> None:
    """A table that is in a chart of all models or probes shows the rest of itself in its own."""
    filters = {name: json.loads(text).get("transform", [{}])[0].get("filter") for name, text in TEMPLATES.items()}
    headlines = "(datum.metric == 'psnr' || datum.metric == 'ssim')"
    assert filters["prediction"].startswith(headlines)
    assert filters["scores"] == f"!{headlines}"
    assert (filters["probes"], filters["accuracy"]) == ("datum.metric == 'top1'", "datum.metric != 'top1'")
    drawn = [(name, properties["template"]) for name, properties in charts() if name.endswith(".csv")]
    assert len({name for name, _ in drawn}) == len(drawn)


def test_the_page_says_what_each_part_is_for() -> None:
    """From top to bottom; every plot has a place."""
    page = (ROOT / ".dvc/plots/page.html").read_text()
    places = re.findall(r'data-plots="([^"]*)"', page)
    assert places[-1] == ""
    where = {
        "prediction": "^prediction$",
        "probes": "^probes$",
        "plots_train_lvln_curves_csv": "^plots_train_.*curves",
        "plots_evaluate_lvln_predictions_gif": "^plots_evaluate_.*predictions",
        "plots_evaluate_lvln_gains_csv": "^plots_evaluate_",
        "plots_controls_csv": "^plots_(probe|controls)",
        "grid": "^plots_(circle|pretraining)|^(grid|motion)$",
        "plots_decode_csv": "",
    }
    assert [next(place for place in places if re.search(place, name)) for name in where] == list(where.values())
    assert places == list(where.values())
