"""The settings of the image trainer: transformers' TrainingArguments and those of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.training_args import TrainingArguments

from abkd.engine import FromSettings
from abkd.errors import InputError
from abkd.image._objective import ScheduledObjective

_METHOD_FIELDS = ("divergence", "alpha", "beta", "temperature", "ce_weight", "kd_weight", "method_settings")


@dataclass
class DistillationConfig(FromSettings, TrainingArguments):
    """Settings of `abkd.image.DistillationTrainer`, on top of transformers' `TrainingArguments`.

    Attributes:
        method: a name of `abkd.image.objectives.METHODS`.
        divergence: `{"name": ..., setting: value}` for the methods that take one; None keeps the method's
        own. alpha, beta: short for `divergence={"name": "alpha_beta", "alpha": ..., "beta": ...}`; both or
        neither.
            (`beta` in TRL is the mix of a Jensen-Shannon divergence: something else.)
        temperature, ce_weight, kd_weight: of the method; None keeps its default.
        method_settings: further settings of the method. Numbers here, in `divergence`, and in the fields
            above may be schedules `{"from": ..., "to": ..., "shape": "linear" | "cosine", "until": ...}`.
        select_by: the metric on the validation split by which the best epoch is chosen: accuracy, top5, nll,
            ece, agreement or loss; the earliest of equals.
        momentum: of SGD, in [0, 1); None is 0.9. Only with `optim="sgd"`.
        nesterov: Nesterov's form of the momentum.
        decay_norm_and_bias: apply weight decay to all weights, as image training does; transformers leaves
            norms and biases out.
        lr_milestones: epochs after which the learning rate is multiplied by `lr_gamma` (multi-step schedule).
        lr_gamma: the factor, in (0, 1].
        lr_scheduler_type: "auto" is multi-step with `lr_milestones`, else cosine; or one of transformers'.

    Defaults that differ from transformers': SGD with learning rate 0.05 and weight decay 5e-4, batches of 64
    (256 in evaluation), no gradient clipping, logs, evaluations and checkpoints by epoch, the last two
    checkpoints kept, no reporting to outside services.

    Raises:
        InputError: values that do not fit together.
    """

    method: str = field(default="abkd", metadata={"help": "Distillation method."})
    divergence: dict[str, Any] | None = field(default=None, metadata={"help": "Divergence and settings."})
    alpha: Any = field(default=None, metadata={"help": "alpha of the alpha-beta-divergence."})
    beta: Any = field(default=None, metadata={"help": "beta of the alpha-beta-divergence."})
    temperature: Any = field(default=None, metadata={"help": "Temperature of the distillation loss."})
    ce_weight: Any = field(default=None, metadata={"help": "Weight of the cross-entropy on labels."})
    kd_weight: Any = field(default=None, metadata={"help": "Weight of the distillation loss."})
    method_settings: dict[str, Any] | None = field(default=None, metadata={"help": "Settings of the method."})
    select_by: str = field(default="accuracy", metadata={"help": "Metric that chooses the best epoch."})
    momentum: float | None = field(default=None, metadata={"help": "Momentum of SGD; None is 0.9."})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov's form of SGD's momentum."})
    decay_norm_and_bias: bool = field(default=True, metadata={"help": "Weight decay on all weights."})
    lr_milestones: Sequence[float] | None = field(default=None, metadata={"help": "Epochs of lr decay."})
    lr_gamma: float = field(default=0.1, metadata={"help": "Factor at each milestone."})

    learning_rate: float = field(default=0.05, metadata={"help": "The initial learning rate."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay."})
    optim: Any = field(default="sgd", metadata={"help": "The optimiser."})
    lr_scheduler_type: Any = field(default="auto", metadata={"help": "The learning rate schedule."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images a step and device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Images a batch in evaluation."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 is none."})
    logging_strategy: Any = field(default="epoch", metadata={"help": "When to log."})
    eval_strategy: Any = field(default="epoch", metadata={"help": "When to evaluate."})
    save_strategy: Any = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    report_to: Any = field(default="none", metadata={"help": "Reporting integrations."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop unused columns."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin memory for faster copies to a GPU."}
    )

    def __post_init__(self) -> None:
        self._check_optimiser()
        self._check_milestones()
        if self.label_smoothing_factor:
            raise InputError("label_smoothing_factor is not a part of any method here: leave it at 0")
        if self.lr_scheduler_type == "auto":
            self.lr_scheduler_type = "constant" if self.lr_milestones else "cosine"
        super().__post_init__()

    def objective(self) -> ScheduledObjective:
        """The objective that the method's fields describe.

        Raises:
            InputError: an unknown method, divergence or setting, or a value out of range.
        """
        divergence = self.divergence
        if divergence is not None and not isinstance(divergence, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                'divergence: expected {"name": ..., setting: value}, such as {"name": "alpha_beta", "alpha": 0.8, '
                f'"beta": 0.2}}, got {divergence!r}; an object goes to objective=by_name(method, divergence=...)'
            )
        if (self.alpha is None) != (self.beta is None):
            raise InputError("alpha and beta belong together: give both, or neither for the method's own")
        if self.alpha is not None:
            if divergence is not None:
                raise InputError("give either divergence or alpha and beta, not both")
            divergence = {"name": "alpha_beta", "alpha": self.alpha, "beta": self.beta}
        named = {"temperature": self.temperature, "ce_weight": self.ce_weight, "kd_weight": self.kd_weight}
        settings = dict(self.method_settings or {})
        for name, value in named.items():
            if value is not None:
                if name in settings:
                    raise InputError(f"{name} is given twice: as a field and in method_settings")
                settings[name] = value
        return ScheduledObjective(self.method, divergence, settings)

    def method_fields_set(self) -> list[str]:
        """The method's fields that differ from their defaults."""
        names = [name for name in _METHOD_FIELDS if getattr(self, name) is not None]
        return names if self.method == "abkd" else ["method", *names]

    def _check_optimiser(self) -> None:
        is_sgd = str(getattr(self.optim, "value", self.optim)) == "sgd"
        if not is_sgd and (self.momentum is not None or self.nesterov):
            raise InputError(f'momentum and nesterov need optim="sgd", got optim={self.optim!r}')
        momentum = 0.9 if self.momentum is None else self.momentum
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {momentum}")
        if self.nesterov and momentum == 0:
            raise InputError("nesterov needs a momentum above 0")

    def _check_milestones(self) -> None:
        if not 0 < self.lr_gamma <= 1:
            raise InputError(f"lr_gamma must be in (0, 1], got {self.lr_gamma}")
        if not self.lr_milestones:
            return
        milestones = list(self.lr_milestones)
        if milestones != sorted(set(milestones)) or milestones[0] <= 0:
            raise InputError(f"lr_milestones must be growing epochs above 0, got {milestones}")
        kind = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        if kind not in ("auto", "constant", "constant_with_warmup"):
            raise InputError(f"lr_milestones is a schedule of its own: leave lr_scheduler_type at 'auto', got {kind!r}")
