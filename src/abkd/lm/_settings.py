"""What one language run is, as plain data: it can be written as JSON, compared, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from abkd.errors import InputError, nearest
from abkd.lm._decoding import Decoding

Part = TypeVar("Part")

# Keys of `loss` that the trainer has names for; all others are settings of the method.
WEIGHTS = ("temperature", "ce_weight", "kd_weight", "pretrain_weight")


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class LmStudent:
    """The model that is trained.

    Attributes:
        model: a name or path for `from_pretrained`; None makes it from the teacher's layers.
        layers: how many layers to keep of `model` (or of the teacher), or which ones; None keeps all.
        keep: how a number of layers is chosen, "influence" or "even"; see `abkd.lm.make_student`.
        heads, intermediate_size: attention heads and feed-forward units of a layer, where there should be fewer.
        dtype: of the weights: "float32", "bfloat16", "float16", or "auto" as they were saved.
        lora: keyword arguments of `abkd.lm.lora` (r, alpha, dropout, target_modules); None trains all weights.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    keep: str = "influence"
    heads: int | None = None
    intermediate_size: int | None = None
    dtype: str = "float32"
    lora: Mapping[str, Any] | None = None

    @property
    def smaller(self) -> bool:
        """Whether it is made of another model's parts."""
        return any(part is not None for part in (self.layers, self.heads, self.intermediate_size))


@dataclass(frozen=True)
class LmTeacher:
    """What gives targets.

    Attributes:
        model: a name or path for `from_pretrained`; "smollm2-135m" is the one that a package carries.
        adapter: a LoRA adapter's folder, which is merged into the model.
        dtype: of the weights: "float32", "bfloat16", "float16", or "auto" as they were saved.
        cache: a folder that `abkd cache` wrote; a model that is named as well is loaded only to be checked, and to
            make a student of it.
    """

    model: str | None = None
    adapter: str | None = None
    dtype: str = "auto"
    cache: str | None = None


@dataclass(frozen=True)
class LmData:
    """Which text.

    Attributes:
        train: a name or path for `abkd.lm.data.load_instructions`.
        validation: rows to choose the epoch by: a share or a number held out of `train`, or a name or path whose
            "validation" split is taken; None for none.
        test: rows for held-out KL and NLL: a share or a number held out of `train`; None for none.
        train_size: at most so many of the rest are trained on.
        split_seed: of the order in which rows are held out.
        template: "alpaca", "chat" or "plain".
        max_prompt_length: tokens; longer prompts, those of test sets too, are shortened inside their template. None
            shortens none.
        root: the folder of MiniLLM's data; None takes them from the hub.
        drop_empty: leave rows with empty responses out.
        answers: how the teacher writes the responses (generation_temperature, top_p, max_new_tokens), once and
            for all splits; None takes those of the data.
        pretrain: plain text for an LM loss beside the method's: a .txt, .json(l) or .parquet file with a column
            `text`, or a hub name.
    """

    train: str
    validation: str | float | int | None = None
    test: float | int | None = None
    train_size: int | None = None
    split_seed: int = 0
    template: str = "alpaca"
    max_prompt_length: int | None = 256
    root: str | None = None
    drop_empty: bool = False
    answers: Mapping[str, Any] | None = None
    pretrain: str | None = None


@dataclass(frozen=True)
class LmEvaluation:
    """Texts that the finished student writes.

    Attributes:
        sets: names or paths of test sets for ROUGE-L.
        seeds: of the sampling; each writes all texts once.
        max_new_tokens: of a response.
        batch_size: prompts at a time.
        size: only the first so many rows of each set; None takes all.
        samples: how many held-out prompts are answered before and after training, for reading.
        sample_tokens: the length of these answers.
    """

    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (10, 20, 30, 40, 50)
    max_new_tokens: int = 256
    batch_size: int = 16
    size: int | None = None
    samples: int = 3
    sample_tokens: int = 64


@dataclass(frozen=True)
class LmRun:
    """One language run: a student trained on text by a method, with or without a teacher.

    Attributes:
        student: the model to train.
        data: what it is trained and chosen on.
        method: a name of `abkd.lm.METHODS`.
        divergence: `{"name": ..., setting: value}`; None keeps the method's own. A value may be a schedule
            `{"from": 1.0, "to": 0.2, "shape": "cosine", "until": 1.0}`.
        loss: temperature, ce_weight, kd_weight, pretrain_weight, and the method's own settings.
        student_text, teacher_text: settings of text that the student or the teacher writes; None: the method's.
        teacher: None only for methods that need none.
        evaluation: what the finished student is asked.
        training: keyword arguments of `abkd.lm.DistillationConfig`, and so of TRL's `SFTConfig`.
        seed: fixes the order of the data, dropout and sampling.
    """

    student: LmStudent
    data: LmData
    method: str = "abkd"
    divergence: Mapping[str, Any] | None = None
    loss: Mapping[str, Any] = field(default_factory=_nothing)
    student_text: Mapping[str, Any] | None = None
    teacher_text: Mapping[str, Any] | None = None
    teacher: LmTeacher | None = None
    evaluation: LmEvaluation = field(default_factory=LmEvaluation)
    training: Mapping[str, Any] = field(default_factory=_nothing)
    seed: int = 0

    def decoding(self) -> Decoding:
        """How the finished student answers the test sets: the published decoding, of the lengths that are set here."""
        return Decoding(max_new_tokens=self.evaluation.max_new_tokens, max_prompt_length=self.data.max_prompt_length)

    def to_dict(self) -> dict[str, Any]:
        """The run as nested dicts, lists, strings, numbers and None, with `task: lm`."""
        return {"task": "lm", **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LmRun:
        """The run that `to_dict` wrote.

        Raises:
            InputError: an unknown key, or `student` or `data` missing.
        """
        given = {key: item for key, item in value.items() if key != "task"}
        for key in ("student", "data"):
            if key not in given:
                raise InputError(f"language run: {key!r} is missing")
        given["student"] = _part(LmStudent, given["student"])
        given["data"] = _part(LmData, given["data"])
        if given.get("teacher") is not None:
            given["teacher"] = _part(LmTeacher, given["teacher"])
        if "evaluation" in given:
            given["evaluation"] = _part(LmEvaluation, given["evaluation"])
        return _part(cls, given)


def _part(kind: type[Part], value: Mapping[str, Any]) -> Part:
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            raise InputError(f"language run: unknown key {key!r}; {nearest(key, known)}")
    return kind(**{key: tuple(item) if isinstance(item, list) else item for key, item in value.items()})


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
