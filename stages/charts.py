"""Not a DVC stage: the charts of `dvc plots show`, or of `dvc plots diff`, as PNG files. Needs no network.

python -m stages.charts [REVISION REVISION]    into dvc_plots/charts/
"""

import json
import subprocess
import sys
from pathlib import Path
from shutil import rmtree

import vl_convert

from stages.entry import run

OUT = Path("dvc_plots/charts")
SCALE = 1.5  # picture pixels per page pixel


def main() -> None:
    revisions = sys.argv[1:]
    if len(revisions) not in (0, 2):
        sys.exit("usage: python -m stages.charts [REVISION REVISION]")
    command = ["dvc", "plots", *(["diff", *revisions] if revisions else ["show"]), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # DVC says by itself what is wrong
    if done.returncode:
        sys.exit(done.returncode)
    rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for name, charts in json.loads(done.stdout)["data"].items():
        for chart in charts:
            if chart["type"] == "vega":
                file = OUT / f"{name.removeprefix('plots/').removesuffix('.csv').replace('/', '_')}.png"
                file.write_bytes(vl_convert.vegalite_to_png(chart["content"], vl_version="5.8", scale=SCALE))
    print(f"{len(list(OUT.iterdir()))} charts in {OUT}")


if __name__ == "__main__":
    run("charts", main)
