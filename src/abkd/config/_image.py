"""The sections of an image recipe. Each is frozen and refuses keys that it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]


def at_home(place: str) -> str:
    """A path with `~` written out; anything else as it is."""
    return str(Path(place).expanduser()) if place == "~" or place.startswith("~/") else place


Place = Annotated[str, Field(min_length=1), AfterValidator(at_home)]
"""A file or folder, or a name that leads elsewhere."""
Share = Annotated[float, Field(gt=0, lt=1, strict=True)]


class Section(BaseModel):
    """A part of a recipe: frozen, strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Data(Section):
    """Which images.

    `name` is a built-in name (`abkd.image.data.data_names()`), a folder with train/ and test/, or `hub:NAME`.
    `validation` images (a share in (0, 1), or a count; 0 for none, and then the last epoch counts) are held
    out of the training split, and the epoch is chosen on them; without it, the data's own validation split,
    or a tenth. `test` likewise, for data without a test split; without it, a fifth. `train_size` of the rest (a
    share or a count, evenly over the classes) are what the student sees; a teacher trained by the recipe sees the
    whole rest.
    """

    name: Place
    root: Place | None = None
    validation: Share | Annotated[int, Field(ge=0, strict=True)] | None = None
    test: Share | Count | None = None
    split_seed: Seed = 0
    train_size: Annotated[float, Field(gt=0, le=1, strict=True)] | Count | None = None
    augment: Literal["auto", "none", "crop-flip", "imagenet"] = "auto"
    image_size: Count | tuple[Count, Count] | None = None
    download: bool = False
    options: dict[str, Any] = Field(default_factory=dict)


class Student(Section):
    """The model that is trained: a name (`abkd.image.models.model_names()`) and the options of that model."""

    model: Place
    pretrained: bool = False
    options: dict[str, Any] = Field(default_factory=dict)


class Teacher(Section):
    """What gives targets: `path` (a saved model), or `model` with `weights`, `pretrained` or `training`.

    With `training` the recipe trains the teacher first, on labels, once for all methods and seeds.
    `cache: memory` keeps its logits by the content of each image, which saves time where images come again.
    """

    path: Place | None = None
    model: Place | None = None
    weights: Place | None = None
    pretrained: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] | None = None
    seed: Seed = 0
    cache: Literal["memory"] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Teacher:
        if (self.path is None) == (self.model is None):
            raise ValueError("expected either path (a saved model) or model (a name), and not both")
        named = [self.weights is not None, self.pretrained, self.training is not None]
        if self.path is not None and (any(named) or self.options):
            raise ValueError("a saved teacher (path) takes no weights, pretrained, training or options")
        if self.model is not None and not any(named):
            raise ValueError(
                "an untrained teacher teaches nothing: give weights (a file), pretrained: true, "
                "training (then it is trained first), or path (a folder with a saved model)"
            )
        if "seed" in self.model_fields_set and self.training is None:
            raise ValueError("seed is of a teacher that the recipe trains: leave it out, or give training")
        if self.weights is not None and (self.pretrained or self.training is not None):
            raise ValueError("weights are loaded as they are: leave out pretrained and training")
        return self


class Divergence(BaseModel):
    """A divergence by name, and its numbers; a number may be a schedule {from, to, shape, until}."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What is written beside the name."""
        return dict(self.model_extra or {})


class MethodSettings(Section):
    """What a comparison sets for one of its methods."""

    divergence: Divergence | None = None
    loss: dict[str, Any] = Field(default_factory=dict)


class Compare(Section):
    """For `abkd compare`: methods, seeds, and settings that differ from a method's own defaults."""

    methods: list[str] | None = Field(default=None, min_length=1)
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    settings: Mapping[str, MethodSettings] = Field(default_factory=dict)

    @field_validator("methods", "seeds")
    @classmethod
    def _different(cls, value: list[Any] | None) -> list[Any] | None:
        return each_once(value)


class TaskRecipe(Section):
    """What a recipe of any task has."""

    description: str = ""
    method: str = "abkd"
    divergence: Divergence | None = None
    loss: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    seeds: list[Seed] = Field(default=[1], min_length=1)
    compare: Compare = Field(default_factory=Compare)
    output: Place | None = None

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        return each_once(value) or []


class ImageRecipe(TaskRecipe):
    """A whole image recipe, as written; `abkd.config.load_recipe` checks what one section says of another."""

    task: Literal["image"] = "image"
    data: Data
    teacher: Teacher | None = None
    student: Student


def each_once(value: list[Any] | None) -> list[Any] | None:
    """The list as it is.

    Raises:
        ValueError: Something stands in it twice.
    """
    twice = sorted({item for item in value or [] if (value or []).count(item) > 1})
    if twice:
        raise ValueError(f"expected each once, but {', '.join(map(str, twice))} stands more than once")
    return value
