"""The settings of the language trainer: TRL's SFTConfig and those of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig

from abkd.divergences import Divergence
from abkd.engine import FromSettings
from abkd.errors import InputError, nearest
from abkd.lm._methods import Method, method_named
from abkd.lm._minillm import check_policy_settings
from abkd.lm._objective import ScheduledObjective, named
from abkd.lm._policy_settings import PolicyGradient
from abkd.lm._student_settings import Sampling, StudentText, check_mapping, sampling_of, student_text_of
from abkd.lm._validation_texts import ROUGE_L, ValidationTexts, validation_texts_of


@dataclass
class DistillationConfig(FromSettings, SFTConfig):
    """Settings of `abkd.lm.DistillationTrainer`, on top of TRL's `SFTConfig`.

    Names that TRL's `GKDConfig` has as well mean the same, but for three: `beta` is the alpha-beta-divergence's
    (TRL's is the mix of a Jensen-Shannon divergence, here `divergence={"name": "jensen_shannon", "beta": ...}`),
    `temperature` is the loss's alone (sampling has `student_text["generation_temperature"]`), and `lmbda` is None
    where the method decides.

    Attributes:
        method: a name of `abkd.lm.METHODS`.
        divergence: a name, `{"name": ..., setting: value}` or an object such as `abkd.ForwardKL()` (kept as such a
            mapping), in place of the method's own.
        alpha, beta: short for `divergence={"name": "alpha_beta", "alpha": ..., "beta": ...}`; both or neither.
        temperature, kd_weight: of the divergence; 1 unless given.
        ce_weight: of the cross-entropy on the data set's response tokens; None is the method's.
        method_settings: further settings of the method (minillm: clip, epochs, length_normalised, single_step, whiten).
        student_text: settings of `StudentText` (share, schedule, replay, ...) over the method's own.
        lmbda: short for `student_text={"share": ...}`, as in TRL.
        max_new_tokens: short for the longest text that the student or the teacher writes, in tokens.
        seq_kd: whether the teacher's completions, written once, replace those of the training data; None is the
            method's (True for seqkd alone).
        teacher_text: how the teacher writes them: generation_temperature, top_p, max_new_tokens.
        teacher_text_folder: where they are kept, for runs of all seeds; None keeps them in output_dir, for this seed.
        pretrain_weight: of the LM loss on `pretrain_dataset`, where that is given.
        teacher_model_init_kwargs: for `from_pretrained`, where the teacher is given by name. Without a dtype it is
            loaded in its own.
        disable_dropout: set the student's dropout layers to 0, as TRL's `GKDConfig` has it unless told otherwise;
            minillm always does.
        select_by: a metric of the evaluation (nll, divergence, agreement, rouge_l, ...) by whose best value weights
            are kept in `trainer.best`; None keeps none.
        validation_texts: what the student writes in each evaluation, for the metric rouge_l (0 to 100): size (rows
            of `eval_dataset`, all unless given) and max_new_tokens (256). None writes nothing, but for select_by
            "rouge_l".

    alpha, beta, temperature, ce_weight, kd_weight and the numbers in `divergence` may be schedules
    `{"from": ..., "to": ..., "shape": "linear" | "cosine", "until": ...}` over the run's steps.

    TRL's `assistant_only_loss` follows from the data: dialogues are trained on the assistant's turns alone.
    `completion_only_loss=False` trains on prompts as well, in rows of prompt and completion.

    Defaults that differ from TRL's: bf16 only where it is asked for or an accelerator has it, memory is pinned only
    with a GPU, losses that are not finite are shown, and `disable_dropout` (of `GKDConfig`) is off.

    Raises:
        InputError: an unknown method, divergence or setting, or values that do not fit together.
    """

    method: str = field(default="abkd", metadata={"help": "Distillation method."})
    divergence: Any = field(default=None, metadata={"help": "Divergence: a name, or a mapping with its settings."})
    alpha: Any = field(default=None, metadata={"help": "alpha of the alpha-beta-divergence."})
    beta: Any = field(default=None, metadata={"help": "beta of the alpha-beta-divergence."})
    temperature: Any = field(default=1.0, metadata={"help": "Temperature of the distillation loss."})
    kd_weight: Any = field(default=1.0, metadata={"help": "Weight of the divergence."})
    ce_weight: Any = field(default=None, metadata={"help": "Weight of the cross-entropy on the responses."})
    method_settings: dict[str, Any] | None = field(default=None, metadata={"help": "Settings of the method."})
    student_text: dict[str, Any] | None = field(default=None, metadata={"help": "Text that the student writes."})
    lmbda: float | None = field(default=None, metadata={"help": "Share of batches of student text."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest generated completion."})
    seq_kd: bool | None = field(default=None, metadata={"help": "Train on completions of the teacher."})
    teacher_text: dict[str, Any] | None = field(default=None, metadata={"help": "How the teacher writes them."})
    teacher_text_folder: str | None = field(default=None, metadata={"help": "Where they are kept."})
    pretrain_weight: float = field(default=1.0, metadata={"help": "Weight of the LM loss on plain text."})
    teacher_model_init_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Keyword arguments to load the teacher with."}
    )
    disable_dropout: bool = field(default=False, metadata={"help": "Set the student's dropout layers to 0."})
    select_by: str | None = field(default=None, metadata={"help": "Metric whose best weights are kept."})
    validation_texts: dict[str, Any] | None = field(default=None, metadata={"help": "Texts written in evaluation."})

    report_to: Any = field(default="none", metadata={"help": "Reporting integrations."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin memory for faster copies to a GPU."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        for old, new in (
            ("gradient_checkpointing", "activation_checkpointing"),
            ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        ):  # newer transformers renamed what TRL still sets
            if getattr(self, new, False) is None:
                setattr(self, new, getattr(self, old))
        self._check_kinds()
        self._refuse_what_has_no_effect()
        super().__post_init__()
        self.objective()
        self.policy()
        self._check_text()
        self._check_lengths_have_use()
        self.validation_writing()
        self._check_choice()

    def method_definition(self) -> Method:
        """The method by its name."""
        return method_named(self.method)

    def objective(self) -> ScheduledObjective:
        """The objective that these settings describe.

        Raises:
            InputError: an unknown method, divergence or setting, or a value out of range.
        """
        method = self.method_definition()
        divergence = self._divergence_given()
        if divergence is not None and method.divergence is None:
            raise InputError(f"method {method.name!r} compares nothing, so a divergence would have no effect")
        if divergence is not None and method.policy_gradient:
            raise InputError(f"method {method.name!r} is a policy gradient of reverse KL: leave the divergence out")
        if method.divergence is None and (self.temperature != 1 or self.kd_weight != 1):
            raise InputError(
                f"method {method.name!r} compares nothing, so temperature and kd_weight would have no effect: leave "
                "them at 1 (ce_weight scales its cross-entropy)"
            )
        chosen = method.divergence if divergence is None else divergence
        ce_weight = method.ce_weight if self.ce_weight is None else self.ce_weight
        weights = {"temperature": self.temperature, "ce_weight": ce_weight, "kd_weight": self.kd_weight}
        return ScheduledObjective(chosen, weights)

    def student_sampling(self) -> StudentText | None:
        """How and when the student writes; None if it does not.

        Raises:
            InputError: an unknown key, a value out of range, or a method that has no use for it.
        """
        method = self.method_definition()
        given = dict(self.student_text or {})
        for name, value in (("share", self.lmbda), ("max_new_tokens", self.max_new_tokens)):
            if value is not None and name in given and given[name] != value:
                raise InputError(f"{name} of the student's text is given twice: {given[name]} and {value}")
        if self.lmbda is not None:
            given["share"] = self.lmbda
        if not given and method.student_text is None:
            return None
        if method.divergence is None:
            raise InputError(f"method {method.name!r} compares nothing, so the student's own text cannot teach it")
        merged = {**(method.student_text or {}), **given}
        if set(given) == {"share"} and merged["share"] == 0 and merged.get("schedule", "constant") == "constant":
            return None
        if self.max_new_tokens is not None:
            merged["max_new_tokens"] = self.max_new_tokens
        found = student_text_of(merged)
        idle = [name for name in ("growth", "tolerance") if name in given and found.schedule == "constant"]
        if idle:
            raise InputError(
                f"student_text.{idle[0]} has no effect on a constant share: set schedule to 'adaptive', or leave it out"
            )
        return found

    def teacher_sampling(self) -> Sampling | None:
        """How the teacher writes the completions; None if it does not.

        Raises:
            InputError: an unknown key or a value out of range, or settings where the teacher writes nothing.
        """
        writes = self.method_definition().teacher_text if self.seq_kd is None else self.seq_kd
        if not writes:
            if self.teacher_text is not None:
                raise InputError("teacher_text has no effect without seq_kd=True or method 'seqkd'")
            return None
        given = dict(self.teacher_text or {})
        if self.max_new_tokens is not None:
            given.setdefault("max_new_tokens", self.max_new_tokens)
        return sampling_of(given, "teacher_text")

    def validation_writing(self) -> ValidationTexts | None:
        """What the student writes in each evaluation; None if nothing.

        Raises:
            InputError: an unknown key or a value out of range.
        """
        if self.validation_texts is None and self.select_by != ROUGE_L:
            return None
        return validation_texts_of(self.validation_texts or {})

    def settings_of_method(self) -> dict[str, Any]:
        """The method's further settings, defaults included.

        Raises:
            InputError: a setting that the method does not have.
        """
        method = self.method_definition()
        for key in self.method_settings or {}:
            if key not in method.settings:
                having = nearest(key, method.settings) if method.settings else "it has none"
                raise InputError(f"method {method.name!r} has no setting {key!r}: {having}")
        return {**method.settings, **(self.method_settings or {})}

    def text(self) -> str:
        """Which text is trained on, in words."""
        whose = "the data set's text" if self.teacher_sampling() is None else "the teacher's text"
        own = self.student_sampling()
        if own is None:
            return whose
        if own.schedule == "adaptive":
            return f"{whose}, and the student's own in a share that follows the validation loss"
        return "the student's own text" if own.share == 1 else f"{whose}, and the student's own in {own.share:.0%}"

    def policy(self) -> PolicyGradient | None:
        """The settings of the policy gradient; None for the methods that are none.

        Raises:
            InputError: a value out of range, or settings of the text or the loss that do not go with it.
        """
        settings = self.settings_of_method()
        if not self.method_definition().policy_gradient:
            return None
        text = self.student_sampling()
        if text is None:
            raise InputError(f"method {self.method!r} lives on the student's own text: leave its share at 1")
        objective = self.objective()
        check_policy_settings((objective.at(0.0), objective.at(1.0)), text)
        return PolicyGradient(**settings)

    def _check_text(self) -> None:
        text = self.student_sampling()
        if text is None:
            return
        if self.packing or self.padding_free:
            raise InputError(
                "the student writes on from each row's prompt, which packing and padding_free hide: leave them off"
            )
        if self.completion_only_loss is False:
            raise InputError(
                "completion_only_loss=False counts every token as response, so no prompt is left to write on from: "
                "leave it out, or the student's own text"
            )
        if not self.objective().needs_teacher:
            raise InputError("kd_weight is 0, but on the student's own text the divergence is all that is taken")
        adaptive = text.schedule == "adaptive"
        if adaptive and not self._evaluates():
            raise InputError("an adaptive share of student text is led by the validation loss: set eval_strategy")
        if not adaptive and text.share == 1 and self.objective().uses_labels:
            raise InputError(
                "ce_weight is above 0, but every batch is the student's own text, on which no cross-entropy is taken: "
                "lower the share, or leave ce_weight at 0"
            )

    def _check_lengths_have_use(self) -> None:
        written = [self.student_sampling(), self.teacher_sampling()]
        if self.max_new_tokens is not None and written == [None, None]:
            raise InputError(
                f"max_new_tokens has no effect: with method {self.method!r} neither student nor teacher writes text to "
                "train on (texts of the evaluation have validation_texts['max_new_tokens']): leave it out"
            )

    def _check_choice(self) -> None:
        if self.select_by is not None and not self._evaluates():
            raise InputError("select_by has no effect without evaluations: set eval_strategy to 'epoch' or 'steps'")

    def _evaluates(self) -> bool:
        return str(getattr(self.eval_strategy, "value", self.eval_strategy)) != "no"

    def _divergence_given(self) -> Mapping[str, Any] | None:
        if (self.alpha is None) != (self.beta is None):
            raise InputError(
                "alpha and beta belong together: give both, or neither for the method's own. (TRL's beta, the mix of "
                'a Jensen-Shannon divergence, is divergence={"name": "jensen_shannon", "beta": ...} here)'
            )
        if self.alpha is not None:
            if self.divergence is not None and self.divergence != "alpha_beta":
                raise InputError("give either divergence or alpha and beta, not both")
            return {"name": "alpha_beta", "alpha": self.alpha, "beta": self.beta}
        return {"name": self.divergence} if isinstance(self.divergence, str) else self.divergence

    def _check_kinds(self) -> None:
        """Settings that are mappings are; a divergence is kept as one."""
        if isinstance(self.divergence, Divergence):
            self.divergence = named(self.divergence)
        elif not isinstance(self.divergence, str | Mapping | None):
            raise InputError(
                "divergence: expected a name, {'name': 'alpha_beta', 'alpha': 0.2, 'beta': 0.7}, or an object such as "
                f"abkd.ForwardKL(), got {self.divergence!r}"
            )
        examples = {
            "student_text": "{'share': 0.5}",
            "teacher_text": "{'max_new_tokens': 64}",
            "validation_texts": "{'size': 100}",
            "method_settings": "{'clip': 0.2}",
        }
        for name, example in examples.items():
            if getattr(self, name) is not None:
                check_mapping(getattr(self, name), name, example)

    def _refuse_what_has_no_effect(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise InputError(f"max_length: expected at least 2 tokens, or none for no limit, got {self.max_length}")
        if not self.average_tokens_across_devices:
            raise InputError(
                "average_tokens_across_devices=False: a loss here is the mean over all processes' tokens: leave it out"
            )
        if self.label_smoothing_factor:
            raise InputError("label_smoothing_factor is not a part of any method here: leave it at 0")
        if self.loss_type not in ("nll", "chunked_nll"):
            raise InputError(f"loss_type={self.loss_type!r} is TRL's; the loss here is the method's: leave it out")
        if self.padding_free and not self.packing and self.max_length is not None:
            raise InputError(
                f"padding_free=True takes rows whole, so max_length={self.max_length} would have no effect: set "
                "max_length=None (null in a recipe), or packing=True, which cuts them"
            )
        if self.use_liger_kernel:
            raise InputError("use_liger_kernel replaces the forward that the loss is computed in: leave it off")
        if isinstance(self.pretrain_weight, bool) or not self.pretrain_weight >= 0:
            raise InputError(f"pretrain_weight: expected a number of at least 0, got {self.pretrain_weight!r}")
