"""params.yaml -> strict, frozen dataclasses.

Every stage owns one section of the file. The dataclass that describes it lives beside the code that uses it and is made
with `section`: pydantic checks every field against its type and bounds, and refuses unknown and missing keys. All
problems of a section are reported together, each with its dotted key, its value and what is allowed.

The file is read as YAML 1.2, in which 1e-05 (what `dvc exp run -S lr=1e-5` writes) is a number.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

SECTIONS = ("source", "decode", "train", "evaluate", "features", "probe", "hardware")

section = partial(dataclass, frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))

Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(gt=0, multiple_of=32)]  # the encoder halves five times
Rate = Literal[25, 15, 10]  # frames per second that are stored

_COPIES = Path(".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` run, in copies of the repository

T = TypeVar("T")


class ParamsError(ValueError):
    """The parameter file is not what the stage needs."""


def load_section(name: str, into: type[T], *, path: str | Path = "params.yaml") -> T:
    """Reads the section `name` (dotted, as "train.lvln") of the YAML file at `path` into the dataclass `into`.

    Raises ParamsError for a missing or unreadable file, an unknown top-level section, and any unknown key, missing key,
    wrong type or value out of range, naming each.
    """
    tree = read_params(path)
    for depth, key in enumerate(keys := name.split("."), start=1):
        if not isinstance(tree, dict) or key not in tree:
            raise ParamsError(f"{path}: section {'.'.join(keys[:depth])} is missing")
        tree = tree[key]
    return from_dict(tree, into, where=name, source=str(path))


def read_params(path: str | Path = "params.yaml") -> dict[str, Any]:
    """All sections as plain dicts and lists; ParamsError as in load_section."""
    tree = read_yaml(path)
    if unknown := [key for key in tree if key not in SECTIONS]:
        raise ParamsError(f"{path}: unknown section {', '.join(unknown)}; allowed: {', '.join(SECTIONS)}")
    return tree


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
        raise ParamsError(f"{path}: holds {_show(tree)}, expected a mapping")
    return tree


def overlay(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Lays changes over the tree, in place: mappings are merged, anything else is replaced, as `dvc exp run -S` does.
    What is no key of a section is found when the section is read."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            overlay(tree[key], value)
        else:
            tree[key] = value


def from_dict(node: Any, into: type[T], *, where: str, source: str = "params") -> T:
    """Builds the dataclass `into` from plain dicts and lists; `where` is the dotted key for error messages."""
    try:
        # As JSON, since in its strict form a list is a list whatever Python's type for it.
        return TypeAdapter(into).validate_json(json.dumps(node, default=str))
    except ValidationError as error:
        problems = [_problem(each, into, where) for each in error.errors()]
        raise ParamsError(f"{source}:\n  " + "\n  ".join(problems)) from None


def given_path(text: str) -> Path:
    """A path that params.yaml gives: `~` is the home folder, and a relative path is relative to the repository.

    DVC runs `--temp` and `--queue` in a copy without the files that git ignores; there too it refers to the original.
    """
    path, here = Path(text).expanduser(), Path.cwd()
    copies = [folder for folder in here.parents if folder.parts[-len(_COPIES.parts) :] == _COPIES.parts]
    return copies[-1].parents[len(_COPIES.parts) - 1] / path if copies else path


def _problem(error: Mapping[str, Any], into: type, where: str) -> str:
    """One of pydantic's errors in our words."""
    key, kind, value = ".".join([where, *map(str, error["loc"])]), error["type"], _show(error["input"])
    if kind == "value_error":  # the dataclass's own check of its fields together
        return f"{key}: {error['ctx']['error']}"
    if kind == "unexpected_keyword_argument":
        allowed = ", ".join(_keys(_at(into, error["loc"][:-1])))
        return f"{key}: unknown key (value {value}); allowed: {allowed}"
    allowed = _describe(_at(into, error["loc"]))
    return f"{key}: {'missing' if kind == 'missing' else f'{value} is not allowed'}; allowed: {allowed}"


def _at(kind: Any, path: tuple[str | int, ...]) -> Any:
    """The type of the field at a path of keys and list indices."""
    for key in path:
        while get_origin(kind) not in (None, tuple, dict):
            kind = get_args(kind)[0]  # of Annotated, and of "or null"
        kind = get_type_hints(kind, include_extras=True)[key] if dataclasses.is_dataclass(kind) else _item(kind)
    return kind


def _item(kind: Any) -> Any:
    """The type of the items of a list, or of the values of a mapping."""
    return get_args(kind)[1 if get_origin(kind) is dict else 0]


def _describe(kind: Any) -> str:
    """What a field of this type may be, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [bound for field in args[1:] for bound in field.metadata]
        return ", ".join([_describe(args[0]), *map(_bound, bounds)])
    if origin is Literal:
        return "one of " + ", ".join(map(_show, args))
    if origin in (tuple, dict):
        return f"{'a list' if origin is tuple else 'a mapping'}, each {_describe(_item(kind))}"
    if type(None) in args:
        return " or ".join("null" if arg is type(None) else _describe(arg) for arg in args)
    if dataclasses.is_dataclass(kind):
        return f"a mapping of {', '.join(_keys(kind))}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a mapping"}[kind]


def _bound(bound: object) -> str:
    ((name, limit),) = dataclasses.asdict(bound).items()
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    return f"{words[name]} {limit}"


def _keys(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
