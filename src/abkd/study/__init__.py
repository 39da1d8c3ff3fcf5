"""Studies: the same task by several methods and seeds, and what came out as tables and pictures.

`compare` runs a plan of (method, seed) pairs, keeps what is finished, goes on where it was stopped
and gives a `Comparison`. `write_reports` leaves it as results.json, table.csv, table.md, table.png
and curves.png.
Nothing here knows images or language: a run is a function that returns a `Record`.
"""

from abkd.study._compare import compare, load_comparison, open_folder, plan
from abkd.study._dry_run import Facts, dry_run_images, made_up_data
from abkd.study._evaluate import evaluate_folder
from abkd.study._image import ImagePlan, run_images
from abkd.study._plots import write_curves, write_dots
from abkd.study._records import Column, Comparison, Failure, Planned, Record, Row, Spread
from abkd.study._table import rich_table, to_csv, to_markdown, write_reports

__all__ = [
    "Column",
    "Comparison",
    "Facts",
    "Failure",
    "ImagePlan",
    "Planned",
    "Record",
    "Row",
    "Spread",
    "compare",
    "dry_run_images",
    "evaluate_folder",
    "load_comparison",
    "made_up_data",
    "open_folder",
    "plan",
    "rich_table",
    "run_images",
    "to_csv",
    "to_markdown",
    "write_curves",
    "write_dots",
    "write_reports",
]
