"""The image trainer: a student, a frozen teacher, and an objective on transformers' Trainer."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalPrediction

from abkd.engine import EngineTrainer, TrainingError
from abkd.errors import InputError
from abkd.image._config import DistillationConfig
from abkd.image._metrics import METRICS, classification_metrics
from abkd.image._objective import FixedObjective
from abkd.teachers import MemoryTeacher, Teacher, as_teacher, known_num_classes, logits_of

_EVAL_MEMORY = 256 << 20


class DistillationTrainer(EngineTrainer):
    """Trains an image classifier, from a teacher and labels, on transformers' Trainer.

    Args:
        model: the student: takes images (B, C, H, W), returns logits (B, K) as a tensor, `.logits`, or a
            dict.
        teacher_model: a frozen module (eval mode, no gradients) or an `abkd.teachers.Teacher`. None for
            methods that need none. With the method `sft` it is only compared with, as the metric `agreement`.
        args: a `DistillationConfig`.
        data_collator: makes `{"pixel_values": (B, C, H, W), "labels": (B,)}` of a list of samples; the
            default takes dicts with these keys ("image" and "label" do as well) and pairs (image, label).
        train_dataset, eval_dataset: the latter is the validation split by which the best epoch is chosen.
            Never give the test split here.
        processing_class: saved beside the model, not used.
        compute_metrics: as in transformers; the default is `classification_metrics`.
        callbacks, optimizers: as in transformers.
        objective: an object of `abkd.image.objectives`, in place of the method's fields in `args`.

    Attributes:
        best: the weights of the best epoch so far (`best.weights`, `best.epoch`, `best.value`).

    Raises:
        InputError: a teacher that is in train mode or has gradients, or is missing; other classes than the
            student's; an empty data set; settings that do not fit together.
    """

    metrics = METRICS

    def __init__(
        self,
        model: nn.Module,
        teacher_model: nn.Module | Teacher | None = None,
        args: DistillationConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        objective: Any = None,
    ) -> None:
        args = _checked_args(args, objective, eval_dataset)
        if objective is not None and not hasattr(objective, "needs_teacher"):
            raise InputError(
                f"objective: expected an object of abkd.image.objectives, such as by_name('kd'), got {objective!r}"
            )
        self._objectives = args.objective() if objective is None else FixedObjective(objective)
        self.teacher = None if teacher_model is None else as_teacher(teacher_model)
        self._check_teacher(model, args)
        self._own_metrics = compute_metrics is None
        super().__init__(
            model,
            args,
            data_collator=collate_images if data_collator is None else data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=_metrics_of if compute_metrics is None else compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=None if optimizers[0] is not None else _sgd(args),
            select_by=None if eval_dataset is None or args.eval_strategy == "no" else args.select_by,
            larger_is_better=args.greater_is_better,
        )
        self._config = args
        self._eval_teacher: Teacher | None = None
        if self.teacher is not None:
            self.teacher.to(self.args.device)
            # The same validation images come every epoch; a memory that was primed for training lacks them.
            self._eval_teacher = MemoryTeacher(self.teacher, max_bytes=_EVAL_MEMORY)

    def count_items(self, batch: Any) -> int:
        """The number of images in a batch."""
        return len(batch["labels"])

    def mean_loss(self, model: nn.Module, inputs: Any) -> tuple[Tensor, Any]:
        """The objective's mean over a batch, and the student's logits (B, K)."""
        loss, logits, _ = self._loss(model, inputs, self.teacher if self._objectives.needs_teacher else None)
        return loss, {"logits": logits}

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """The loss, the logits (for this trainer's own metrics the teacher's as well), the labels."""
        del ignore_keys  # the outputs are logits alone
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, logits, taught = self._loss(model, inputs, self._eval_teacher)
        if prediction_loss_only:
            return loss, None, None
        outputs = logits if taught is None or not self._own_metrics else (logits, taught)
        return loss, outputs, inputs["labels"]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the weights that decay."""
        if self._config.decay_norm_and_bias:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(cast("Any", model))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate schedule: multi-step with `lr_milestones`, else transformers' own."""
        present: Any = self.lr_scheduler
        if present is None and self._config.lr_milestones:
            steps = [epoch * self._steps_per_epoch() for epoch in self._config.lr_milestones]
            warmup = self.args.get_warmup_steps(num_training_steps)
            gamma = self._config.lr_gamma

            def factor(step: int) -> float:
                warm = (step + 1) / (warmup + 1) if step < warmup else 1.0
                return warm * gamma ** sum(step >= milestone for milestone in steps)

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                cast("Any", self.optimizer if optimizer is None else optimizer), factor
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _loss(self, model: nn.Module, inputs: Any, teacher: Teacher | None) -> tuple[Tensor, Tensor, Tensor | None]:
        images, labels = inputs["pixel_values"], inputs["labels"]
        logits = logits_of(model(images))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        taught = None
        if teacher is not None:
            with self.accelerator.autocast():
                taught = teacher(images).to(logits.dtype)
            _check_same_classes(logits.shape[-1], taught.shape[-1])
        objective = self._objectives.at(self._progress())
        targets = taught if objective.needs_teacher else None
        try:
            loss = objective(logits, targets, labels, reduction="mean", epoch=self.state.epoch)
        except InputError as error:
            if not bool(torch.isfinite(logits).all()):
                raise TrainingError(self.not_finite("the student's logits are not finite")) from error
            raise
        return loss, logits, taught

    def _progress(self) -> float:
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _steps_per_epoch(self) -> int:
        data = cast("Any", self.train_dataset)
        size = len(data) / (self._train_batch_size * max(self.args.world_size, 1))
        batches = math.floor(size) if self.args.dataloader_drop_last else math.ceil(size)
        return max(math.ceil(batches / self.args.gradient_accumulation_steps), 1)

    def _check_teacher(self, model: nn.Module, args: DistillationConfig) -> None:
        if self.teacher is None:
            if self._objectives.needs_teacher:
                raise InputError(f"the method {args.method!r} needs a teacher: give teacher_model")
            return
        mine, theirs = known_num_classes(model), self.teacher.num_classes
        if mine is not None and theirs is not None:
            _check_same_classes(mine, theirs)


def collate_images(samples: Sequence[Any]) -> dict[str, Tensor]:
    """A batch of samples that are dicts (`pixel_values` or `image`, `labels` or `label`) or pairs.

    Returns:
        `pixel_values` (B, C, H, W) and `labels` (B,).

    Raises:
        InputError: a sample of another kind, images of different sizes, or labels that are no whole numbers.
    """
    pairs = [_pair(sample) for sample in samples]
    images = [_as_tensor(image) for image, _ in pairs]
    if any(image.shape != images[0].shape for image in images):
        shapes = sorted({tuple(image.shape) for image in images})
        raise InputError(f"the images of a batch must have one shape, got {shapes}; set image_size")
    labels = torch.as_tensor([_as_label(label) for _, label in pairs])
    return {"pixel_values": torch.stack(images), "labels": labels}


def _as_tensor(image: Any) -> Tensor:
    try:
        return torch.as_tensor(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"expected images as tensors or arrays (C, H, W), got {type(image).__name__}; give the data set a "
            "transform that makes tensors, such as torchvision's ToTensor"
        ) from error


def _as_label(label: Any) -> int:
    try:
        return operator.index(label)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"expected a whole number as the label of an image, got {label!r}") from error


def _pair(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, Mapping):
        fields = cast("Mapping[str, Any]", sample)
        image = fields.get("pixel_values", fields.get("image"))
        label = fields.get("labels", fields.get("label"))
        if image is not None and label is not None:
            return image, label
        raise InputError(f"expected samples with pixel_values and labels, got the keys {sorted(fields)}")
    if isinstance(sample, (tuple, list)) and len(cast("Sequence[Any]", sample)) == 2:
        image, label = cast("Sequence[Any]", sample)
        return image, label
    raise InputError(f"expected samples as dicts or pairs (image, label), got {type(sample).__name__}")


def _checked_args(args: Any, objective: Any, eval_dataset: Any) -> DistillationConfig:
    if args is None:
        args = DistillationConfig(eval_strategy="no" if eval_dataset is None else "epoch")
    if not isinstance(args, DistillationConfig):
        raise InputError(f"args must be an abkd.image.DistillationConfig, got {type(args).__name__}")
    if args.eval_strategy != "no" and eval_dataset is None:
        raise InputError('eval_strategy needs an eval_dataset: give a validation split, or set eval_strategy="no"')
    if args.eval_on_start and eval_dataset is None:
        raise InputError("eval_on_start needs an eval_dataset: give a validation split, or leave it out")
    if objective is not None and (given := args.method_fields_set()):
        raise InputError(f"an objective is given, so {', '.join(given)} in args would have no effect: leave out")
    if args.fsdp or args.deepspeed:
        raise InputError("the image trainer runs on one device or data-parallel; leave fsdp and deepspeed off")
    return args


def _check_same_classes(student: int, teacher: int) -> None:
    if student != teacher:
        raise InputError(f"the student has {student} classes and the teacher {teacher}: both must know the same labels")


def _sgd(args: DistillationConfig) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    if str(getattr(args.optim, "value", args.optim)) != "sgd":
        return None
    momentum = 0.9 if args.momentum is None else args.momentum
    return torch.optim.SGD, {"lr": args.learning_rate, "momentum": momentum, "nesterov": args.nesterov}


def _metrics_of(prediction: EvalPrediction) -> dict[str, float]:
    outputs: Any = prediction.predictions
    student, teacher = outputs if isinstance(outputs, tuple) else (outputs, None)
    return classification_metrics(
        torch.as_tensor(student),
        torch.as_tensor(prediction.label_ids),
        None if teacher is None else torch.as_tensor(teacher),
    )
