"""The sections of a language recipe. Each is frozen and refuses keys that it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from abkd.config._image import Compare, Count, MethodSettings, Place, Section, Seed, Share, TaskRecipe, each_once

Dtype = Literal["float32", "bfloat16", "float16"]
Layer = Annotated[int, Field(ge=0, strict=True)]


class Sampling(Section):
    """How a model writes: temperature of the sampling (not of the loss), nucleus, and the most tokens of a text."""

    generation_temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 128


class LmData(Section):
    """Which text.

    `train` is a built-in name (`abkd.lm.data.instruction_names()`), a file, a folder, or `owner/name` of the hub.
    `validation` rows (a share or a number held out of `train`, or a name or path whose own validation split is
    taken) choose the epoch; `test` rows (a share or a number held out) measure KL and NLL at the end. At most
    `train_size` of the rest are trained on. `answers` lets the teacher write all responses, once, before training.
    `pretrain` is plain text for an LM loss beside the method's, of weight `loss.pretrain_weight`.
    """

    train: Place
    validation: Share | Count | Place | None = None
    test: Share | Count | None = None
    train_size: Count | None = None
    split_seed: Seed = 0
    template: Literal["alpaca", "chat", "plain"] = "alpaca"
    max_prompt_length: Count | None = 256
    root: Place | None = None
    drop_empty: bool = False
    answers: Sampling | None = None
    pretrain: Place | None = None

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not (value >= 1 if isinstance(value, int) else 0 < value < 1):
            raise ValueError(
                f"expected a share in (0, 1), or a number of rows of at least 1 (none: leave it out), got {value!r}"
            )
        return value


class Lora(Section):
    """A LoRA adapter: rank, scale, dropout, and the layers it is put on (null: peft's choice; all-linear)."""

    r: Count = 16
    alpha: Annotated[float, Field(gt=0)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_modules: str | list[str] | None = None


class LmStudent(Section):
    """The model that is trained: `model` (a name or path), or a part of it, or a part of the teacher.

    `layers` is how many to keep (by `keep`: those of most influence, or evenly spaced) or their numbers from 0;
    `heads` and `intermediate_size` are attention heads and feed-forward units of each, those that do the most.
    """

    model: Place | None = None
    layers: Count | Annotated[list[Layer], Field(min_length=1)] | None = None
    keep: Literal["influence", "even"] = "influence"
    heads: Count | None = None
    intermediate_size: Count | None = None
    dtype: Dtype = "float32"
    lora: Lora | None = None

    @property
    def smaller(self) -> bool:
        """Whether it is made of a part of a model."""
        return any(part is not None for part in (self.layers, self.heads, self.intermediate_size))

    @field_validator("layers", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value is not None and not isinstance(value, list) and not whole:
            raise ValueError(f"expected how many layers to keep, at least 1, or their indices, got {value!r}")
        return value

    @field_validator("layers")
    @classmethod
    def _rising(cls, value: int | list[int] | None) -> int | list[int] | None:
        if isinstance(value, list) and sorted(set(value)) != value:
            raise ValueError(f"expected different indices in rising order, got {value}")
        return value

    @model_validator(mode="after")
    def _made_of_something(self) -> LmStudent:
        if self.model is None and not self.smaller:
            raise ValueError("expected model (a name or path), or layers, heads or intermediate_size to keep")
        return self


class LmTeacher(Section):
    """What gives targets: `model` (a name or path; an `adapter` is merged into it), or `cache` (`abkd cache`).

    With a `cache` a named model is loaded only to be checked, and to make a student of its layers. With `training` the
    recipe first fine-tunes the teacher (`method: sft`) on the same data, with `lora` if that is given.
    """

    model: Place | None = None
    adapter: Place | None = None
    dtype: Dtype | Literal["auto"] = "auto"
    cache: Place | None = None
    training: dict[str, Any] | None = None
    lora: Lora | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _some_origin(self) -> LmTeacher:
        if self.model is None and self.cache is None:
            raise ValueError("expected model (a name or path) or cache (a folder that abkd cache wrote)")
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter needs the model that it belongs to")
        if self.training is not None and (self.adapter is not None or self.cache is not None or self.model is None):
            raise ValueError("training starts from model alone: leave out adapter and cache")
        if "seed" in self.model_fields_set and self.training is None:
            raise ValueError("seed is of a teacher that the recipe trains: leave it out, or give training")
        if self.lora is not None and self.training is None:
            raise ValueError("lora is for a teacher that the recipe trains; a trained one is named by adapter")
        return self


class LmEvaluation(Section):
    """What the finished student is asked: test `sets` for ROUGE-L, each written once a seed; and a few `samples`."""

    sets: list[Place] = Field(default_factory=list)
    seeds: list[Seed] = Field(default=[10, 20, 30, 40, 50], min_length=1)
    max_new_tokens: Count = 256
    batch_size: Count = 16
    size: Count | None = None
    samples: Annotated[int, Field(ge=0, strict=True)] = 3
    sample_tokens: Count = 64

    @field_validator("sets", "seeds")
    @classmethod
    def _different(cls, value: list[Any]) -> list[Any]:
        return each_once(value) or []


class LmMethodSettings(MethodSettings):
    """What a comparison sets for one of its methods; `training` is put over the recipe's own."""

    student_text: dict[str, Any] | None = None
    teacher_text: dict[str, Any] | None = None
    training: dict[str, Any] = Field(default_factory=dict)


class LmCompare(Compare):
    """For `abkd compare`: methods, seeds, and settings that differ from a method's own defaults."""

    settings: Mapping[str, LmMethodSettings] = Field(default_factory=dict)  # pyright: ignore[reportIncompatibleVariableOverride] - frozen


class LmRecipe(TaskRecipe):
    """A whole language recipe, as written; `abkd.config.load_recipe` checks what one section says of another."""

    task: Literal["lm"] = "lm"
    data: LmData
    teacher: LmTeacher | None = None
    student: LmStudent
    student_text: dict[str, Any] | None = None
    teacher_text: dict[str, Any] | None = None
    evaluation: LmEvaluation = Field(default_factory=LmEvaluation)
    compare: LmCompare = Field(default_factory=LmCompare)  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
