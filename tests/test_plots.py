"""The plots page: every chart has a title and axes, and is drawn by a template that is here or DVC's own."""

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.support.import_closure import ROOT

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
    assert {"title", "x", "y"} <= set(properties), name
    assert properties.get("template", "linear") in {"linear", *TEMPLATES}
    if isinstance(properties["y"], dict):
        assert {"x_label", "y_label"} <= set(properties), name
        fields = list(properties["y"].values())
        assert all(field == fields[0] for field in fields), "one field, so that a curve is a file"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_takes_title_data_and_axes(name: str) -> None:
    json.loads(TEMPLATES[name])
    for anchor in ("DATA", "TITLE", "X", "Y", "X_LABEL"):
        assert f"<DVC_METRIC_{anchor}>" in TEMPLATES[name]
    assert name in {properties.get("template") for _, properties in charts()}
