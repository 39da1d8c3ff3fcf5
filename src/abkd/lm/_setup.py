"""What the trainer finds out and checks before and after TRL's constructor has run."""

from __future__ import annotations

import copy
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from abkd.divergences import AlphaBeta, Divergence, ReverseKL
from abkd.engine import TEACHER_TEXT, ProgressBar
from abkd.errors import InputError
from abkd.lm._adapters import read_tokenizer, same_model
from abkd.lm._config import DistillationConfig
from abkd.lm._hidden import add_head_call, base_of
from abkd.lm._objective import ScheduledObjective
from abkd.lm._row_forms import (
    can_mark_answers,
    check_columns,
    check_completions,
    check_template,
    wants_assistant_only,
)
from abkd.lm._student_settings import Sampling
from abkd.lm._teacher import TeacherModel, check_apart, load_teacher, load_tokenizer_of, shards_weights
from abkd.lm._teacher_text import TeacherText
from abkd.lm._tokenised import check_ids, check_room
from abkd.lm._validation_texts import ValidationWriter
from abkd.lm._vocabulary import shared_vocabulary
from abkd.losses._sparse import degree
from abkd.teachers._token_rows import vocabulary_of

_SMALL_ALPHA = 0.5  # below, a third or more of the divergence is in the tail
_SAME = 1e-6  # sums of alpha and beta this near are one


def checked_config(args: Any) -> DistillationConfig:
    """A copy of the configuration, a default one for None; what follows from the data is noted in it.

    Raises:
        InputError: of another class, or several GPUs for this one process.
    """
    if args is None:
        args = DistillationConfig()
    if not isinstance(args, DistillationConfig):
        raise InputError(f"args must be an abkd.lm.DistillationConfig, got {type(args).__name__}")
    if args.n_gpu > 1:
        raise InputError(
            f"this process sees {args.n_gpu} GPUs, and one process trains on one: launch one for each (accelerate "
            f"launch, torchrun --nproc_per_node {args.n_gpu}), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )
    return copy.copy(args)


def check_cache(cache: Any, objectives: ScheduledObjective) -> None:
    """A teacher cache that serves the objective of every step.

    Raises:
        InputError: it has another temperature, or a tail that a divergence cannot do without.
    """
    if any(temperature != cache.temperature for temperature in objectives.temperatures):
        raise InputError(
            f"the teacher cache was made at temperature {cache.temperature:g}, the loss has "
            f"{' to '.join(f'{value:g}' for value in sorted(objectives.temperatures))}: give both the same"
        )
    divergences = objectives.divergences()
    degrees = [float(found.max()) for divergence in divergences if (found := degree(divergence)) is not None]
    form = getattr(cache, "form", None)
    if (
        form is not None
        and not form.dense
        and max(degrees, default=0) > 1 + _SAME
        and max(degrees) - min(degrees) > _SAME
    ):
        raise InputError(
            f"alpha + beta moves from {degrees[0]:g} to {degrees[-1]:g}, and above 1 a cache serves a single sum: keep "
            "it at most 1, or the same in every step, or give teacher_model instead"
        )
    for divergence in divergences:
        cache.check_divergence(divergence)


def opened_cache(given: Any) -> Any:
    """A teacher cache as given, or opened where its folder is given.

    Raises:
        InputError: no cache there, or something that is none.
    """
    from abkd.teachers import LmCache

    if isinstance(given, str | os.PathLike):
        return LmCache.open(cast("str | os.PathLike[str]", given))
    if given is not None and not hasattr(given, "targets_for"):
        raise InputError(f"teacher_cache: expected an LmCache or its folder, got {type(given).__name__}")
    return given


class Setup:
    """Models, tokenizer and data of a run, checked in the order in which mistakes are cheap.

    Attributes:
        tokenizer: what the data are tokenised with.
        train_dataset, eval_dataset: the data as they are to be prepared.
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
        self._check_given(student, teacher, eval_dataset)
        self.tokenizer = _with_template(_tokenizer(student, tokenizer, args), args)
        sampling = args.teacher_sampling()
        row = check_columns(train_dataset, "train_dataset", args.dataset_text_field, prompts=sampling is not None)
        if sampling is None:
            check_completions(train_dataset, "train_dataset")
        for part in parts_of(eval_dataset):
            check_columns(part, "eval_dataset", args.dataset_text_field)
            check_completions(part, "eval_dataset")
        check_template(row, self.tokenizer)
        self.teacher, self._teacher_name = teacher, None
        if isinstance(teacher, str):
            self.teacher = load_teacher(teacher, args.teacher_model_init_kwargs, args.trust_remote_code)
            self._teacher_name = teacher
        if sampling is not None:
            train_dataset = self._teacher_text(train_dataset, sampling)
            row = check_columns(train_dataset, "train_dataset", args.dataset_text_field)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self._tell_answers(row)

    def _tell_answers(self, row: dict[str, Any]) -> None:
        """What becomes of dialogues: the template marks the answers, or each becomes a row."""
        first = [row, *(next(iter(part)) for part in parts_of(self.eval_dataset))]
        asked = any(wants_assistant_only(each) for each in first)
        marked = asked and can_mark_answers(self.tokenizer)
        if wants_assistant_only(row):
            self.args.assistant_only_loss = marked  # TRL checks the template by it
        if asked and not marked:
            self.notes.append(
                "the chat template does not mark answers: each of the assistant's turns becomes a row of its own"
            )

    def check_trainer(self, trainer: Any) -> None:
        """Checks that need the trainer as TRL has made it.

        Raises:
            InputError: an adapter with virtual tokens, a mixture of experts with a balancing loss, or
                a split along the sequence.
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
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            return
        if self.args.select_by is not None:
            raise InputError(
                "select_by keeps whole weights in memory: with FSDP or DeepSpeed use load_best_model_at_end"
            )
        text = self.args.student_sampling()
        mixed = text is not None and text.teacher_mix > 0
        if mixed and trainer.args.world_size > 1 and shards_weights(trainer):
            raise InputError(
                "student_text.teacher_mix asks the teacher for each token that a student writes, and under FSDP or "
                "ZeRO-3 the processes, whose texts end at different lengths, would wait for each other for ever: "
                "set it to 0"
            )

    def teacher_of(self, trainer: Any) -> tuple[int, Any]:
        """How many classes are compared, and what gives the targets (None without a teacher).

        Raises:
            InputError: a teacher is missing, shares the student's weights, or has another vocabulary; or rows do not
                fit the models.
        """
        student = base_of(trainer.model)
        size = int(student.get_output_embeddings().weight.shape[0])
        found = None
        if self.cache is not None:
            size, found = self._cached(size, trainer)
        elif self.teacher is not None:
            size, found = self._live(size, trainer)
        else:
            size = min(size, vocabulary_of(self.tokenizer))
        for name in ("train_dataset", "eval_dataset"):
            for part in parts_of(getattr(trainer, name)):
                check_ids(part, name, self.tokenizer, size)
        text = self.args.student_sampling()
        if text is not None:
            models = {"student": student} if self.teacher is None else {"student": student, "teacher": self.teacher}
            check_room(trainer.train_dataset, "train_dataset", models, text.max_new_tokens)
        return size, found

    def _live(self, size: int, trainer: Any) -> tuple[int, TeacherModel]:
        """The teacher, once it is known to speak the student's tokens."""
        teacher: Any = self.teacher
        check_apart(trainer.model, teacher)
        head = base_of(teacher).get_output_embeddings().weight
        shared = shared_vocabulary(self.tokenizer, self._teacher_tokenizer(), size, int(head.shape[0]))
        if shared.note is not None:
            self.notes.append(shared.note)
        live = TeacherModel(teacher, trainer, shared.size)
        if live.note is not None:
            self.notes.append(f"the teacher's logits are used: {live.note}")
        return shared.size, live

    def _cached(self, size: int, trainer: Any) -> tuple[int, Any]:
        """The cache, once it is known to be of this tokenizer, these data and this objective."""
        cache, objectives = self.cache, self.args.objective()
        cache.check_tokenizer(self.tokenizer)
        check_cache(cache, objectives)
        self._tell_tail()
        reason = add_head_call(base_of(trainer.model))
        if reason is not None:
            raise InputError(
                f"a teacher cache needs a student whose hidden states and head give its logits; of this one {reason}: "
                "give teacher_model instead"
            )
        if size < cache.vocabulary:
            raise InputError(f"the student's head has {size} classes, the teacher cache {cache.vocabulary}")
        if hasattr(trainer.train_dataset, "__len__"):  # a stream's rows are looked up as they come
            cache.check_dataset(trainer.train_dataset)
        return cache.vocabulary, cache

    def _tell_tail(self) -> None:
        """Say once what a cache without the teacher's tail loses with a small alpha."""
        form = getattr(self.cache, "form", None)
        if form is None or form.dense:
            return
        small = [one for one in self.args.objective().divergences() if _alpha_of(one) < _SMALL_ALPHA]
        if not small:
            return
        least = min(small, key=_alpha_of)
        power = degree(least)
        kept, wanted = form.power, None if power is None else round(float(power.max()), 6)
        built = kept is not None and wanted is not None and abs(kept - wanted) < _SAME
        remedy = "" if built or wanted is None else f" built with --power {wanted:g}, or"
        self.notes.append(
            f"{least.name} weighs the teacher's tail, of which this cache (at most {form.most} entries a "
            "token) knows the mass alone: about half of the divergence is lost at 32 entries, a third or more at 128; "
            f"train with a live teacher (teacher_model), or a cache{remedy} of more entries"
        )

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
        return ValidationWriter(trainer, self.eval_dataset, settings)

    def _teacher_tokenizer(self) -> Any | None:
        if self._teacher_name is not None:
            return read_tokenizer(self._teacher_name, trust_remote_code=self.args.trust_remote_code)
        return load_tokenizer_of(base_of(self.teacher), self.args.trust_remote_code)

    def _teacher_text(self, dataset: Any, sampling: Sampling) -> Any:
        """The data with the teacher's completions; a teacher that is needed for no more is let go."""
        args = self.args
        tokenizer = self._teacher_tokenizer() or self.tokenizer
        teacher: Any = self.teacher
        teacher.to(args.device)
        shared = args.teacher_text_folder
        folder = Path(str(args.output_dir)) / TEACHER_TEXT if shared is None else Path(shared)
        seed = args.seed if shared is None else 0
        batch = args.per_device_eval_batch_size
        text = TeacherText(teacher, tokenizer, sampling, folder, seed=seed, batch=batch)
        state = args.distributed_state
        wait = None if state is None else state.wait_for_everyone
        shown = args.process_index == 0 and not args.disable_tqdm
        with ProgressBar("teacher's text") if shown else nullcontext() as report:
            found = text.of(dataset, rank=args.process_index, ranks=args.world_size, wait=wait, report=report)
        if not args.objective().needs_teacher:
            self.teacher = None
        return found

    def _check_given(self, student: Any, teacher: Any, eval_dataset: Any) -> None:
        method = self.args.method_definition()
        strategy = str(getattr(self.args.eval_strategy, "value", self.args.eval_strategy))
        if eval_dataset is None and strategy != "no":
            raise InputError(
                f"eval_strategy is {strategy!r}, and there is no eval_dataset: give one, or set it to 'no'"
            )
        if isinstance(eval_dataset, dict):
            self._check_leader()
        if self.args.teacher_model_init_kwargs is not None and not isinstance(teacher, str):
            raise InputError("teacher_model_init_kwargs needs a teacher that is given by name: leave it out")
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

    def _check_leader(self) -> None:
        """With several evaluation sets there is no one metric of each name to go by."""
        text = self.args.student_sampling()
        led = {
            "select_by": self.args.select_by is not None,
            "validation_texts": self.args.validation_writing() is not None,
            "an adaptive share of student text": text is not None and text.schedule == "adaptive",
        }
        for name, asked in led.items():
            if asked:
                raise InputError(
                    f"{name} goes by one evaluation set, and eval_dataset is a dict of several: give the one that "
                    "leads as eval_dataset, and evaluate the others with trainer.evaluate(rows, metric_key_prefix=NAME)"
                )


def _alpha_of(divergence: Divergence) -> float:
    """Alpha of an alpha-beta-divergence, reverse KL's 0; 1 for the others."""
    if isinstance(divergence, ReverseKL):
        return 0.0
    return float(divergence.alpha) if isinstance(divergence, AlphaBeta) else 1.0


def parts_of(dataset: Any) -> list[Any]:
    """The data sets in one or a dict of them; none in None."""
    if dataset is None:
        return []
    return list(dataset.values()) if isinstance(dataset, dict) else [dataset]


def teacher_knowing(dataset: Any, teacher: Any) -> Any:
    """The teacher; None where it is a cache in which not all rows of the data are (of a stream they are not known)."""
    if isinstance(teacher, TeacherModel) or teacher is None:
        return teacher
    try:
        for part in parts_of(dataset):
            if hasattr(part, "__len__"):
                teacher.check_dataset(part)
    except InputError:
        return None
    return teacher


def _with_template(tokenizer: Any, args: DistillationConfig) -> Any:
    """The tokenizer with the chat template that TRL will give it, so that the data can be checked before."""
    place = args.chat_template_path
    if place is None:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)  # the caller's stays as it is
    if Path(place).is_file() and place.endswith((".jinja", ".j2")):
        tokenizer.chat_template = Path(place).read_text(encoding="utf-8")
    else:
        tokenizer.chat_template = read_tokenizer(place, trust_remote_code=args.trust_remote_code).chat_template
    return tokenizer


def _tokenizer(student: Any, given: Any, args: DistillationConfig) -> Any:
    if given is not None:
        return given
    name = student if isinstance(student, str) else getattr(base_of(student).config, "_name_or_path", "")
    if not name:
        raise InputError("the student does not say where its tokenizer is: give processing_class")
    return read_tokenizer(name, trust_remote_code=args.trust_remote_code)
