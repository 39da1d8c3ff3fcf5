"""What all trainers share: transformers' Trainer made exact, schedules, run folder, log, progress bar."""

from importlib.util import find_spec

from abkd.errors import MissingPackageError

for _package in ("transformers", "accelerate", "safetensors", "rich"):
    if find_spec(_package) is None:
        raise MissingPackageError(f'training needs the package {_package}: pip install "abkd[image]" or "abkd[lm]"')

from abkd.engine._best import BestWeights  # noqa: E402
from abkd.engine._callbacks import MetricsLog  # noqa: E402
from abkd.engine._environment import environment  # noqa: E402
from abkd.engine._processes import (  # noqa: E402
    WAITED,
    alone,
    is_main,
    join,
    leave,
    on_main,
    only_here,
    rank,
    ranks,
    say,
    wait,
)
from abkd.engine._progress import ProgressBar, ProgressCallback, Report  # noqa: E402
from abkd.engine._result import RunResult  # noqa: E402
from abkd.engine._run_folder import ANSWERS, TEACHER_TEXT, RunFolder  # noqa: E402
from abkd.engine._runs import Measured, OpenRun, load_result, place_of, size_of  # noqa: E402
from abkd.engine._schedule import Schedule, as_schedule, is_schedule  # noqa: E402
from abkd.engine._settings import FromSettings  # noqa: E402
from abkd.engine._trainer import EngineTrainer, TrainingError, in_own_precision  # noqa: E402

__all__ = [
    "ANSWERS",
    "TEACHER_TEXT",
    "WAITED",
    "BestWeights",
    "EngineTrainer",
    "FromSettings",
    "Measured",
    "MetricsLog",
    "OpenRun",
    "ProgressBar",
    "ProgressCallback",
    "Report",
    "RunFolder",
    "RunResult",
    "Schedule",
    "TrainingError",
    "alone",
    "as_schedule",
    "environment",
    "in_own_precision",
    "is_main",
    "is_schedule",
    "join",
    "leave",
    "load_result",
    "on_main",
    "only_here",
    "place_of",
    "rank",
    "ranks",
    "say",
    "size_of",
    "wait",
]
