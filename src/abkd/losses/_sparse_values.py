"""The divergence of logits from sparse targets, for `divergence_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InputError
from abkd.losses._attach import attached
from abkd.losses._rows import Form, computed_in, dense_rows, flat_settings, rows_of_settings, scalars_of
from abkd.losses._sparse import (
    SparseBlock,
    SparseForm,
    checked_form,
    proportional_logits,
    sparse_rows,
    what_is_wrong_with_sparse,
)
from abkd.losses._targets import SparseTargets, check_sparse_values


def sparse_values(
    student: Tensor,
    targets: SparseTargets,
    mask: Tensor | None,
    divergence: Divergence,
    temperature: float,
    log_floor: float | None,
    support: str,
    tail: str | None,
    wants_gradient: bool,
) -> Tensor:
    """The divergence of each token, (...), 0 where the mask is False; differentiable in the student's (..., V)."""
    lead, classes = student.shape[:-1], student.shape[-1]
    if targets.shape != lead:
        raise InputError(
            f"SparseTargets: expected leading axes {tuple(lead)} as in student_logits, got {tuple(targets.shape)}"
        )
    if targets.ids.device != student.device:
        raise InputError(f"student logits are on {student.device}, sparse targets on {targets.ids.device}; move one")
    if support != "strict":
        raise InputError("support='shared': sparse targets do not say what the teacher rules out; use support='strict'")
    check_sparse_values(targets, mask, classes)
    form = checked_form(divergence, targets, classes, tail, temperature, log_floor, mask)
    with torch.no_grad():
        logits = student.reshape(-1, classes)
        chosen = slice(None) if mask is None else mask.flatten().nonzero().squeeze(-1)
        z = logits[chosen].to(computed_in(student))
        block = SparseBlock.of(targets.flat(), chosen, z.dtype)
        settings = rows_of_settings(flat_settings(divergence, lead, z), chosen)
        values, slope = _compared(z, block, form.using(settings), wants_gradient, chosen, lead)
        each = values.new_zeros(logits.shape[0])
        each[chosen] = values
        if slope is None:
            return each.view(lead)
        gradient = torch.zeros_like(logits)
        gradient[chosen] = slope.to(student.dtype)
    return attached(each.view(lead), (student,), (gradient.view(student.shape),))


def _compared(
    z: Tensor,
    block: SparseBlock,
    form: SparseForm,
    wants_gradient: bool,
    chosen: Tensor | slice,
    lead: torch.Size,
) -> tuple[Tensor, Tensor | None]:
    """Values (R,), checked, and the gradient (R, V) if it is wanted."""
    if form.tail == "proportional":
        teacher = proportional_logits(z, block, form.temperature)
        slope, one = z.clone(), z.new_ones(z.shape[0], 1)
        how = Form(True, False, wants_gradient, tempered=form.temperature != 1, log_floor=form.log_floor)
        numbers = scalars_of(form.temperature, (None, None), (None, None), z)
        values, _ = dense_rows(slope, teacher, one, torch.zeros_like(one), None, numbers, form.divergence, how)
    else:
        values, slope, _ = sparse_rows(z, block, form, wants_gradient)
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite()).nonzero()[0])
        token = torch.arange(lead.numel(), device=z.device)[chosen][row]
        where = [int(axis) for axis in torch.unravel_index(token, lead)] if lead else []
        only = slice(row, row + 1)
        divergence = rows_of_settings(form.divergence, only)
        raise what_is_wrong_with_sparse(z[only], block.part(only), form.using(divergence), where)
    return values, slope if wants_gradient else None
