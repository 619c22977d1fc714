"""A section of params.yaml -> a strict, frozen dataclass.

Every stage owns one section. The dataclass that describes it lives beside the code that uses it; this module
only reads and checks. Fields are plain types, Literal choices, tuples, other dataclasses, or
Annotated[type, bound] with the bounds below. All problems of a section are reported together, each with its
dotted key, its value and what is allowed.

The file is read as YAML 1.2, in which 1e-05 (what `dvc exp run -S lr=1e-5` writes) is a number.
"""

import dataclasses
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

MODELS = ("lvln", "one_frame", "full_res", "lvln_warp")
SECTIONS = ("source", "decode", "train", "evaluate", "features", "probe")

_COPIES = Path(".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` run, in copies of the repository

T = TypeVar("T")


class ParamsError(ValueError):
    """The parameter file is not what the stage needs."""


def given_path(text: str) -> Path:
    """A path that params.yaml gives: `~` is the home folder, and a relative path is relative to the repository.

    DVC runs `--temp` and `--queue` in a copy without the files that git ignores; there too it refers to the original.
    """
    path, here = Path(text).expanduser(), Path.cwd()
    copies = [folder for folder in here.parents if folder.parts[-len(_COPIES.parts) :] == _COPIES.parts]
    return copies[-1].parents[len(_COPIES.parts) - 1] / path if copies else path


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Bound: value ≥ low."""

    low: float

    def allows(self, value: float) -> bool:
        return value >= self.low

    def __str__(self) -> str:
        return f"at least {self.low}"


@dataclasses.dataclass(frozen=True)
class Above:
    """Bound: value > low."""

    low: float

    def allows(self, value: float) -> bool:
        return value > self.low

    def __str__(self) -> str:
        return f"above {self.low}"


@dataclasses.dataclass(frozen=True)
class Below:
    """Bound: value < high."""

    high: float

    def allows(self, value: float) -> bool:
        return value < self.high

    def __str__(self) -> str:
        return f"below {self.high}"


@dataclasses.dataclass(frozen=True)
class Between:
    """Bound: low ≤ value ≤ high."""

    low: float
    high: float

    def allows(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class MultipleOf:
    """Bound: a positive multiple of step."""

    step: int

    def allows(self, value: int) -> bool:
        return value > 0 and value % self.step == 0

    def __str__(self) -> str:
        return f"a positive multiple of {self.step}"


def load_section(path: str | Path, section: str, into: type[T]) -> T:
    """Reads `section` (dotted, e.g. "train.lvln") of the YAML file at `path` into the dataclass `into`.

    Raises ParamsError for a missing or unreadable file, an unknown top-level section, and any unknown key,
    missing key, wrong type or value out of range, naming each.
    """
    tree = read_yaml(path)
    for where, found, allowed in (("", tree, SECTIONS), ("train.", tree.get("train"), MODELS)):
        unknown = [f"{where}{key}" for key in found or () if key not in allowed]
        if unknown:
            raise ParamsError(f"{path}: unknown section {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    node: Any = tree
    walked: list[str] = []
    for key in section.split("."):
        walked.append(key)
        if not isinstance(node, dict) or key not in node:
            raise ParamsError(f"{path}: section {'.'.join(walked)} is missing")
        node = node[key]
    return from_dict(node, into, where=section, source=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The whole file as plain dicts and lists; ParamsError if it is not a readable YAML mapping."""
    # Here, so that the networks and their training can be used where there is no YAML to read.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not Path(path).exists():
        raise ParamsError(f"{path}: no such file here ({Path.cwd()}); run from the root of the repository")
    try:
        tree = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ParamsError(f"{path}: holds {_show(tree)}, expected a mapping of sections {', '.join(SECTIONS)}")
    return tree


def from_dict(node: Any, into: type[T], *, where: str, source: str = "params") -> T:
    """Builds the dataclass `into` from plain dicts and lists; `where` is the dotted key for error messages."""
    problems: list[str] = []
    value = _convert(node, into, where, problems)
    if problems:
        raise ParamsError(f"{source}:\n  " + "\n  ".join(problems))
    return value


def _convert(node: Any, kind: Any, where: str, problems: list[str]) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        before = len(problems)
        value = _convert(node, args[0], where, problems)
        for bound in args[1:]:
            if len(problems) == before and value is not None and not bound.allows(value):
                problems.append(f"{where}: {_show(node)} is out of range; allowed: {bound}")
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_mapping(node, kind, where, problems)
    if origin is Literal:
        # bool == int in Python (True == 1), so the type is compared too
        if not any(node == choice and type(node) is type(choice) for choice in args):
            problems.append(f"{where}: {_show(node)} is not allowed; allowed: {', '.join(map(_show, args))}")
        return node
    if origin in (Union, types.UnionType):
        if node is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _convert(node, inner, where, problems)
    if origin is tuple:
        if not isinstance(node, list):
            problems.append(f"{where}: {_show(node)} is not a list; allowed: a list of {_name(args[0])}")
            return ()
        return tuple(_convert(item, args[0], f"{where}.{i}", problems) for i, item in enumerate(node))
    if kind is float and isinstance(node, int) and not isinstance(node, bool):
        return float(node)
    is_kind = isinstance(node, kind) and (kind is bool or not isinstance(node, bool))
    if not is_kind or (kind is float and not math.isfinite(node)):
        problems.append(f"{where}: {_show(node)} is not {_name(kind)}; allowed: {_name(kind)}")
    return node


def _convert_mapping(node: Any, kind: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(node, dict):
        problems.append(f"{where}: {_show(node)} is not a mapping; allowed: {', '.join(_keys(kind))}")
        return None
    hints = get_type_hints(kind, include_extras=True)
    before = len(problems)
    problems.extend(
        f"{where}.{key}: unknown key (value {_show(node[key])}); allowed: {', '.join(_keys(kind))}"
        for key in node
        if key not in hints
    )
    values = {}
    for key in _keys(kind):
        if key not in node:
            problems.append(f"{where}.{key}: missing key; allowed: {_name(hints[key])}")
        else:
            values[key] = _convert(node[key], hints[key], f"{where}.{key}", problems)
    if len(problems) > before:
        return None
    try:
        return kind(**values)  # a dataclass may check its fields together in __post_init__
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def _keys(kind: Any) -> Iterator[str]:
    return (field.name for field in dataclasses.fields(kind))


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _name(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_name(args[0])} {' and '.join(map(str, args[1:]))}"
    if origin is Literal:
        return "one of " + ", ".join(map(_show, args))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else _name(arg) for arg in args)
    if origin is tuple:
        return f"a list of {_name(args[0])}"
    if dataclasses.is_dataclass(kind):
        return f"a mapping of {', '.join(_keys(kind))}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a mapping"}[kind]
