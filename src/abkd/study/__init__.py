"""Studies: the same task by several methods and seeds, and what came out as tables and pictures.

`compare` runs a plan of (method, seed) pairs, keeps what is finished, goes on where it was stopped
and gives a `Comparison`. `write_reports` leaves it as results.json, table.csv, table.md, table.png
and curves.png.
A run is a function that returns a `Record`. `run_study` makes those of an `ImagePlan` or an `LmPlan`, the teacher's
own training first; `run_images` and `run_lms` are its names for the two tasks.
"""

from abkd.study._cache import build_cache, measured_cache
from abkd.study._compare import compare, load_comparison, open_folder, plan
from abkd.study._dry_run_lm import dry_run_lms
from abkd.study._evaluate import evaluate_folder
from abkd.study._evaluate_lm import evaluate_texts
from abkd.study._folded import folded
from abkd.study._image import ImagePlan, run_images
from abkd.study._lm import LmPlan, quiet_libraries, run_lms
from abkd.study._plan import StudyPlan
from abkd.study._plots import write_curves, write_dots
from abkd.study._records import Column, Comparison, Failure, Planned, Record, Row, Spread
from abkd.study._study import StudyOptions, run_opened, run_study
from abkd.study._table import print_table, rich_table, to_csv, to_markdown, write_reports

__all__ = [
    "Column",
    "Comparison",
    "Failure",
    "ImagePlan",
    "LmPlan",
    "Planned",
    "Record",
    "Row",
    "Spread",
    "StudyOptions",
    "StudyPlan",
    "build_cache",
    "compare",
    "dry_run_lms",
    "evaluate_folder",
    "evaluate_texts",
    "folded",
    "load_comparison",
    "measured_cache",
    "open_folder",
    "plan",
    "print_table",
    "quiet_libraries",
    "rich_table",
    "run_images",
    "run_lms",
    "run_opened",
    "run_study",
    "to_csv",
    "to_markdown",
    "write_curves",
    "write_dots",
    "write_reports",
]
