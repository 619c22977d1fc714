"""How results are written: byte-identical for equal results, and readable in a diff."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

DIGITS = 6


def write_metrics(path: Path, tree: Mapping[str, object]) -> None:
    """Nested JSON with sorted keys; floats rounded to DIGITS digits after the point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(tree), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """CSV, a row a mapping; floats with DIGITS significant digits, so that small learning rates survive."""
    import pandas as pd  # here, so that metrics can be written where there is no pandas

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")


def _rounded(node: object) -> object:
    if isinstance(node, Mapping):
        return {str(key): _rounded(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_rounded(value) for value in node]
    return round(node, DIGITS) if isinstance(node, float) else node
