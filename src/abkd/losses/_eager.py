"""The divergence of logits, in plain tensor operations: the reference that every other backend is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InfiniteDivergenceError, InputError
from abkd.losses import _checks
from abkd.losses._attach import once, scaled
from abkd.losses._checks import describe_token
from abkd.losses._pair import floored, infinite_classes, log_pair, pull_back
from abkd.losses._reduce import reduced
from abkd.losses._sparse import Tail
from abkd.losses._sparse_values import sparse_values
from abkd.losses._targets import SparseTargets

Reduction = Literal["mean", "sum", "none"]
Support = Literal["strict", "shared"]


def divergence_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | SparseTargets,
    divergence: Divergence,
    *,
    temperature: float = 1.0,
    temperature_scaling: bool = False,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    num_items_in_batch: int | Tensor | None = None,
    log_floor: float | None = None,
    support: Support = "strict",
    tail: Tail | None = None,
) -> Tensor:
    """Divergence D(p || q) of the teacher's p from the student's q, from logits.

    With p = softmax(teacher_logits / T) and q = softmax(student_logits / T). The gradient in the student's logits
    has a closed form, `dD/dz_j = (u_j - q_j sum_k u_k) / T`, and is computed with the value; there is no graph of
    the formula, and the teacher gets no gradient. Half-precision logits are computed in float32. From whole logits it
    passes through `torch.func` and `torch.compile(fullgraph=True)`, from sparse targets it does not.

    Args:
        student_logits: (..., V), any floating dtype, any leading shape. -inf rules a class out.
        teacher_logits: the same shape and device; or `SparseTargets` with the leading shape (...).
        divergence: for example `AlphaBeta(0.2, 0.7)`; tensor settings broadcast to (..., 1).
        temperature: T, above 0.
        temperature_scaling: multiply by T^2, as Hinton et al. (2015), section 2, and the image objectives do that
            build on it; the published alpha-beta, TTM and language runs do not.
        mask: (...) bool, True for the tokens that count. Logits elsewhere are never looked at.
        reduction: "mean" over the tokens that count (0 if there are none), "sum", or "none": (...), 0 elsewhere.
        num_items_in_batch: divides the sum instead of the number of tokens here, to take the mean over the tokens
            of all accumulation steps and ranks. Only with reduction "mean".
        log_floor: below 0, in nats: log-probabilities are raised to it, which makes every divergence finite. Raised
            student classes get no gradient of their own.
        support: what a class means that only one model rules out. "strict": it counts, and an infinite divergence
            is an error. "shared": both distributions are restricted to the classes that both allow, and renormalised.
            Sparse targets know only "strict".
        tail: what becomes of the tail of sparse targets: "bucket" (None: the same, or "power-bucket" where the
            targets have the power alpha + beta), "power-bucket", "renormalise" or "proportional".

    Returns:
        Nats, in float32 (float64 for float64 logits): a scalar, or (...) with reduction "none".

    Raises:
        InfiniteDivergenceError: one model rules out what the other allows and this divergence is infinite there,
            or it overflows; the message names the token, the class and the remedies. (Not raised while
            `torch.compile` traces: the compiled loss is then inf.)
        InputError: shapes, dtypes, devices, options or values that do not fit; NaN or +inf among the logits.

    Example:
        >>> import torch
        >>> from abkd import AlphaBeta, divergence_loss
        >>> student, teacher = torch.zeros(2, 3), torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
        >>> divergence_loss(student, teacher, AlphaBeta(1, 0), reduction="none")
        tensor([0.2664, 0.0000])
    """
    if not isinstance(teacher_logits, SparseTargets):
        _checks.check_pair(student_logits, teacher_logits)
    _checks.check_floating("student_logits", student_logits)
    _checks.check_divergence(divergence)
    _checks.check_mask(mask, student_logits.shape[:-1])
    _checks.check_settings(divergence, student_logits.shape[:-1])
    _checks.check_choice("reduction", reduction, _checks.REDUCTIONS)
    _checks.check_choice("support", support, ("strict", "shared"))
    _checks.check_log_floor(log_floor)
    settings = _Settings(divergence, _checks.check_positive("temperature", temperature), log_floor, support == "shared")
    wants_gradient = torch.is_grad_enabled() and student_logits.requires_grad
    if isinstance(teacher_logits, SparseTargets):
        how = settings.divergence, settings.temperature, log_floor, support, tail
        values = sparse_values(student_logits, teacher_logits, mask, *how, wants_gradient)
    elif tail is not None:
        raise InputError(f"tail: {tail!r} only serves SparseTargets, and the teacher's logits are whole")
    else:
        values = _Rows.apply(student_logits, teacher_logits.detach(), mask, settings, wants_gradient)[0]
    if temperature_scaling:
        values = values * settings.temperature**2
    return reduced(values, mask, reduction, num_items_in_batch)


@dataclass(frozen=True)
class _Settings:
    divergence: Divergence
    temperature: float
    log_floor: float | None
    shared: bool


def _row_values(
    student: Tensor, teacher: Tensor, mask: Tensor | None, settings: _Settings, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Divergence of each row (...) and its gradient in the student's logits (..., V), or an empty one."""
    dtype = torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32
    z_student, z_teacher = student.to(dtype), teacher.to(dtype)
    if mask is not None:
        skipped = ~mask.unsqueeze(-1)
        z_student, z_teacher = z_student.masked_fill(skipped, 0.0), z_teacher.masked_fill(skipped, 0.0)
    divergence = settings.divergence.on(z_student)
    how = settings.temperature, settings.log_floor, settings.shared
    compared = _compared(z_student, z_teacher, divergence, *how)
    values = compared.values if mask is None else compared.values.masked_fill(~mask, 0.0)
    if not torch.compiler.is_compiling() and not bool(values.isfinite().all()):
        raise _what_is_wrong(compared._replace(values=values), divergence, settings.shared)
    if not wants_gradient:
        return values, student.new_empty(0)
    gradient = pull_back(compared.u, compared.q, settings.temperature)
    if mask is not None:
        gradient = gradient.masked_fill(~mask.unsqueeze(-1), 0.0)
    return values, gradient.to(student.dtype)


class _Compared(NamedTuple):
    """Two blocks of logits compared: (..., V), values (...)."""

    z_student: Tensor
    z_teacher: Tensor
    values: Tensor
    """inf or NaN where something is wrong."""
    u: Tensor
    """0 for the student's classes that get no gradient of their own."""
    q: Tensor
    infinite: Tensor
    """The classes that make a divergence infinite."""


def _compared(
    z_student: Tensor,
    z_teacher: Tensor,
    divergence: Divergence,
    temperature: float,
    log_floor: float | None,
    shared: bool,
) -> _Compared:
    if shared:
        excluded = (z_student == -torch.inf) | (z_teacher == -torch.inf)
        z_student, z_teacher = (z.masked_fill(excluded, -torch.inf) for z in (z_student, z_teacher))
    pair = log_pair(z_student, z_teacher, temperature)
    silent = z_student == -torch.inf
    if log_floor is not None:
        pair, raised = floored(pair, log_floor)
        silent = silent | raised
    values, u = divergence.rows(pair.lp, pair.lq, pair.x)
    infinite = infinite_classes(pair, divergence)
    values = torch.where(infinite.any(-1), torch.inf, values)
    values = torch.where((pair.q == 0).all(-1), torch.nan, values)
    return _Compared(z_student, z_teacher, values, u.masked_fill(silent, 0.0), pair.q, infinite)


def _what_is_wrong(
    compared: _Compared, divergence: Divergence, shared: bool, place: list[int] | None = None
) -> InputError:
    """The error for the first row whose value is not finite; `place` is that of the token, if not the row's."""
    z_student, z_teacher, values, infinite = compared.z_student, compared.z_teacher, compared.values, compared.infinite
    row = (~values.isfinite()).nonzero()[0].tolist()
    token = describe_token(row if place is None else place)
    for who, z in (("student", z_student), ("teacher", z_teacher)):
        logits = z[tuple(row)]
        bad = (logits.isnan() | (logits == torch.inf)).nonzero()
        if len(bad):
            k = int(bad[0])
            return InputError(
                f"{who}_logits: expected finite logits (or -inf for a class that is ruled out), got "
                f"{float(logits[k])} at {token}, class {k}; look for an overflow upstream, or mask the token"
            )
        if bool((logits == -torch.inf).all()):
            if shared:
                return InputError(f"student and teacher share no class at {token}; mask the token")
            return InputError(
                f"{who}_logits: every class of {token} is ruled out (-inf), so there is no distribution; mask the token"
            )
    classes = infinite[tuple(row)].nonzero()
    if len(classes):
        k = int(classes[0])
        teacher_rules = bool(z_teacher[(*row, k)] == -torch.inf)
        rules, allows = ("teacher", "student") if teacher_rules else ("student", "teacher")
        return InfiniteDivergenceError(
            f"{divergence.name} is infinite at {token}: the {rules} rules out class {k} (logit -inf), which the "
            f"{allows} allows. Choose a divergence that is finite there (such as AlphaBeta with alpha > 0 and "
            "beta > 0), or support='shared' to compare on the classes both allow, or log_floor=-30.0, or mask the token"
        )
    return InfiniteDivergenceError(
        f"{divergence.name} overflows {values.dtype} at {token}: student and teacher are too far apart for these "
        "exponents. Pass float64 logits, raise log_floor (such as -30.0), or choose milder settings"
    )


def explain_row(
    z_student: Tensor,
    z_teacher: Tensor,
    divergence: Divergence,
    place: list[int],
    temperature: float,
    log_floor: float | None,
    shared: bool,
) -> InputError | None:
    """The error for one row of logits, (1, V) each, of the token at `place`; None if its divergence is finite here."""
    compared = _compared(z_student, z_teacher, divergence, temperature, log_floor, shared)
    if bool(compared.values.isfinite().all()):
        return None
    return _what_is_wrong(compared, divergence, shared, place)


class _Rows(torch.autograd.Function):
    """Divergence of each row, with its gradient taken along from the forward pass."""

    @staticmethod
    def forward(
        student: Tensor, teacher: Tensor, mask: Tensor | None, settings: _Settings, wants_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        return _row_values(student, teacher, mask, settings, wants_gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], inputs[0])

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        gradient, student = ctx.saved_tensors
        return once(scaled(gradient, outer[0].unsqueeze(-1), gradient.dtype), student), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, tuple[int, int | None]]:
        tensors = [
            value if not isinstance(value, Tensor) else _batch_first(value, dim, info.batch_size)
            for value, dim in zip(inputs[:3], in_dims[:3], strict=True)
        ]
        values, gradient = _Rows.apply(*tensors, *inputs[3:])
        return (values, gradient), (0, 0 if gradient.numel() or gradient.dim() != 1 else None)


def _batch_first(value: Tensor, dim: int | None, size: int) -> Tensor:
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
