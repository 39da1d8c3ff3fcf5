"""What a study runs, as far as it is the same whatever is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from abkd.study._records import Column

if TYPE_CHECKING:
    from abkd.engine import RunResult

TEACHER = "teacher"

Run = TypeVar("Run")
Value = TypeVar("Value")


class Work(NamedTuple):
    """How the runs of a task are made.

    Attributes:
        run: makes one run from its settings and its folder.
        share: loads what several runs have in common, as keyword arguments of `run`; it keeps the newest.
        fingerprints: of what `share` gave, as a run keeps them in its data.json.
    """

    run: Callable[..., RunResult]
    share: Callable[[Any], dict[str, Any]]
    fingerprints: Callable[[Mapping[str, Any]], dict[str, str]]


@dataclass(frozen=True)
class StudyPlan(ABC, Generic[Run]):
    """What a study runs; each task has a class of its own.

    Attributes:
        runs: The settings of every run, by method and then by seed; all have the same data, student and teacher.
        teacher: The run that trains the teacher first, or None where the runs' own teacher exists already.
    """

    runs: Mapping[str, Mapping[int, Run]]
    teacher: Run | None = None

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        return list(self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every method."""
        return list(next(iter(self.runs.values())))

    @property
    def example(self) -> Run:
        """One of the runs."""
        return self.runs[self.methods[0]][self.seeds[0]]

    def settled(self, place: Path) -> Mapping[str, Mapping[int, Run]]:
        """The runs of a study in `place`, with the teacher that the study itself trains."""
        if self.teacher is None:
            return self.runs
        trained = self.trained(place / TEACHER)
        return {
            method: {seed: replace(cast("Any", run), teacher=trained) for seed, run in seeds.items()}
            for method, seeds in self.runs.items()
        }

    @abstractmethod
    def trained(self, folder: Path) -> Any:
        """The teacher of the runs, trained in this run folder."""

    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """What the table shows; nothing where nothing is measured."""

    @abstractmethod
    def note(self) -> str:
        """How to read the table."""

    @abstractmethod
    def work(self, place: Path, progress: bool) -> Work:
        """How the runs are made in the study's folder; `progress` shows bars while something is loaded."""


class Newest(Generic[Value]):
    """What was loaded last, kept for as long as the same is asked for."""

    def __init__(self) -> None:
        self._held: tuple[Any, Value] | None = None

    def of(self, key: object, load: Callable[[], Value]) -> Value:
        """What `load` gives, or gave for an equal key."""
        if self._held is None or self._held[0] != key:
            self._held = None  # two of them may not fit into memory
            self._held = key, load()
        return self._held[1]
