"""A checked recipe, and the runs that it stands for."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from abkd.config._image import MethodSettings

if TYPE_CHECKING:
    from abkd.study import Comparison, StudyOptions, StudyPlan


@dataclass(frozen=True)
class Recipe(ABC):
    """A recipe without faults; each task has a class of its own.

    Attributes:
        spec: The sections, as written and with defaults.
        source: Where it was read from, for messages.
    """

    spec: Any
    source: str = "recipe"

    @property
    def output(self) -> str:
        """The folder to write to: as written, or `runs/` and the name of the recipe's file."""
        return self.spec.output or f"runs/{Path(self.source).stem}"

    @property
    def compared_methods(self) -> list[str]:
        """The methods of a comparison: `compare.methods`, or the recipe's own method alone."""
        return list(self.spec.compare.methods or [self.spec.method])

    @property
    def compared_seeds(self) -> list[int]:
        """The seeds of a comparison: `compare.seeds`, or the recipe's own."""
        return list(self.spec.compare.seeds or self.spec.seeds)

    def settings_of(self, method: str) -> MethodSettings:
        """What the recipe says about a method.

        The sections `divergence` and `loss` (and those of text) belong to the recipe's own method;
        `compare.settings.METHOD` replaces them for that method, and other methods have their defaults.
        """
        if method in self.spec.compare.settings:
            return self.spec.compare.settings[method]
        return self.own_settings() if method == self.spec.method else self.no_settings()

    def own_settings(self) -> MethodSettings:
        """What the recipe's own sections say."""
        return MethodSettings(divergence=self.spec.divergence, loss=self.spec.loss)

    def no_settings(self) -> MethodSettings:
        """A method's defaults."""
        return MethodSettings()

    @abstractmethod
    def describe(self, method: str) -> str:
        """The method's settings in words, with the named special case of its divergence."""

    @abstractmethod
    def run(self, method: str, seed: int) -> Any:
        """One student's run."""

    @abstractmethod
    def teacher_run(self, teacher: Any) -> Any:
        """The run that trains the teacher."""

    def plan(self, methods: Iterable[str], seeds: Iterable[int]) -> Any:
        """The runs of these methods with these seeds, after the teacher's own training if there is one."""
        chosen, teacher = list(seeds), self.spec.teacher
        return self._plan_class()(
            runs={method: {seed: self.run(method, seed) for seed in chosen} for method in methods},
            teacher=None if teacher is None or teacher.training is None else self.teacher_run(teacher),
        )

    def study(
        self,
        methods: Sequence[str],
        seeds: Sequence[int],
        folder: str | os.PathLike[str],
        **options: Unpack[StudyOptions],
    ) -> Comparison:
        """Make the runs of the plan in a study's open folder; finished ones are kept."""
        from abkd.study import run_opened

        return run_opened(self.plan(methods, seeds), Path(folder), **options)

    def file_faults(self) -> Iterator[str]:
        """One line for each fault of a file of data on this disk that the recipe names; reads them whole."""
        yield from ()

    @abstractmethod
    def dry_run(self, methods: Sequence[str], folder: str | os.PathLike[str], report: Callable[[str], None]) -> None:
        """Two steps of every method on made-up data."""

    @abstractmethod
    def headline(self, metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
        """A run's result in a few words."""

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, which `parse_recipe` reads."""
        return {**self._task(), **self.spec.model_dump(mode="json", exclude_unset=True)}

    def to_yaml(self) -> str:
        """The recipe with all overrides, as YAML that `load_recipe` reads."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @abstractmethod
    def _plan_class(self) -> type[StudyPlan[Any]]: ...

    def _task(self) -> dict[str, str]:
        return {}
