"""Where the videos come from. Whatever the kind, the result is the table videos.csv (table.py) in data/raw."""

from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.datasets import circles, folder, motions, orders, own_table, ucf101
from pipeline.datasets.table import write_table
from pipeline.settings import section


@section
class SourceConfig:
    """Section `source`; only the subsection of its kind is used."""

    kind: Literal["motions", "orders", "circles", "folder", "table", "ucf101"]
    motions: motions.MotionsConfig
    orders: orders.OrdersConfig
    circles: circles.CirclesConfig
    folder: folder.FolderConfig
    table: own_table.TableConfig
    ucf101: ucf101.Ucf101Config

    def __post_init__(self) -> None:
        if self.kind == "folder" and (self.folder.root is None or self.folder.lists is None):
            raise ValueError("kind is folder: folder.root and folder.lists must both be paths, not null")
        if self.kind == "table" and self.table.file is None:
            raise ValueError("kind is table: table.file must be the path of a CSV file, not null")


def fetch(config: SourceConfig, raw: Path, *, downloads: Path) -> pd.DataFrame:
    """Makes the table of the data set and writes it into the folder `raw`, beside videos that are made or downloaded.

    downloads: where archives are kept until they are unpacked; an interrupted download continues there.
    """
    raw.mkdir(parents=True, exist_ok=True)
    match config.kind:
        case "motions":
            table = motions.make_table(config.motions, raw)
        case "orders":
            table = orders.make_table(config.orders, raw)
        case "circles":
            table = circles.make_table(config.circles, raw)
        case "folder":
            table = folder.make_table(config.folder)
        case "table":
            table = own_table.make_table(config.table)
        case "ucf101":
            table = ucf101.make_table(config.ucf101, raw, downloads)
    write_table(table, raw)
    if config.kind == "ucf101":
        ucf101.delete_archives(downloads)
    return table
