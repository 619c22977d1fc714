"""A data set -> its shards, and the manifest that accounts for every video."""

import shutil
from pathlib import Path

import pandas as pd

from pipeline.datasets.table import files_of, read_table
from pipeline.decode.ingest import ingest
from pipeline.decode.manifest import check_accounts, check_splits, check_verdicts, make_manifest
from pipeline.decode.plan import DecodeConfig, plan_rows, split_column
from pipeline.results import write_text


def decode_dataset(raw: Path, config: DecodeConfig, *, work: Path) -> pd.DataFrame:
    """Decodes the data set whose table is in the folder `raw` into work/25, work/15 and work/10; returns the manifest.

    A run that is killed carries on from `work`. Raises ValueError when a split is left empty, too many videos are bad
    (every verdict is then in work/manifest.csv), or the shards do not hold what they should; and as ingest.
    """
    table = read_table(raw)
    column, rows = split_column(table, config), plan_rows(table, config)
    check_splits(make_manifest(rows), config, column=column)  # before hours of decoding
    manifest = make_manifest(ingest(rows, files_of(table, raw), config, work=work))
    try:
        check_verdicts(manifest, config)
        check_splits(manifest, config, column=column)
    except ValueError as error:
        write_manifest(work / "manifest.csv", manifest)
        raise ValueError(f"{error}\nEvery file and its verdict: {work}/manifest.csv") from error
    try:
        check_accounts(manifest, table, work)
    except ValueError:
        shutil.rmtree(work)  # what it vouches for is not to be trusted
        raise
    return manifest


def write_manifest(path: Path, manifest: pd.DataFrame) -> None:
    """Writes it as CSV; names of files that are no UTF-8 stay as they are."""
    write_text(path, manifest.to_csv(index=False, lineterminator="\n"))
