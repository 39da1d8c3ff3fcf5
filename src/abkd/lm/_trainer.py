"""The language trainer: a student, a teacher and a method on TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from abkd.engine import BestWeights, EngineTrainer, TrainingError, say
from abkd.errors import InputError
from abkd.lm._batch import IGNORED, OWN_TEXT, PRETRAIN, ROLLOUT, counted, model_inputs
from abkd.lm._config import DistillationConfig
from abkd.lm._hidden import (
    Predictions,
    add_head_call,
    base_of,
    call_with_head,
    drop_fused_head,
    found_at,
    has_nan,
)
from abkd.lm._measures import METRICS, SHARE, Measures
from abkd.lm._minillm import policy_loss
from abkd.lm._objective import LANGUAGE_MODELLING, Objective, objective_loss
from abkd.lm._plain_text import PlainText
from abkd.lm._row_forms import as_dataset
from abkd.lm._setup import Setup, checked_config, opened_cache, teacher_knowing
from abkd.lm._student_text import StudentWriter
from abkd.lm._teacher import BROKEN_TEACHER
from abkd.lm.data._prepare import prepare
from abkd.losses import Targets
from abkd.storage import atomic_write_json, read_json

_PLAIN_LENGTH = 512
_STATE_FILE = "measures"
_NOT_IN_CACHE = "the evaluation's rows are not in the teacher cache: it gives nll alone, also as its loss"


class DistillationTrainer(EngineTrainer, SFTTrainer):
    """Trains a causal language model from a teacher, on TRL's SFTTrainer.

    Data, chat templates, masks, packing, precision, PEFT, gradient checkpointing and distribution are TRL's and
    transformers'. The loss is the method's, taken on response tokens alone (completions, the assistant's turns;
    every token of plain text), EOS among them, as the mean over all such tokens of a step. It is computed from
    hidden states and head within the model's forward, so logits of a whole batch are never held; for models whose
    logits are more than head times hidden states the logits are used, and that is said once.

    The student's own text, where a method or `args.student_text` asks for it, is written before a step's tokens are
    counted; no cross-entropy is ever taken on it.

    DeepSpeed and FSDP are reached through TRL and accelerate, for student and teacher. Tests run the shards of both
    models on two processes without accelerators: whole runs by DeepSpeed (ZeRO-2, ZeRO-3), of FSDP2 the loss and its
    gradients, since accelerate starts FSDP on accelerators alone.

    Args:
        model: the student: a causal language model, or its name or path.
        teacher_model: likewise; frozen in place and kept in eval mode and in its own precision. None for methods
            without one, or with `teacher_cache`.
        args: a `DistillationConfig`.
        data_collator: TRL's unless given.
        train_dataset: rows of prompt and completion, of messages (or conversations), tokenised (input_ids, labels), or
            plain text; of prompts alone where the teacher writes the completions. A `datasets.Dataset`, or a list of
            dicts.
        eval_dataset: likewise, or a dict of several by name; a validation split, never the test split.
        processing_class: the tokenizer; the student's unless given.
        compute_metrics: as in transformers; costs a forward pass with all logits. The trainer's own metrics (nll,
            agreement, ...) need none.
        callbacks, optimizers: as in transformers.
        peft_config: trains an adapter, as in TRL.
        teacher_cache: an `abkd.teachers.LmCache`, or its folder, which gives the teacher's targets by the content of
            each row; the teacher is then not loaded.
        pretrain_dataset: rows with a column `text`, for an LM loss beside the method's, of weight `pretrain_weight`.

    Attributes:
        best: the best weights so far, where `args.select_by` is set.
        teacher: what gives the targets, or None.

    Raises:
        InputError: models, data or settings that do not fit together; the message says which, and what to do.
    """

    metrics = METRICS
    _tag_names = ["abkd"]  # noqa: RUF012 - TRL's attribute
    _name = "ABKD"
    _paper: dict[str, str] = {  # noqa: RUF012 - TRL's attribute
        "title": "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        "id": "2505.04560",
    }

    def __init__(
        self,
        model: Any,
        teacher_model: Any = None,
        args: DistillationConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        teacher_cache: Any = None,
        pretrain_dataset: Any = None,
    ) -> None:
        args = checked_config(args)
        if args.select_by is not None:  # refused before anything loads
            BestWeights.by(args.select_by, METRICS, None if compute_metrics is None else args.greater_is_better)
        train_dataset, eval_dataset = (
            as_dataset(train_dataset, "train_dataset"),
            as_dataset(eval_dataset, "eval_dataset"),
        )
        setup = Setup(
            model, teacher_model, args, train_dataset, eval_dataset, processing_class, opened_cache(teacher_cache)
        )
        before = None if isinstance(model, str) else base_of(model).__dict__.get("forward")
        super().__init__(
            cast("nn.Module", model),  # or its name, which TRL loads
            args,
            data_collator=data_collator,
            train_dataset=setup.train_dataset,
            eval_dataset=setup.eval_dataset,
            processing_class=setup.tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
            select_by=args.select_by,
            larger_is_better=args.greater_is_better,
        )
        drop_fused_head(base_of(self.model), before)
        self._config, self._batches_in_step, self._own_rows = args, 1, False
        self._measures = Measures(self)
        self._fit_out(setup, pretrain_dataset)

    def _fit_out(self, setup: Setup, pretrain_dataset: Any) -> None:
        """What the loss needs besides TRL's trainer, checked together."""
        args = self._config
        setup.check_trainer(self)
        note = add_head_call(base_of(self.model))
        self._objectives, self._policy = args.objective(), args.policy()
        if args.disable_dropout or self._policy is not None:  # whose ratio compares one student at two moments
            disable_dropout_in_model(cast("nn.Module", self.model))
        self.vocabulary, self.teacher = setup.teacher_of(self)
        self._own_eval_teacher = self._eval_teacher = teacher_knowing(self.eval_dataset, self.teacher)
        if self._eval_teacher is not self.teacher:
            setup.notes.append(_NOT_IN_CACHE)
        self._validation = setup.validation_writer_of(self)
        sampling = args.student_sampling()
        self._writer = None if sampling is None else StudentWriter(self, sampling, self._policy)
        self._plain = None if pretrain_dataset is None else self._plain_text(pretrain_dataset)
        self._say_start([None if note is None else f"the student's logits are used: {note}", *setup.notes])

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        """TRL's preparation, by each data set's own form; there is no `formatting_func` here."""
        del formatting_func
        where = {"train": "train_dataset", "eval": "eval_dataset"}.get(dataset_name, f"eval_dataset {dataset_name}")
        return prepare(self, dataset, processing_class, args, packing=packing, where=where, name=dataset_name)

    # The loss.

    def count_items(self, batch: Any) -> int:
        """The number of response tokens in a batch."""
        return int(counted(batch).sum())

    def mean_loss(self, model: Any, inputs: Any) -> tuple[Tensor, Any]:
        """The objective's mean over the response tokens of a batch; no output besides."""
        objective = self._objectives.at(self.progress())
        if inputs.get(OWN_TEXT):
            objective = objective.on_own_text()
        targets = self._targets(inputs, objective)
        if targets is None and objective.needs_teacher:  # evaluation of rows that a cache does not know
            objective = LANGUAGE_MODELLING
        measured = self._measures.due()

        def use_head(found: Predictions) -> dict[str, Any]:
            rows, labels = self._rows(found, inputs)
            loss = self._loss(rows, targets, labels, objective, inputs.get(ROLLOUT))
            plain = self._objectives.at(self.progress())
            sums = self._measures.compare(rows.detach(), labels, targets, inputs, plain) if measured else {}
            return {"loss": loss, "sums": sums}

        result = call_with_head(model, model_inputs(inputs), use_head)
        self._measures.note(result, inputs)
        return result["loss"], None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """The batch's part in the loss of the step, that on plain text included."""
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        plain = inputs.get(PRETRAIN)
        if plain is None:
            return found
        # All batches of plain text have equally many tokens, so the mean of their means is the mean over tokens.
        extra = self._config.pretrain_weight * self._plain_loss(model, plain) / self._batches_in_step
        return (found[0] + extra, found[1]) if return_outputs else found + extra

    def _plain_loss(self, model: Any, plain: Mapping[str, Any]) -> Tensor:
        def use_head(found: Predictions) -> Any:
            rows, labels = self._rows(found, plain)
            return {"loss": objective_loss(rows, None, labels, LANGUAGE_MODELLING)}

        return call_with_head(model, model_inputs(plain), use_head)["loss"]

    def _loss(
        self, rows: Predictions, targets: Targets | None, labels: Tensor, objective: Objective, moment: Any
    ) -> Tensor:
        try:
            if moment is not None and self._policy is not None and targets is not None:
                return policy_loss(rows, targets, labels, moment, objective, self._policy)
            return objective_loss(rows, targets if objective.needs_teacher else None, labels, objective)
        except InputError as error:
            if not bool(torch.isfinite(rows.states).all()) or has_nan(rows.weight):
                raise TrainingError(self.not_finite("the student's predictions are not finite")) from error
            if targets is not None and has_nan(*vars(targets).values()):
                raise TrainingError(
                    f"training stopped at step {self.state.global_step + 1}: {BROKEN_TEACHER}"
                ) from error
            raise

    def prepare_batches(self, batches: list[Any]) -> list[Any]:
        """Let the student write its share of a step's batches, and add the plain text."""
        self._batches_in_step = len(batches)
        self._measures.clock.start()
        if self._writer is not None:
            batches = self._writer.prepare(batches)
        if self._plain is None:
            return batches
        ranks, rank = self.args.world_size, self.args.process_index
        first = self.state.global_step * self.args.gradient_accumulation_steps
        device = self.args.device
        numbers = [(first + place) * ranks + rank for place in range(len(batches))]
        return [
            {**batch, PRETRAIN: self._plain.batch(number, device)}
            for number, batch in zip(numbers, batches, strict=True)
        ]

    def _targets(self, inputs: Mapping[str, Any], objective: Objective) -> Targets | None:
        """The teacher's targets: where the loss needs them, and in evaluation wherever there is a teacher."""
        if not self._training():
            return None if self._eval_teacher is None else self._eval_teacher.targets_for(inputs)
        return self.teacher.targets_for(inputs) if objective.needs_teacher and self.teacher is not None else None

    def _rows(self, found: Predictions, inputs: Mapping[str, Any]) -> tuple[Predictions, Tensor]:
        keep = counted(inputs)
        rows = found_at(found, keep).of_classes(self.vocabulary)
        return rows, inputs["labels"][:, 1:][keep].to(rows.states.device)

    # Metrics.

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The objective, `nll`, and with a teacher `divergence`, `forward_kl`, `agreement` and others, as token means;
        with `args.validation_texts` also `rouge_l`; while training on the student's own text the share of batches that
        it writes, `student_text_share`. These two belong to the trainer's own `eval_dataset` alone.

        See transformers' Trainer for the arguments, and `abkd.lm._metrics.comparison` for the metrics. On several
        ranks rows that fill up the last batch are left out, but for packed ones.
        """
        self._own_rows = own = eval_dataset is None and metric_key_prefix == "eval"
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._own_rows = False
        if self._writer is not None and self.is_in_train and own:
            self._writer.after_evaluation(metrics.get("eval_nll"))
        return metrics

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The batches of an evaluation; its rows decide whether a cached teacher can be asked."""
        own = eval_dataset is None or eval_dataset is self.eval_dataset or isinstance(eval_dataset, str)
        self._eval_teacher = self._own_eval_teacher if own else self._teacher_for(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Likewise, of a prediction."""
        self._eval_teacher = self._teacher_for(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def _teacher_for(self, dataset: Any) -> Any:
        found = teacher_knowing(dataset, self.teacher)
        if found is not self.teacher and self.is_world_process_zero():
            say(_NOT_IN_CACHE)
        return found

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The loop, with the trainer's own metrics beside those that a user computes."""
        self._measures.begin_evaluation()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        found: dict[str, float] = {}
        if self._own_rows and self._validation is not None:
            self._measures.add_texts(*self._validation.score())
        if self._own_rows and self._writer is not None and self.is_in_train:
            found[SHARE] = self._writer.share
        found |= self._measures.evaluated()
        named = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        cast("dict[str, float]", output.metrics).update(named)
        return output

    def validation_nll(self) -> float | None:
        """NLL (nats a token) of the present student on the validation rows; neither logged nor taken for a choice."""
        output = self.evaluation_loop(self.get_eval_dataloader(), "Validation", prediction_loss_only=True)
        self.callback_handler.on_predict(self.args, self.state, self.control, {})  # its progress bar is closed here
        return output.metrics.get("eval_nll")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what training measured to its log line."""
        if "loss" in logs:
            logs |= self._measures.trained()
            if self._writer is not None:
                logs[SHARE] = self._writer.share
        super().log(logs, start_time)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """The objective on a batch; with `compute_metrics` also all logits (B, S, V) and the labels."""
        del ignore_keys
        inputs = self._without_repeats(self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, _ = self.mean_loss(model, inputs)
            if prediction_loss_only:
                return loss, None, None
            return loss, model(**model_inputs(inputs)).logits, inputs["labels"]

    def _without_repeats(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Leave out the rows that accelerate repeats so that all ranks have equally many."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0 or self.padding_free:
            return inputs
        labels = inputs["labels"].clone()
        labels[max(state.remainder - self.args.process_index * len(labels), 0) :] = IGNORED
        return {**inputs, "labels": labels}

    # Around the run.

    def write_state(self, folder: Path) -> None:
        """Write what the student's text depends on, and what was measured since the last log, each rank its own."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(folder / f"{_STATE_FILE}-{self.args.process_index}.json", self._measures.state())
        if self._writer is not None:
            self._writer.save(folder, self.args.process_index)

    def read_state(self, folder: Path) -> None:
        """Read what `write_state` wrote."""
        file = folder / f"{_STATE_FILE}-{self.args.process_index}.json"
        if file.is_file():
            self._measures.restore(read_json(file))
        if self._writer is not None:
            self._writer.load(folder, self.args.process_index)

    def _send_telemetry(self) -> None:
        """TRL reports the use of its trainers; this one reports nothing."""

    def _training(self) -> bool:
        return cast("nn.Module", self.model).training

    def progress(self) -> float:
        """The share of the run's steps that is done, in [0, 1]."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _plain_text(self, dataset: Any) -> PlainText:
        args = self._config
        length, batch = args.max_length or _PLAIN_LENGTH, args.per_device_train_batch_size
        with args.main_process_first(desc="plain text"):
            return PlainText(dataset, self._tokenizer, args.dataset_text_field, length, batch, args.seed)

    def _say_start(self, notes: list[str | None]) -> None:
        if not self.is_world_process_zero():
            return
        method = self._config.method_definition()
        say(f"method {method.name}: {self._objectives.describe()}, on {self._config.text()}")
        for note in notes:
            if note is not None:
                say(note)
