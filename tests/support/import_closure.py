"""The project files a stage imports, found by reading the sources, independently of Python's own import."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def module_file(name: str) -> Path | None:
    """The file of a dotted module of this project, or None for others and for packages (their files are empty)."""
    file = ROOT / (name.replace(".", "/") + ".py")
    return file if name.split(".")[0] in ("pipeline", "stages") and file.exists() else None


@cache
def imported(file: Path) -> set[Path]:
    """Project files that `file` imports by name, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {found for name in names if (found := module_file(name))}


def closure(*start: Path) -> set[str]:
    """`start` and all they import, directly or not, as paths relative to the project."""
    found: set[Path] = set()
    todo = set(start)
    while todo:
        file = todo.pop()
        found.add(file)
        todo |= imported(file) - found
    return {file.relative_to(ROOT).as_posix() for file in found}
