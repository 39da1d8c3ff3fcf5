"""Comparisons: what is finished is kept, failures are shown, means and spreads are right."""

from __future__ import annotations

import csv
import errno
import io
import json
import statistics
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from abkd.engine import RunResult
from abkd.errors import AbkdError, CorruptFileError, InputError, RunExistsError
from abkd.image import DataChoice, ImageRun, ModelChoice
from abkd.image.models import build_model, save_model
from abkd.storage import NoRoomError, room_in
from abkd.study import (
    Column,
    Comparison,
    Failure,
    ImagePlan,
    Planned,
    Record,
    Spread,
    StudyPlan,
    compare,
    load_comparison,
    open_folder,
    plan,
    print_table,
    rich_table,
    run_opened,
    to_csv,
    to_markdown,
)
from abkd.study import _plots as plots
from abkd.study._plan import Work

COLUMNS = (
    Column("accuracy %", "accuracy", scale=100),
    Column("last %", "accuracy", which="last", scale=100),
    Column("agreement", "agreement"),
)


def record(method: str, seed: int, accuracy: float = 0.5) -> Record:
    return Record(
        method=method,
        seed=seed,
        metrics={"test": {"best": {"accuracy": accuracy}, "last": {"accuracy": accuracy / 2}}},
        best_epoch=2,
        history=[{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0, "validation_accuracy": accuracy}],
        seconds=1.5,
        parameters={"student": 10, "teacher": 200},
    )


def test_the_plan_goes_seed_by_seed() -> None:
    assert plan(["a", "b"], [1, 2]) == [Planned("a", 1), Planned("b", 1), Planned("a", 2), Planned("b", 2)]
    assert Planned("a", 3).folder == "runs/a/seed-3"


def test_spread_is_the_sample_deviation() -> None:
    values = [0.1, 0.4, 0.9]
    spread = Spread.of(values)
    assert spread is not None
    assert spread.mean == pytest.approx(statistics.fmean(values))
    assert spread.deviation == pytest.approx(statistics.stdev(values))
    assert Spread.of([1.0]) == Spread(1.0, None, 1)
    assert Spread.of([]) is None
    assert Spread.of([1.0, float("nan")]).deviation is None  # type: ignore[union-attr]
    assert Spread(1.0, 0.25, 3).text(1) == "1.0 ± 0.2"


def test_a_comparison_writes_every_report_and_reads_back(tmp_path: Path) -> None:
    place = open_folder(tmp_path / "c", ["a", "b"], [1, 2])
    result = compare(
        ["a", "b"],
        [1, 2],
        lambda planned, _: record(planned.method, planned.seed, 0.1 * planned.seed + (planned.method == "b") / 2),
        place,
        columns=COLUMNS,
        note="how to read it",
    )
    assert [row.n for row in result.rows()] == [2, 2]
    assert load_comparison(place) == result
    for name in ("table.png", "curves.png"):
        assert (place / name).read_bytes().startswith(b"\x89PNG")
    (first, second) = list(csv.DictReader(io.StringIO((place / "table.csv").read_text())))
    assert float(first["accuracy % mean"]) == pytest.approx(15)
    assert float(second["accuracy % sd"]) == pytest.approx(100 * statistics.stdev([0.6, 0.7]))
    assert first["agreement n"] == "0"
    markdown = (place / "table.md").read_text()
    assert "| **b** | 2 | 65.00 ± 7.07 |" in markdown
    assert "how to read it" in markdown


def test_without_matplotlib_there_are_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    place = open_folder(tmp_path / "c", ["a"], [1])
    result = compare(["a"], [1], lambda planned, _: record(planned.method, planned.seed), place, columns=COLUMNS)
    assert load_comparison(place) == result
    assert capsys.readouterr().err == 'abkd: pictures need matplotlib: pip install "abkd[study]"\n'
    assert not (place / "table.png").exists()
    assert (place / "table.md").is_file()


def test_the_terminal_table_holds_what_was_measured() -> None:
    comparison = Comparison(("a", "b"), (record("a", 1), record("b", 1, 0.75)), COLUMNS, note="a note")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(rich_table(comparison))
    text = console.export_text()
    for word in ("75.00", "37.50", "a note", "method"):
        assert word in text


def test_a_wide_table_is_folded_and_no_number_is_cut_short() -> None:
    columns = tuple(Column(f"a long title {number}", "accuracy", digits=4) for number in range(6))
    records = tuple(record("kd", seed, 0.25 * seed) for seed in (1, 2))
    console = Console(width=50, record=True, file=io.StringIO())
    print_table(Comparison(("kd",), records, columns, (), "How to read it."), console)
    text = console.export_text()
    assert "…" not in text
    assert text.count("0.3750 ± 0.1768") == 6
    assert all(f"a long title {number}" in text for number in range(6))
    assert text.count("How to read it.") == 1
    assert text.count("kd") == text.count("method") > 1
    assert max(map(len, text.splitlines())) <= 50


def test_curves_of_one_point_are_seen_and_empty_panels_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []

    def save(figure: Any, path: Any) -> None:
        del path
        figures.append(figure)

    monkeypatch.setattr(plots, "_save", save)
    short = replace(record("kd", 1), history=[{"epoch": 1.0, "loss": 2.0}])
    plots.write_curves(Comparison(("kd",), (short,), COLUMNS), tmp_path / "c.png")
    (axes,) = figures[0].axes
    assert axes.get_title().startswith("training loss")
    (line,) = axes.lines
    assert (list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) == ([1.0], [2.0], "o")
    plots.write_curves(Comparison(("kd",), (record("kd", 1),), COLUMNS), tmp_path / "c.png")
    assert [len(axes.lines) for axes in figures[1].axes] == [1, 1]
    plots.write_curves(Comparison(("kd",), (replace(short, history=[]),), COLUMNS), tmp_path / "c.png")
    assert len(figures) == 2


def test_a_failed_run_is_kept_and_the_others_go_on(tmp_path: Path) -> None:
    def run(planned: Planned, _: Path) -> Record:
        if planned.method == "a":
            raise AbkdError("the loss became NaN")
        return record(planned.method, planned.seed)

    place = open_folder(tmp_path / "c", ["a", "b"], [1])
    told: list[object] = []
    result = compare(["a", "b"], [1], run, place, columns=COLUMNS, report=lambda _, outcome: told.append(outcome))
    assert result.failures == (Failure("a", 1, "the loss became NaN"),)
    assert [row.n for row in result.rows()] == [0, 1]
    assert "the loss became NaN" in to_markdown(result)
    assert to_csv(result).splitlines()[1].startswith("a,,")
    assert len(told) == 2


def test_wrong_settings_stop_the_comparison(tmp_path: Path) -> None:
    def run(planned: Planned, _: Path) -> Record:
        raise InputError("no such thing")

    with pytest.raises(InputError, match="no such thing"):
        compare(["a"], [1], run, open_folder(tmp_path / "c", ["a"], [1]), columns=COLUMNS)
    with pytest.raises(InputError, match="at least one"):
        compare([], [1], run, tmp_path, columns=COLUMNS)


def test_a_full_disk_ends_the_comparison(tmp_path: Path) -> None:
    def run(planned: Planned, place: Path) -> Record:
        with room_in(place):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoRoomError, match=r"runs/a/seed-1: could not be written.*--resume"):
        compare(["a", "b"], [1], run, open_folder(tmp_path / "c", ["a", "b"], [1]), columns=COLUMNS)


def test_an_interruption_leaves_what_is_finished(tmp_path: Path) -> None:
    done: list[Planned] = []

    def run(planned: Planned, place: Path) -> Record:
        file = place / "result.json"
        if not file.is_file():
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(planned)
            place.mkdir(parents=True)
            file.write_text("{}")
        return record(planned.method, planned.seed)

    place = open_folder(tmp_path / "c", ["a", "b"], [1, 2])
    with pytest.raises(KeyboardInterrupt):
        compare(["a", "b"], [1, 2], run, place, columns=COLUMNS)
    first = list(done)
    done.clear()
    open_folder(place, ["a", "b"], [1, 2], resume=True)
    result = compare(["a", "b"], [1, 2], run, place, columns=COLUMNS)
    assert len(result.records) == 4
    assert set(done).isdisjoint(first)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    place = open_folder(tmp_path / "c", ["a"], [1])
    (place / "kept").write_text("x")
    with pytest.raises(RunExistsError, match="--resume"):
        open_folder(place, ["a"], [1])
    assert open_folder(place, ["a", "b"], [1], resume=True) == place
    assert json.loads((place / "comparison.json").read_text())["methods"] == ["a", "b"]
    assert (place / "kept").exists()
    open_folder(place, ["a"], [1], overwrite=True)
    assert not (place / "kept").exists()
    with pytest.raises(InputError, match="one of the two"):
        open_folder(place, ["a"], [1], resume=True, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="no comparison"):
            open_folder(other, ["a"], [1], **options)
    assert (other / "thesis.txt").exists()
    with pytest.raises(InputError, match="found a file"):
        open_folder(other / "thesis.txt", ["a"], [1])


def test_results_that_are_missing_or_spoilt_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_comparison(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(CorruptFileError, match="not the results"):
        load_comparison(tmp_path)


@dataclass(frozen=True)
class Settings:
    seed: int
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Shared:
    """What several runs may share."""


class Alone(StudyPlan[Settings]):
    """Runs that share nothing with each other; notes at each what earlier ones were given and is still held."""

    given: ClassVar[list[weakref.ref[Shared]]] = []
    held: ClassVar[list[int]] = []

    def columns(self) -> tuple[Column, ...]:
        return COLUMNS

    def note(self) -> str:
        return ""

    def trained(self, folder: Path) -> Any:
        raise AssertionError("there is no teacher")

    def work(self, place: Path, progress: bool) -> Work:
        return Work(self._run, self._share, lambda _: {})

    def _share(self, run: Settings) -> dict[str, Any]:
        made = Shared()
        self.given.append(weakref.ref(made))
        return {"made": made}

    def _run(self, settings: Settings, folder: Path, *, made: Shared, **_: Any) -> RunResult:
        self.held.append(sum(each() is not None and each() is not made for each in self.given))
        return RunResult(folder, settings.seed, 1.0, 1, {}, {}, [])


def test_what_a_run_was_given_is_not_held_after_it(tmp_path: Path) -> None:
    run_opened(Alone({"a": {seed: Settings(seed) for seed in (1, 2)}}), tmp_path, progress=False)
    assert Alone.held == [0, 0]


@pytest.mark.parametrize(("augment", "shared"), [("none", True), ("crop-flip", False)])
def test_a_teacher_s_memory_is_shared_by_runs_of_the_same_images(tmp_path: Path, augment: str, shared: bool) -> None:
    save_model(build_model("cnn", num_classes=10, channels=1), tmp_path / "teacher")
    run = ImageRun(
        ModelChoice("cnn"),
        DataChoice("digits", {"augment": augment}),
        teacher=ModelChoice(str(tmp_path / "teacher")),
        teacher_cache=True,
    )
    first, again, second = (
        replace(run, method=method, seed=seed) for method, seed in (("kd", 0), ("sft", 0), ("kd", 1))
    )
    work = ImagePlan({"kd": {0: first, 1: second}}).work(tmp_path, progress=False)
    teachers = [work.share(each)["teacher"] for each in (first, again, second)]
    assert teachers[0] is teachers[1]
    assert (teachers[1] is teachers[2]) == shared
