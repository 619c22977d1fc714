"""Not a DVC stage: lays a preset, which holds only what differs, over params.yaml, whose comments stay."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.results import write_text
from pipeline.settings import overlay, read_params
from stages.check import check
from stages.entry import matrix_item, run

PRESETS, PARAMS = Path("presets"), Path("params.yaml")


def with_preset(file: Path, params: Path = PARAMS) -> dict[str, Any]:
    """The sections of params.yaml with a preset laid over them; ParamsError when a key or value is not allowed."""
    tree = read_params(params)
    overlay(tree, read_params(file))
    check(tree, source=f"{params} with {file}")
    return tree


def write_preset(file: Path, params: Path = PARAMS) -> None:
    """Writes params.yaml as DVC would after `dvc exp run -S`, and nothing if the preset cannot be used."""
    with_preset(file, params)
    yaml = YAML()  # keeps comments, and what is on one line
    yaml.default_flow_style = False
    tree, text = yaml.load(params.read_text(encoding="utf-8")), StringIO()
    # Through JSON, so that no list is shared by aliases, which `dvc exp run -S` could not change one by one.
    overlay(tree, json.loads(json.dumps(read_params(file))))
    yaml.dump(tree, text)
    write_text(params, text.getvalue())


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """A line for every key whose value is another."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in after:
            yield from differences(before.get(key), after[key], f"{where}.{key}" if where else key)
    elif before != after:
        yield f"  {where}: {before} -> {after}"


def main() -> None:
    name = matrix_item("preset", sorted(file.stem for file in PRESETS.glob("*.yaml")))
    file = PRESETS / f"{name}.yaml"
    before = read_params(PARAMS)
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", PARAMS], check=False).returncode:
        print(f"{PARAMS} was not as committed; your changes stay wherever the preset says nothing")
    write_preset(file)
    changed = list(differences(before, read_params(PARAMS)))
    print("\n".join([f"{PARAMS}: {len(changed)} values from {file}", *changed, f"back again: git restore {PARAMS}"]))


if __name__ == "__main__":
    run("preset", main)
