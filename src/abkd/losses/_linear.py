"""The loss from hidden states and heads: it never holds tokens x vocabulary."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InputError
from abkd.losses import _checks
from abkd.losses._backend import Backend, backend_for
from abkd.losses._eager import Reduction, Support
from abkd.losses._linear_loss import LinearLoss, token_weights_of
from abkd.losses._rows import flat_settings
from abkd.losses._sparse import SparseForm, Tail, checked_form
from abkd.losses._targets import (
    HiddenTargets,
    SparseTargets,
    Targets,
    check_adjustment,
    check_head,
    check_sparse_values,
)
from abkd.losses._walk import Job, Student, adjustment
from abkd.losses._whole import whole

_log = logging.getLogger("abkd")

_BUFFERS = 160 << 20
"""Bytes that the two blocks of logits may take on a CPU."""

_SHARE_OF_HEAD = 0.6
"""Or, where that is more, this share of the head's gradient in float32."""

_BUFFERS_ON_DEVICE = 1 << 30
"""The same on an accelerator."""

_said: set[tuple[int, int]] = set()


@torch.compiler.disable
def linear_divergence_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher: Targets | None,
    divergence: Divergence | None,
    *,
    student_bias: Tensor | None = None,
    labels: Tensor | None = None,
    ce_weight: float = 0.0,
    kd_weight: float = 1.0,
    temperature: float = 1.0,
    temperature_scaling: bool = False,
    mask: Tensor | None = None,
    token_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    num_items_in_batch: int | Tensor | None = None,
    log_floor: float | None = None,
    support: Support = "strict",
    tail: Tail | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    vocabulary: int | None = None,
    chunk_size: int | None = None,
    vocab_chunk_size: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Divergence of the teacher from the student, and cross-entropy on labels, from hidden states and heads.

        kd_weight * D(p || q) + ce_weight * CE(labels, softmax(z)),  z = student_hidden student_weight^T + student_bias

    with p and q as in `divergence_loss`. The loss and its gradients in the student's hidden states, weight and bias
    are computed block by block in the forward pass, in four matrix products (three with sparse targets), and
    no tensor of tokens x vocabulary is ever made. The teacher gets no gradient. Gradients of the head are added up in
    float32, and rounded to its dtype in the backward pass, once they are multiplied by the gradient that comes in.
    `torch.func` has no way through this loss, nor `torch.compile(fullgraph=True)`; a compiled caller is cut here.

    Args:
        student_hidden: (..., H), the last hidden states; under autocast the products run in autocast's dtype.
        student_weight: (V, H), the head; it may be tied to an embedding. A DTensor is gathered, once, and its
            gradient averaged over the ranks.
        teacher: `HiddenTargets`, `DenseTargets` or `SparseTargets` with the same leading axes, or None with
            kd_weight 0.
        divergence: any of the family; settings that are tensors broadcast to (..., 1). None with kd_weight 0.
        student_bias: (V,).
        labels: (...) class indices; -100 where there is none. Those tokens count in neither term, unless a mask says
            which ones count.
        ce_weight: of the cross-entropy, at least 0; above 0 it needs labels. It knows no temperature.
        kd_weight: of the divergence, at least 0.
        temperature: T, above 0.
        temperature_scaling: multiply the divergence by T^2.
        mask: (...) bool, True for the tokens that count; only those are projected.
        token_weights: (...), at least 0, multiply both terms of a token; a mean still divides by the number of tokens.
        reduction: "mean" over the tokens that count (each term over its own: the cross-entropy over those with a
            label), "sum", or "none": (...), 0 elsewhere. "none" computes everything again in the backward pass.
        num_items_in_batch: divides both sums instead, as in `divergence_loss`.
        log_floor: as in `divergence_loss`.
        support: as in `divergence_loss`; sparse targets know only "strict".
        tail: what becomes of the tail of sparse targets; None for "bucket", or "power-bucket" where they have the power
            for it. See `docs/sparse-teachers.md`.
        logit_scale: multiplies the student's logits (the teacher has its own in `HiddenTargets`).
        softcap: then caps them, `softcap * tanh(logits / softcap)`.
        vocabulary: the true number of tokens of both models; classes beyond it are padding and left out of the
            softmax. None: the smaller of the two, which is said once where they differ.
        chunk_size: tokens in a block; None picks by device and sizes.
        vocab_chunk_size: classes in a tile, for vocabularies of which a block of tokens is too large: three sweeps,
            eight products, and only for a divergence that is a sum over classes.
        backend: "eager", "compiled", "triton" or "auto"; None for the environment variable ABKD_BACKEND, else "auto".
            With vocab_chunk_size, and with sparse targets of any tail but "proportional", there is "eager" alone,
            whatever the variable says.

    Returns:
        Nats, in float32 (float64 for float64 hidden states): a scalar, or (...) with reduction "none".

    Raises:
        InfiniteDivergenceError: as in `divergence_loss`.
        InputError: shapes, dtypes, devices, options or values that do not fit; a backend that this call or this device
            lacks; NaN or +inf among the logits.

    Example:
        >>> import torch
        >>> from abkd import AlphaBeta, linear_divergence_loss
        >>> from abkd.losses import HiddenTargets
        >>> hidden, head = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
        >>> teacher = HiddenTargets(torch.randn(6, 8), torch.randn(9, 8))
        >>> linear_divergence_loss(hidden, head, teacher, AlphaBeta(0.2, 0.7)).backward()
    """
    check_head("student", student_hidden, student_weight, student_bias)
    lead, width = student_hidden.shape[:-1], student_hidden.shape[-1]
    student = Student(whole(student_hidden).reshape(-1, width), whole(student_weight), whole(student_bias))
    check_adjustment("student", logit_scale, softcap)
    teacher = _checked_teacher(teacher, divergence, kd_weight, lead, student.hidden.device)
    sizes = {"chunk_size": chunk_size, "vocab_chunk_size": vocab_chunk_size}
    _check_options(student, reduction, support, teacher, log_floor, num_items_in_batch, sizes)
    _check_tiles(vocab_chunk_size, teacher, None if teacher is None else divergence, log_floor, support)
    _checks.check_mask(mask, lead)
    _check_token_weights(token_weights, lead)
    temperature = _checks.check_positive("temperature", temperature)
    classes = _shared_vocabulary(student.weight.shape[0], teacher, vocabulary)
    labels = _checked_labels(labels, _checks.check_weight("ce_weight", ce_weight), lead, classes)
    counted = mask if mask is not None or labels is None else labels != -100
    settings = form = None
    if divergence is not None and teacher is not None:
        _checks.check_settings(divergence, lead)
        settings = flat_settings(divergence, lead, student.hidden)
    if isinstance(teacher, SparseTargets) and divergence is not None:
        check_sparse_values(teacher, counted, classes)
        form = checked_form(divergence, teacher, classes, tail, temperature, log_floor, counted)

    index = None if counted is None else counted.flatten().nonzero().squeeze(-1)
    tokens = lead.numel() if index is None else index.shape[0]
    plain = _never_compiled(form, vocab_chunk_size)
    name, rows = backend_for(backend, student.hidden.device, tokens, classes, divergence, plain)
    job = Job(
        divergence=settings,
        teacher=None if teacher is None else teacher.flat(),
        labels=labels.flatten() if ce_weight > 0 and labels is not None else None,
        index=index,
        tokens=tokens,
        classes=classes,
        temperature=temperature,
        adjustment=adjustment(logit_scale, softcap),
        log_floor=log_floor,
        shared=support == "shared",
        sparse=None if form is None else form.using(settings),
        rows=rows,
        backend=name,
        chunk_size=chunk_size or _default_chunk(student.hidden, classes),
        vocab_chunk_size=vocab_chunk_size,
    )
    kd = kd_weight * (temperature**2 if temperature_scaling else 1.0)
    weights = token_weights_of(job, student.hidden, float(kd), float(ce_weight), token_weights)
    return LinearLoss(job, student, lead, *weights).reduced(reduction, num_items_in_batch)


def _checked_teacher(
    teacher: Any, divergence: Any, kd_weight: float, lead: torch.Size, device: torch.device
) -> Targets | None:
    """The targets that a loss with this weight looks at, on its device and of its shape."""
    if _checks.check_weight("kd_weight", kd_weight) == 0:
        return None
    if not isinstance(teacher, Targets):
        raise InputError(
            f"teacher: expected HiddenTargets, DenseTargets or SparseTargets (from abkd.losses), got "
            f"{type(teacher).__name__}; without a teacher set kd_weight=0"
        )
    _checks.check_divergence(divergence)
    if teacher.shape != lead:
        raise InputError(
            f"teacher: expected leading axes {tuple(lead)} as in student_hidden, got {tuple(teacher.shape)}"
        )
    first = next(value for value in vars(teacher).values() if isinstance(value, Tensor))
    if first.device != device:
        raise InputError(f"teacher targets are on {first.device}, the student's hidden states on {device}; move one")
    changes = {name: whole(value).detach() for name, value in vars(teacher).items() if isinstance(value, Tensor)}
    return dataclasses.replace(teacher, **changes)


def _check_options(
    student: Student,
    reduction: Any,
    support: Any,
    teacher: Targets | None,
    log_floor: Any,
    num_items_in_batch: Any,
    sizes: dict[str, Any],
) -> None:
    _checks.check_choice("reduction", reduction, _checks.REDUCTIONS)
    _checks.check_choice("support", support, ("strict", "shared"))
    _checks.check_log_floor(log_floor)
    if num_items_in_batch is not None and reduction != "mean":
        raise InputError(f"num_items_in_batch only serves reduction='mean', got reduction={reduction!r}")
    if support == "shared" and isinstance(teacher, SparseTargets):
        raise InputError("support='shared': sparse targets do not say what the teacher rules out; use support='strict'")
    for name, value in sizes.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name}: expected a whole number of at least 1, or None, got {value!r}")
    for value in student[1:]:
        if (
            value is not None
            and value.dtype != student.hidden.dtype
            and not (torch.is_autocast_enabled(value.device.type) and student.hidden.dtype != torch.float64)
        ):
            raise InputError(
                f"student hidden states are {student.hidden.dtype}, the head {value.dtype}: convert one (or autocast, "
                "which leaves float64 as it is)"
            )
    if isinstance(teacher, HiddenTargets):
        for value in (teacher.weight, teacher.bias):
            if value is not None and value.dtype != teacher.hidden.dtype:
                raise InputError(
                    f"teacher hidden states are {teacher.hidden.dtype}, the head {value.dtype}: convert one"
                )


def _check_tiles(
    vocab_chunk_size: int | None, teacher: Targets | None, divergence: Divergence | None, log_floor: Any, support: str
) -> None:
    if vocab_chunk_size is None:
        return
    if divergence is not None and not divergence.separable:
        raise InputError(
            f"vocab_chunk_size: {divergence.name} is not a sum over classes and needs whole rows; leave it out"
        )
    if isinstance(teacher, SparseTargets) or log_floor is not None or support != "strict":
        raise InputError("vocab_chunk_size serves dense or hidden targets, without log_floor and with support='strict'")


def _check_token_weights(value: Any, lead: torch.Size) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"token_weights: expected a floating tensor, got {kind}")
    if value.shape != lead:
        raise InputError(f"token_weights: expected shape {tuple(lead)}, one for each token, got {tuple(value.shape)}")
    if not bool((value.isfinite() & (value >= 0)).all()):
        raise InputError("token_weights: expected finite weights of at least 0")


def _checked_labels(labels: Tensor | None, ce_weight: float, lead: torch.Size, classes: int) -> Tensor | None:
    """The labels as int64, which a cross-entropy needs."""
    if labels is not None:
        return _checks.check_labels(labels, lead, classes)
    if ce_weight > 0:
        raise InputError(f"ce_weight is {ce_weight:g}, but there are no labels: pass labels, or ce_weight=0")
    return None


def _never_compiled(sparse: SparseForm | None, vocab_chunk_size: int | None) -> str | None:
    """What leaves a call plain operations alone; None where the backend is free."""
    if vocab_chunk_size is not None:
        return "tiles of the vocabulary know no other path"
    if sparse is not None and sparse.tail != "proportional":
        return f"sparse targets with tail={sparse.tail!r} know no other path"
    return None


def _shared_vocabulary(student: int, teacher: Targets | None, true: Any) -> int:
    """The number of classes to compare."""
    other = None if teacher is None or isinstance(teacher, SparseTargets) else teacher.vocabulary
    smallest = student if other is None else min(student, other)
    if true is not None:
        if isinstance(true, bool) or not isinstance(true, int) or true < 1:
            raise InputError(f"vocabulary: expected a number of tokens of at least 1, got {true!r}")
        if true > smallest:
            who = "student" if smallest == student else "teacher"
            raise InputError(
                f"vocabulary: the {who}'s head has {smallest} classes, fewer than the {true} tokens that the models "
                "are said to share; do both have the same tokenizer?"
            )
        return true
    if other is not None and other != student and (student, other) not in _said:
        _said.add((student, other))
        _log.warning(
            "abkd: the student's head has %d classes, the teacher's %d: the first %d are compared. If padding is among "
            "them, pass vocabulary= (the tokenizer's size).",
            student,
            other,
            smallest,
        )
    return smallest


def _default_chunk(hidden: Tensor, classes: int) -> int:
    """Tokens whose two blocks of logits fit the budget: a power of two from 64 to 4096.

    Each block reads and writes the whole gradient of the head, so a large head pays for larger blocks.
    """
    head = classes * hidden.shape[-1] * 4
    budget = max(_BUFFERS, int(_SHARE_OF_HEAD * head)) if hidden.device.type == "cpu" else _BUFFERS_ON_DEVICE
    fitting = budget // (2 * classes * hidden.element_size())
    return min(4096, max(64, 1 << (max(1, fitting).bit_length() - 1)))
