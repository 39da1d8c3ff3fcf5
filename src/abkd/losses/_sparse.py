"""Sparse teachers: the divergence from the most probable tokens of a distribution and the mass of all others.

Shapes: R rows, V classes, K entries a row. The tail is what lies outside a row's entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InfiniteDivergenceError, InputError
from abkd.losses import _checks
from abkd.losses._checks import describe_token
from abkd.losses._pair import Pair, floored, infinite_classes, paired
from abkd.losses._targets import SparseTargets

Tail = Literal["bucket", "power-bucket", "renormalise", "proportional"]
TAILS: tuple[Tail, ...] = ("bucket", "power-bucket", "renormalise", "proportional")


class SparseBlock(NamedTuple):
    """The targets of a block of rows, in the dtype of the computation."""

    ids: Tensor
    kept: Tensor
    """(R, K), the ids with a row's first one where an entry is left out."""
    log_probs: Tensor
    log_tail: Tensor
    log_power_tail: Tensor | None

    def part(self, rows: slice) -> SparseBlock:
        """Some of the rows."""
        powered = self.log_power_tail
        return SparseBlock(
            self.ids[rows],
            self.kept[rows],
            self.log_probs[rows],
            self.log_tail[rows],
            None if powered is None else powered[rows],
        )

    @staticmethod
    def of(targets: SparseTargets, rows: Tensor | slice, dtype: torch.dtype) -> SparseBlock:
        """The rows of targets whose leading axes are flat."""
        ids = targets.ids[rows].long()
        left_out = ids < 0
        powered = targets.log_power_tail
        return SparseBlock(
            ids,
            torch.where(left_out, ids[:, :1], ids),
            targets.log_probs[rows].to(dtype).masked_fill(left_out, -torch.inf),
            targets.log_tail[rows].to(dtype).unsqueeze(-1),
            None if powered is None else powered[rows].to(dtype).unsqueeze(-1),
        )


@dataclass(frozen=True)
class SparseForm:
    """How a divergence meets sparse targets."""

    divergence: Divergence
    tail: Tail
    power: float
    """The degree that the power bucket is made for."""
    temperature: float
    log_floor: float | None

    def using(self, divergence: Divergence | None) -> SparseForm:
        """The same with the divergence's settings for other rows."""
        return self if divergence is None else replace(self, divergence=divergence)


def degree(divergence: Divergence) -> Tensor | None:
    """The s for which `f(c p, c q) = c^s f(p, q)`, measured: (), or one for each token; None where there is none."""
    lp = torch.tensor([-1.0, -3.0, -2.0, -0.4], dtype=torch.float64)
    lq = torch.tensor([-2.0, -0.5, -2.7, -4.0], dtype=torch.float64)
    on_cpu = divergence.on(lp)
    s = torch.log(on_cpu.f(lp, lq) / on_cpu.f(lp - 1, lq - 1))
    return s.mean(-1) if bool((s.amax(-1) - s.amin(-1) < 1e-6).all()) else None


def checked_form(
    divergence: Divergence,
    targets: SparseTargets,
    classes: int,
    tail: str | None,
    temperature: float,
    log_floor: float | None,
    counted: Tensor | None,
) -> SparseForm:
    """The treatment of the tail, with the reason where one cannot be had.

    `counted`, (...) bool or None for all, says which of the targets are looked at.

    Raises:
        InputError: truncation; the plain bucket with a degree above 1; a power bucket without its statistic; targets
            made at another temperature.
    """
    if tail in ("truncate", "truncated", "none"):
        raise InputError(
            "tail: truncation is refused: without the tail's mass the divergence is off by any factor, and reverse KL "
            "and its kin are infinite; use 'bucket'"
        )
    if tail is not None:
        _checks.check_choice("tail", tail, TAILS)
    if abs(temperature - targets.temperature) > 1e-6 * temperature:
        raise InputError(
            f"temperature: the sparse targets were made at temperature {targets.temperature:g}, the loss asks for "
            f"{temperature:g}; a tail cannot be softened afterwards, so make the targets at that temperature"
        )
    s = degree(divergence)
    above_one = s is not None and float(s.max()) > 1 + 1e-6
    have_power = targets.power is not None and s is not None and bool(((s - targets.power).abs() < 1e-6).all())
    power = 1.0
    if tail is None:
        tail = "power-bucket" if have_power else "bucket"
    remedy = (
        "keep log sum_tail p^s with the targets (SparseTargets.from_logits(..., power=s)) and use tail='power-bucket', "
        "or tail='renormalise' or 'proportional', which are biased"
    )
    if tail == "bucket" and above_one and _has_tail(targets, classes, counted):
        raise InputError(
            f"{divergence.name}: the tail as one class can exceed the true divergence up to 2 times where alpha + beta "
            f"(here {float(s.max()) if s is not None else 1:g}) is above 1, so it is refused; {remedy}"
        )
    if tail == "power-bucket":
        if s is None or float(s.min()) <= 0 or float(s.max() - s.min()) > 1e-6:
            raise InputError(
                f"tail='power-bucket' needs a divergence that is homogeneous of one degree above 0, such as AlphaBeta "
                f"with alpha + beta > 0; {divergence.name} is not; use tail='bucket'"
            )
        power = float(s.max())
        if abs(power - 1) > 1e-6 and not have_power:
            came = "none" if targets.power is None else f"power {targets.power:g}"
            raise InputError(
                f"tail='power-bucket' of {divergence.name} needs targets with power={power:g}, got {came}; {remedy}"
            )
        power = 1.0 if abs(power - 1) <= 1e-6 else power
    return SparseForm(divergence, tail, power, temperature, log_floor)  # pyright: ignore


def _has_tail(targets: SparseTargets, classes: int, counted: Tensor | None) -> bool:
    """Whether the entries of any token are not all classes."""
    if targets.ids.shape[-1] < classes:
        return True
    some = (targets.ids < 0).any(-1)
    return bool((some if counted is None else some & counted).any())


class SparseResult(NamedTuple):
    """What `sparse_rows` gives."""

    values: Tensor
    """(R,)"""
    gradient: Tensor | None
    """(R, V), in the student's logits."""
    pair: Pair
    """The distributions compared: (R, K), or (R, K + 1) with the tail last."""


def sparse_rows(z: Tensor, block: SparseBlock, form: SparseForm, wants_gradient: bool) -> SparseResult:
    """The divergence of each row from sparse targets (every treatment but "proportional"), and its gradient.

    Args:
        z: (R, V), float32 or float64.
        block: of the same rows.
        form: with a divergence whose tensor settings fit the rows.
        wants_gradient: whether to compute the gradient.
    """
    tempered = z if form.temperature == 1 else z / form.temperature
    left_out = block.ids < 0
    top = tempered.gather(-1, block.kept).masked_fill(left_out, -torch.inf)
    rest = tempered.scatter(-1, block.kept, -torch.inf)
    top_sum = torch.logsumexp(top, -1, keepdim=True)
    rest_sum = torch.logsumexp(rest, -1, keepdim=True)
    log_sum = torch.logaddexp(top_sum, rest_sum)
    lp, lq = block.log_probs, top - log_sum
    log_weight_sum = rest_sum  # of the weights by which the tail class passes its gradient on to the tokens in it
    if form.tail == "renormalise":
        lp, lq = lp - torch.logsumexp(lp, -1, keepdim=True), top - top_sum
    elif lp.shape[-1] < z.shape[-1] or bool(left_out.any()):
        lp_tail, lq_tail = block.log_tail, rest_sum - log_sum
        if form.power != 1:
            assert block.log_power_tail is not None  # checked_form saw to it
            log_weight_sum = torch.logsumexp(form.power * rest, -1, keepdim=True)
            lp_tail, lq_tail = block.log_power_tail / form.power, log_weight_sum / form.power - log_sum
        lp, lq = torch.cat([lp, lp_tail], -1), torch.cat([lq, lq_tail], -1)

    pair = paired(lp, lq, lp - lq)
    silent = lq == -torch.inf
    if form.log_floor is not None:
        pair, raised = floored(pair, form.log_floor)
        silent = silent | raised
    values, u = form.divergence.rows(pair.lp, pair.lq, pair.x)
    values = torch.where(infinite_classes(pair, form.divergence).any(-1), torch.inf, values)
    values = torch.where((log_sum == -torch.inf).squeeze(-1), torch.nan, values)
    if not wants_gradient:
        return SparseResult(values, None, pair)
    u = u.masked_fill(silent, 0.0)
    total, entries = u.sum(-1, keepdim=True), block.ids.shape[-1]
    at_top = u[:, :entries] - torch.exp(lq[:, :entries]) * total
    if lp.shape[-1] == entries:
        gradient = torch.zeros_like(z)
    elif form.power == 1:
        share = u[:, entries:] - torch.exp(rest_sum - log_sum) * total
        gradient = torch.exp(rest - rest_sum.clamp(min=-1e30)).mul_(share)
    else:
        gradient = torch.exp(form.power * rest - log_weight_sum.clamp(min=-1e30)).mul_(u[:, entries:])
        gradient -= torch.exp(rest - log_sum).mul_(total)
    gradient.scatter_add_(-1, block.kept, at_top.masked_fill(left_out, 0.0))
    return SparseResult(values, gradient.div_(form.temperature), pair)


def proportional_logits(z: Tensor, block: SparseBlock, temperature: float) -> Tensor:
    """Teacher's logits (R, V) whose tail has the teacher's mass and the student's proportions; no gradient passes."""
    rest = (z.detach() / temperature).scatter(-1, block.kept, -torch.inf)
    tail = rest - torch.logsumexp(rest, -1, keepdim=True) + block.log_tail
    tail = torch.where(rest == -torch.inf, -torch.inf, tail)
    left_out = block.ids < 0
    teacher = tail.scatter(-1, block.kept, block.log_probs.masked_fill(left_out, -torch.inf))
    # a left-out entry points at the row's first one: set that once more, last
    return teacher.scatter(-1, block.kept[:, :1], block.log_probs[:, :1]) * temperature


def what_is_wrong_with_sparse(z: Tensor, block: SparseBlock, form: SparseForm, token: list[int]) -> InputError:
    """The error for one row, (1, ...) each, whose value is not finite."""
    place, divergence = describe_token(token), form.divergence
    bad = (z[0].isnan() | (z[0] == torch.inf)).nonzero()
    if len(bad):
        k = int(bad[0])
        return InputError(
            f"student_logits: expected finite logits (or -inf for a class that is ruled out), got {float(z[0, k])} at "
            f"{place}, class {k}; look for an overflow upstream, or mask the token"
        )
    if bool((z[0] == -torch.inf).all()):
        return InputError(f"student_logits: every class of {place} is ruled out (-inf); mask the token")
    pair = sparse_rows(z, block, replace(form, tail="bucket", power=1.0), False).pair
    classes = infinite_classes(pair, divergence)[0].nonzero()
    if len(classes):
        k = int(classes[0])
        what = f"class {int(block.ids[0, k])}" if k < block.ids.shape[-1] else "all classes of the tail"
        rules, allows = ("teacher", "student") if bool(pair.teacher_zero[0, k]) else ("student", "teacher")
        return InfiniteDivergenceError(
            f"{divergence.name} is infinite at {place}: the {rules} rules out {what}, which the {allows} allows. "
            "Choose a divergence that is finite there (such as AlphaBeta with alpha > 0 and beta > 0), or "
            "log_floor=-30.0, or mask the token"
        )
    return InfiniteDivergenceError(
        f"{divergence.name} overflows {z.dtype} at {place}: student and teacher are too far apart for these "
        "exponents. Pass float64 logits, raise log_floor (such as -30.0), or choose milder settings"
    )
