"""The tables of README.md and docs/, filled in place: each lies between two markers, and is made from CSVs.

    <!-- table: <kind> <argument> <argument> -->
    <!-- end of table -->

A kind is a function of results.py, experiments.py or cost.py, and its arguments are words. No number of a table is
typed.
"""

import re
from collections.abc import Callable

from pipeline.pages import cost, experiments, results

KINDS: dict[str, Callable[..., list[str]]] = {
    make.__name__: make
    for make in (
        results.one_ahead,
        results.prediction,
        results.gains,
        results.regions,
        results.time_to_beat,
        results.curriculum,
        results.parameters,
        results.probe,
        results.probe_gains,
        results.controls,
        experiments.runs,
        experiments.levers,
        experiments.grid,
        experiments.motion,
        experiments.circle,
        experiments.pretraining,
        experiments.pretraining_gains,
        experiments.steps,
        cost.disk,
        cost.time,
        cost.full_scale,
        cost.full_scale_classes,
    )
}
END = "<!-- end of table -->"
MARKED = re.compile(rf"^(<!-- table: (\w+)([^\n]*?) -->)\n(.*?)^{END}$", re.MULTILINE | re.DOTALL)


def fill(page: str) -> str:
    """The page with every table made anew. ValueError for a marker that names what there is not, or lacks its end."""

    def table(marked: re.Match) -> str:
        start, kind, arguments, old = marked.groups()
        if "<!-- table:" in old:
            raise ValueError(f"{start} lacks its {END}")
        if kind not in KINDS:
            raise ValueError(f"{start}: {kind} is not allowed; allowed: {', '.join(KINDS)}")
        try:
            lines = "\n".join(KINDS[kind](*arguments.split()))
        except (KeyError, TypeError) as error:  # a name that the CSV lacks, or too many or too few of them
            raise ValueError(f"{start}: {error}") from error
        return f"{start}\n\n{lines}\n\n{END}"

    filled = MARKED.sub(table, page)
    if filled.count("<!-- table:") != filled.count(END):
        raise ValueError(f"a table lacks its start or its {END}")
    return filled
