"""Not a DVC stage: fills the tables of README.md and docs/ from the CSVs under plots/. CI calls it with --check, which
writes nothing, and exits 1 with the pages whose tables are of other figures.

python -m stages.tables [--check]
"""

import sys
from pathlib import Path

from pipeline.pages.fill import fill
from pipeline.results import write_text
from stages.entry import run

PAGES = (Path("README.md"), *sorted(Path("docs").glob("*.md")))


def main() -> None:
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: python -m stages.tables [--check]")
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    filled = {page: fill(text) for page, text in texts.items()}
    changed = [page for page in PAGES if filled[page] != texts[page]]
    if sys.argv[1:]:
        names = ", ".join(map(str, changed))
        sys.exit(f"other figures than plots/ in {names}; write them with: python -m stages.tables" if changed else None)
    for page in changed:
        write_text(page, filled[page])
        print(f"{page}: tables written")


if __name__ == "__main__":
    run("tables", main)
