"""What the trainer finds out and checks before and after TRL's constructor has run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from abkd.engine import ProgressBar
from abkd.errors import InputError
from abkd.lm._adapters import same_model
from abkd.lm._config import DistillationConfig
from abkd.lm._data import (
    ENDED,
    can_mark_answers,
    check_columns,
    check_completions,
    check_template,
    split_turns,
    wants_assistant_only,
)
from abkd.lm._seqkd import TeacherText
from abkd.lm._student_settings import Sampling
from abkd.lm._teacher import LiveTeacher, base_of, check_apart, load_teacher, load_tokenizer_of
from abkd.lm._validation_texts import ValidationWriter
from abkd.lm._vocabulary import shared_vocabulary
from abkd.lm.data import tokenise


def checked_config(args: Any) -> DistillationConfig:
    """The configuration, a default one for None.

    Raises:
        InputError: of another class.
    """
    if args is None:
        return DistillationConfig()
    if not isinstance(args, DistillationConfig):
        raise InputError(f"args must be an abkd.lm.DistillationConfig, got {type(args).__name__}")
    return args


class Setup:
    """Models, tokenizer and data of a run, checked in the order in which mistakes are cheap.

    Attributes:
        tokenizer: what the data are tokenised with.
        train_dataset, eval_dataset: the data as TRL is to prepare them.
        rows: how many rows it has before preparation, None where that is not known.
        notes: what the user should know.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        args: DistillationConfig,
        train_dataset: Any,
        eval_dataset: Any,
        tokenizer: Any,
        cache: Any,
    ) -> None:
        self.args, self.cache, self.notes = args, cache, list[str]()
        self._check_given(student, teacher)
        self.tokenizer = _with_template(_tokenizer(student, tokenizer, args), args)
        self.teacher = self._loaded_teacher(teacher)
        self._teacher_name = teacher if isinstance(teacher, str) else None
        row = check_columns(train_dataset, "train_dataset", args.dataset_text_field)
        check_completions(train_dataset, "train_dataset")
        if eval_dataset is not None:
            for part in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
                check_columns(part, "eval_dataset", args.dataset_text_field)
                check_completions(part, "eval_dataset")
        sampling = args.teacher_sampling()
        if sampling is not None:
            train_dataset = self._teacher_text(train_dataset, sampling)
            row = check_columns(train_dataset, "train_dataset", args.dataset_text_field)
        check_template(row, self.tokenizer)
        self.train_dataset, self.eval_dataset, self._eval_rows = train_dataset, eval_dataset, eval_dataset
        if wants_assistant_only(row):
            self._tell_answers()
        known = hasattr(self.train_dataset, "__len__") and "input_ids" not in row
        self.rows = len(self.train_dataset) if known else None
        self.train_dataset = self._cut_as_written(self.train_dataset)
        self.eval_dataset = self._cut_as_written(self.eval_dataset)

    def _cut_as_written(self, dataset: Any) -> Any:
        """Tokenise completions that may have been cut here, since TRL would end them; packing is left to it."""
        columns = getattr(dataset, "column_names", None) or []
        if ENDED not in columns or "input_ids" in columns:
            return dataset
        whole = self.args.completion_only_loss is False
        rows = tokenise(dataset, self.tokenizer, max_length=None, prompts=whole)
        return rows.select_columns(["input_ids", "labels"])

    def _tell_answers(self) -> None:
        """Leave the user's turns out of the loss: by the template's marks, else by a row for each answer."""
        if can_mark_answers(self.tokenizer):
            self.args.assistant_only_loss = True
            return
        self.notes.append(
            "the chat template does not mark answers: each of the assistant's turns becomes a row of its own"
        )
        self.args.assistant_only_loss = False
        self.train_dataset = split_turns(self.train_dataset, "train_dataset")
        self.eval_dataset = split_turns(self.eval_dataset, "eval_dataset")

    def check_trainer(self, trainer: Any) -> None:
        """Checks that need the trainer as TRL has made it.

        Raises:
            InputError: an adapter with virtual tokens, a mixture of experts with a balancing loss, or a split along
                the sequence.
        """
        peft = getattr(trainer.model, "peft_config", None) or {}
        if any(getattr(config, "is_prompt_learning", False) for config in peft.values()):
            raise InputError("adapters that add virtual tokens shift the positions of the loss: use LoRA")
        if trainer.aux_loss_enabled:
            raise InputError(
                "this mixture of experts adds a balancing loss, which is no part of the methods here: set "
                "router_aux_loss_coef=0.0"
            )
        layout = trainer.accelerator.parallelism_config
        if layout is not None and (layout.cp_enabled or layout.sp_enabled):
            raise InputError("context and sequence parallelism split the rows that the loss compares: leave them off")
        if self.args.select_by is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            raise InputError(
                "select_by keeps whole weights in memory: with FSDP or DeepSpeed use load_best_model_at_end"
            )

    def teacher_of(self, trainer: Any) -> tuple[int, Any]:
        """How many classes are compared, and what gives the targets (None without a teacher).

        Raises:
            InputError: a teacher is missing, shares the student's weights, or has another vocabulary.
        """
        student = base_of(trainer.model)
        size = int(student.get_output_embeddings().weight.shape[0])
        if self.cache is not None:
            return self._cached(size, trainer)
        if self.teacher is None:
            return size, None
        teacher = self.teacher
        check_apart(trainer.model, teacher)
        head = base_of(teacher).get_output_embeddings().weight
        theirs = self._teacher_tokenizer()
        shared = shared_vocabulary(self.tokenizer, theirs, size, int(head.shape[0]))
        if shared.note is not None:
            self.notes.append(shared.note)
        live = LiveTeacher(teacher, trainer, shared.size)
        if live.note is not None:
            self.notes.append(f"the teacher's logits are used: {live.note}")
        return shared.size, live

    def _cached(self, size: int, trainer: Any) -> tuple[int, Any]:
        """The cache, once it is known to be of this tokenizer, these data and this temperature."""
        cache, temperatures = self.cache, self.args.objective().temperatures
        cache.check_tokenizer(self.tokenizer)
        if any(temperature != cache.temperature for temperature in temperatures):
            raise InputError(
                f"the teacher cache was made at temperature {cache.temperature:g}, the loss has "
                f"{' to '.join(f'{value:g}' for value in sorted(temperatures))}: give both the same"
            )
        if size < cache.vocabulary:
            raise InputError(f"the student's head has {size} classes, the teacher cache {cache.vocabulary}")
        if not trainer.padding_free:  # packed rows are looked up text by text as they come
            cache.check_dataset(trainer.train_dataset)
        return cache.vocabulary, cache

    def eval_teacher_of(self, trainer: Any, eval_dataset: Any) -> Any:
        """What gives the targets in evaluation: the teacher, or a cache that knows the evaluation's rows; or None."""
        if self.cache is None or eval_dataset is None:
            return trainer.teacher
        parts = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
        if all(_knows(self.cache, part) for part in parts):
            return trainer.teacher
        self.notes.append("eval_dataset is not in the teacher cache: evaluation gives nll alone, also as its loss")
        return None

    def validation_writer_of(self, trainer: Any) -> ValidationWriter | None:
        """What lets the student write in evaluation; None if it does not.

        Raises:
            InputError: rows that have no prompts and answers, or sharded weights.
        """
        settings = self.args.validation_writing()
        if settings is None:
            return None
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError("validation_texts are written with whole weights: leave them out with FSDP or DeepSpeed")
        return ValidationWriter(trainer, self._eval_rows, settings)

    def _loaded_teacher(self, teacher: Any) -> Any:
        if teacher is None or not isinstance(teacher, str):
            if self.args.teacher_model_init_kwargs is not None:
                raise InputError("teacher_model_init_kwargs needs a teacher that is given by name: leave it out")
            return teacher
        return load_teacher(teacher, self.args.teacher_model_init_kwargs, self.args.trust_remote_code)

    def _teacher_tokenizer(self) -> Any | None:
        if self._teacher_name is not None:
            return _load_tokenizer(self._teacher_name, self.args)
        return load_tokenizer_of(base_of(self.teacher), self.args.trust_remote_code)

    def _teacher_text(self, dataset: Any, sampling: Sampling) -> Any:
        """The data with the teacher's completions; a teacher that is needed for no more is let go."""
        args = self.args
        tokenizer = self._teacher_tokenizer() or self.tokenizer
        teacher: Any = self.teacher
        teacher.to(args.device)
        folder = Path(str(args.output_dir)) / "teacher_text"
        batch = args.per_device_eval_batch_size
        text = TeacherText(teacher, tokenizer, sampling, folder, seed=args.seed, batch=batch)
        state = args.distributed_state
        wait = None if state is None else state.wait_for_everyone
        shown = args.process_index == 0 and not args.disable_tqdm
        with ProgressBar("teacher's text") if shown else nullcontext() as report:
            found = text.of(dataset, rank=args.process_index, ranks=args.world_size, wait=wait, report=report)
        if not args.objective().needs_teacher:
            self.teacher = None
        return found

    def _check_given(self, student: Any, teacher: Any) -> None:
        method = self.args.method_definition()
        if isinstance(student, str) and isinstance(teacher, str) and same_model(student, teacher):
            raise InputError(f"teacher_model is {teacher!r}, as is the student: name another model for one of them")
        if teacher is not None and self.cache is not None:
            raise InputError("give teacher_model or teacher_cache, not both")
        writes = self.args.teacher_sampling() is not None
        if teacher is None and writes:
            raise InputError(f"method {method.name!r} trains on what the teacher writes: give teacher_model")
        if teacher is None and self.cache is None and self.args.objective().needs_teacher:
            raise InputError(f"method {method.name!r} needs a teacher: give teacher_model or teacher_cache")
        if self.cache is not None and (writes or self.args.student_sampling() is not None):
            raise InputError(
                "a cache knows the data set's own text alone: text that a model writes needs teacher_model"
            )


def _knows(cache: Any, dataset: Any) -> bool:
    """Whether all rows are in a cache."""
    try:
        cache.check_dataset(dataset)
    except InputError:
        return False
    return True


def _with_template(tokenizer: Any, args: DistillationConfig) -> Any:
    """The tokenizer with the chat template that TRL will give it, so that the data can be checked before."""
    place = args.chat_template_path
    if place is None:
        return tokenizer
    if Path(place).is_file() and place.endswith((".jinja", ".j2")):
        tokenizer.chat_template = Path(place).read_text(encoding="utf-8")
    else:
        tokenizer.chat_template = _load_tokenizer(place, args).chat_template
    return tokenizer


def _tokenizer(student: Any, given: Any, args: DistillationConfig) -> Any:
    if given is not None:
        return given
    name = student if isinstance(student, str) else getattr(base_of(student).config, "_name_or_path", "")
    if not name:
        raise InputError("the student does not say where its tokenizer is: give processing_class")
    return _load_tokenizer(name, args)


def _load_tokenizer(name: str, args: DistillationConfig) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=args.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no tokenizer could be loaded from there ({error})") from error
