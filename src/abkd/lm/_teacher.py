"""A language model as a teacher: frozen, in its own precision, giving targets for the positions that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from abkd.errors import InputError
from abkd.lm._adapters import read_tokenizer
from abkd.lm._batch import counted, model_inputs
from abkd.lm._hidden import Predictions, add_head_call, base_of, call_with_head, found_at
from abkd.losses import DenseTargets, HiddenTargets, Targets

BROKEN_TEACHER = (
    "the teacher's predictions are not finite: its weights hold NaN or infinity, or its precision overflows (load it "
    "in bfloat16 or float32)"
)


class TeacherModel:
    """A causal language model that teaches beside the student.

    It is put in eval mode and frozen, both in place, stays in the precision it was loaded in (no autocast reaches
    it), and is asked for hidden states, not logits.

    Under DeepSpeed or FSDP it is wrapped by TRL's `prepare_deepspeed` and `prepare_fsdp`, so a teacher that fits no
    single device is sharded like the student; its targets are then logits of the counted positions, made inside
    its forward where the head is whole. Tests shard by FSDP2, and by DeepSpeed where it is installed, on two processes.

    Args:
        model: a transformers causal language model.
        trainer: whose accelerator places it.
        vocabulary: classes compared, from 0.

    Attributes:
        note: why logits are used instead of hidden states and head, or None.
    """

    def __init__(self, model: Any, trainer: Any, vocabulary: int) -> None:
        model.eval().requires_grad_(False)
        self.note = add_head_call(base_of(model))
        self.vocabulary = vocabulary
        self.sharded = shards_weights(trainer)
        self.model: Any = _placed(model, trainer)

    @torch.no_grad()
    def targets_for(self, batch: Mapping[str, Any]) -> Targets:
        """Targets for the counted positions (N, ...), in row-major order."""
        self.model.eval()
        keep = counted(batch)

        def select(found: Predictions) -> Targets:
            rows = found_at(found, keep).of_classes(self.vocabulary)
            if self.sharded or rows.weight is None:
                return DenseTargets(rows.logits())
            kind = rows.states.dtype
            weight, bias = rows.weight.to(kind), None if rows.bias is None else rows.bias.to(kind)
            return HiddenTargets(rows.states, weight, bias, rows.scale, rows.softcap)

        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            return call_with_head(self.model, model_inputs(batch), select)


def shards_weights(trainer: Any) -> bool:
    """Whether each process holds only a part of the weights: under FSDP, and under DeepSpeed from ZeRO-3 on."""
    if trainer.is_deepspeed_enabled:
        return int(trainer.accelerator.state.deepspeed_plugin.zero_stage) >= 3
    return bool(trainer.is_fsdp_enabled)


def _placed(model: Any, trainer: Any) -> Any:
    if trainer.is_deepspeed_enabled:
        from trl.models.utils import prepare_deepspeed

        return prepare_deepspeed(model, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        from trl.models.utils import prepare_fsdp

        return prepare_fsdp(model, trainer.accelerator)
    if getattr(model, "hf_device_map", None) is None and not getattr(model, "is_quantized", False):
        model.to(trainer.accelerator.device)
    return model


def load_teacher(name: str, settings: Mapping[str, Any] | None, trust_remote_code: bool) -> Any:
    """A teacher by name or path, in the precision it was saved in unless `settings` has a dtype.

    Raises:
        InputError: none could be loaded from there.
    """
    from transformers import AutoModelForCausalLM

    options = {"dtype": "auto", "trust_remote_code": trust_remote_code, **(settings or {})}
    try:
        return AutoModelForCausalLM.from_pretrained(name, **options)
    except (OSError, ValueError, TypeError) as error:
        given = " and teacher_model_init_kwargs" if settings else ""
        raise InputError(
            f"teacher_model {name!r}: no causal language model could be loaded from there ({error}): check the name or "
            f"folder{given}, or pass a loaded model"
        ) from error


def load_tokenizer_of(model: Any, trust_remote_code: bool) -> Any | None:
    """The tokenizer saved beside a model, where its config says where that is and it can be read; else None."""
    source = getattr(model.config, "_name_or_path", "")
    if not source:
        return None
    try:
        return read_tokenizer(source, trust_remote_code=trust_remote_code)
    except InputError:
        return None


def check_apart(student: nn.Module, teacher: nn.Module) -> None:
    """The teacher shares no weights with the student: freezing it would freeze the student, training change it.

    Raises:
        InputError: it does.
    """
    if student is teacher:
        raise InputError("teacher_model is the student itself: load it a second time, or give another model")
    mine = {parameter.data_ptr() for parameter in student.parameters() if parameter.numel() > 0}
    for name, parameter in teacher.named_parameters():
        if parameter.numel() > 0 and not parameter.is_meta and parameter.data_ptr() in mine:
            raise InputError(f"teacher and student share weights ({name}): load the teacher a second time")
