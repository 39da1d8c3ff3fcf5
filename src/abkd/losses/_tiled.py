"""The walk for vocabularies of which even a block of tokens is too large: tiles of tokens x classes.

Three sweeps over the tiles of a block of tokens, each of which computes the logits anew: the log-sums, then the value
and `sum u`, then the gradient. Eight matrix products in all, and only for divergences that are a sum over classes.
Shapes: M tokens in a block, C classes in a tile, H width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abkd.losses._pair import Pair, infinite_classes, paired
from abkd.losses._rows import adjusted, adjusted_slope, computed_in
from abkd.losses._targets import DenseTargets, HiddenTargets
from abkd.losses._walk import Adjustment, Gradients, Job, Outcome, Student, adjustment


def walk_tiles(
    job: Job, student: Student, kd_weight: Tensor, ce_weight: Tensor, wants: tuple[bool, bool, bool]
) -> Outcome:
    """As `walk`, by tiles of `job.vocab_chunk_size` classes."""
    collected = Gradients(student, job.classes, wants, computed_in(student.hidden))
    divergence, cross_entropy = (kd_weight.new_zeros(job.tokens) for _ in range(2))
    for place, tokens in job.blocks():
        block = _Block(job, student, tokens)
        sums = block.sums()
        divergence[place], u_sum = block.values(sums)
        if job.labels is not None:
            cross_entropy[place] = torch.where(ce_weight[place] != 0, (sums.untempered - sums.label).squeeze(-1), 0.0)
        if any(wants):
            slopes = block.slopes(sums, u_sum, kd_weight[place, None], ce_weight[place, None])
            collected.add_tiles(tokens, block.hidden, slopes)
    return Outcome(divergence, cross_entropy, collected.finished())


class _Sums(NamedTuple):
    """Log-sums, and the label's logit, each (M, 1)."""

    student: Tensor
    """At T."""
    teacher: Tensor
    """At T."""
    untempered: Tensor
    """Of the student at 1."""
    label: Tensor
    """-inf without a label."""


class _Block:
    def __init__(self, job: Job, student: Student, tokens: Tensor | slice) -> None:
        self._job, self._student, self._tokens = job, student, tokens
        self.hidden = student.hidden[tokens]
        self._divergence = job.settings(tokens)
        self._dtype = computed_in(student.hidden)

    def sums(self) -> _Sums:
        """Added up tile by tile."""
        start = self.hidden.new_full((self.hidden.shape[0], 1), -torch.inf, dtype=self._dtype)
        student, teacher, untempered, label = start, start, start, start
        for classes, z, z_teacher in self._tiles():
            student = torch.logaddexp(student, _log_sum(z / self._job.temperature))
            if z_teacher is not None:
                teacher = torch.logaddexp(teacher, _log_sum(z_teacher / self._job.temperature))
            if self._job.temperature != 1:
                untempered = torch.logaddexp(untempered, _log_sum(z))
            if self._job.labels is not None:
                place, within = self._labels_in(classes)
                label = torch.where(within, z.gather(-1, place), label)
        return _Sums(student, teacher, student if self._job.temperature == 1 else untempered, label)

    def values(self, sums: _Sums) -> tuple[Tensor, Tensor]:
        """The divergence of each token (M,), and `sum u` (M, 1)."""
        value = self.hidden.new_zeros(self.hidden.shape[0], dtype=self._dtype)
        u_sum = value.unsqueeze(-1)
        if self._divergence is None:
            return value, u_sum
        for _, z, z_teacher in self._tiles():
            assert z_teacher is not None
            pair = self._pair(z, z_teacher, sums)
            part, u = self._divergence.rows(pair.lp, pair.lq, pair.x)
            infinite = infinite_classes(pair, self._divergence).any(-1)
            value = value + torch.where(infinite, torch.inf, part)
            u_sum = u_sum + torch.where(z == -torch.inf, 0.0, u).sum(-1, keepdim=True)
        no_class = (sums.student == -torch.inf) | (sums.teacher == -torch.inf)
        return torch.where(no_class.squeeze(-1), torch.nan, value), u_sum

    def slopes(
        self, sums: _Sums, u_sum: Tensor, kd_weight: Tensor, ce_weight: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """The gradient in the logits, tile by tile: (M, C)."""
        job = self._job
        for classes, z, z_teacher in self._tiles():
            slope = torch.zeros_like(z)
            if z_teacher is not None and self._divergence is not None:
                pair = self._pair(z, z_teacher, sums)
                u = self._divergence.rows(pair.lp, pair.lq, pair.x)[1]
                u = torch.where(z == -torch.inf, 0.0, u)
                slope = kd_weight * (u - pair.q * u_sum) / job.temperature
            if job.labels is not None:
                slope = slope + ce_weight * torch.exp(z - sums.untempered)
                place, within = self._labels_in(classes)
                slope.scatter_add_(-1, place, torch.where(within, -ce_weight, 0.0))
            factor = adjusted_slope(z, *job.adjustment)
            yield classes, (slope if factor is None else slope * factor).to(self.hidden.dtype)

    def _labels_in(self, classes: slice) -> tuple[Tensor, Tensor]:
        """The labels' places in a tile, and whether it holds them, (M, 1)."""
        assert self._job.labels is not None
        place = self._job.labels[self._tokens].unsqueeze(-1) - classes.start
        width = classes.stop - classes.start
        return place.clamp(0, width - 1), (place >= 0) & (place < width)

    def _pair(self, z: Tensor, z_teacher: Tensor, sums: _Sums) -> Pair:
        lq, lp = z / self._job.temperature - sums.student, z_teacher / self._job.temperature - sums.teacher
        return paired(lp, lq, (z_teacher - z) / self._job.temperature - (sums.teacher - sums.student))

    def _tiles(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """The logits of both models, (M, C), as the heads mean them."""
        size = self._job.vocab_chunk_size or self._job.classes
        for start in range(0, self._job.classes, size):
            classes = slice(start, min(start + size, self._job.classes))
            student = self._student
            z = self._logits(self.hidden, student.weight, student.bias, classes, self._job.adjustment)
            teacher, z_teacher = self._job.teacher, None
            if isinstance(teacher, HiddenTargets):
                how = adjustment(teacher.logit_scale, teacher.softcap)
                z_teacher = self._logits(teacher.hidden[self._tokens], teacher.weight, teacher.bias, classes, how)
            elif isinstance(teacher, DenseTargets):
                z_teacher = teacher.logits[self._tokens, classes].to(self._dtype)
            yield classes, z, z_teacher

    def _logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, classes: slice, how: Adjustment) -> Tensor:
        z = torch.nn.functional.linear(hidden, weight[classes], None if bias is None else bias[classes])
        return adjusted(z.to(self._dtype), *how)


def _log_sum(z: Tensor) -> Tensor:
    return torch.logsumexp(z, -1, keepdim=True)
