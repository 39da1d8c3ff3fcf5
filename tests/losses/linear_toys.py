"""Small models for the fused losses, and the loss from materialised float64 logits that they are held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import abkd
from abkd.losses import DenseTargets, HiddenTargets, linear_divergence_loss


@dataclass
class Toy:
    """A student's last layer and a teacher's, with everything a call takes besides."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    mask: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(value for value in (self.hidden, self.weight, self.bias) if value is not None)

    @property
    def teacher_logits(self) -> Tensor:
        return self.teacher_hidden @ self.teacher_weight.T

    def hidden_targets(self) -> HiddenTargets:
        return HiddenTargets(self.teacher_hidden, self.teacher_weight)

    def dense_targets(self) -> DenseTargets:
        return DenseTargets(self.teacher_logits)

    def fused(self, d: abkd.Divergence, targets: Any = None, **options: Any) -> Tensor:
        targets = self.hidden_targets() if targets is None else targets
        return linear_divergence_loss(
            self.hidden, self.weight, targets, d, student_bias=self.bias, **{**self.options, **options}
        )

    def plain(self, d: abkd.Divergence, dtype: torch.dtype = torch.float64, **options: Any) -> Tensor:
        """From materialised logits: `divergence_loss` and torch's cross-entropy."""
        options = {**self.options, **options}
        for name in ("chunk_size", "backend", "vocab_chunk_size"):
            options.pop(name, None)
        labels, ce_weight = options.pop("labels", None), options.pop("ce_weight", 0.0)
        kd_weight, cap, scale = (
            options.pop("kd_weight", 1.0),
            options.pop("softcap", None),
            options.pop("logit_scale", 1.0),
        )
        z = self.hidden.to(dtype) @ self.weight.to(dtype).T * scale
        if self.bias is not None:
            z = z + self.bias.to(dtype) * scale
        if cap is not None:
            z = cap * torch.tanh(z / cap)
        mask = options.setdefault("mask", None if labels is None else labels != -100)
        teacher = self.teacher_hidden.to(dtype) @ self.teacher_weight.to(dtype).T
        total = kd_weight * abkd.divergence_loss(z, teacher, d, **options)
        if labels is None or not ce_weight:
            return total
        left = labels if mask is None else labels.where(mask, -100)
        each = torch.nn.functional.cross_entropy(z.flatten(0, -2), left.flatten(), ignore_index=-100, reduction="none")
        each = each.view(labels.shape)
        how = options.get("reduction", "mean")
        return total + ce_weight * (
            each if how == "none" else each.sum() if how == "sum" else each.sum() / (left != -100).sum()
        )


def toy(
    tokens: tuple[int, ...] = (37,),
    classes: int = 53,
    width: int = 12,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
) -> Toy:
    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype)

    labels = torch.randint(classes, tokens)
    labels.view(-1)[::5] = -100
    return Toy(
        new(*tokens, width).requires_grad_(),
        new(classes, width).requires_grad_(),
        new(classes).requires_grad_() if bias else None,
        new(*tokens, 7),
        new(classes, 7),
        labels,
        torch.rand(tokens) < 0.7,
    )


def gradients(loss: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs, retain_graph=True)


def assert_same(got: Tensor, expected: Tensor, inputs: tuple[Tensor, ...], tolerance: float) -> None:
    """Value and gradients, each relative to its largest element."""
    assert got.shape == expected.shape
    scale = float(expected.detach().double().abs().max()) + 1e-30
    assert float((got.double() - expected.double()).detach().abs().max()) <= tolerance * scale
    if not got.dim():
        for one, other in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
            scale = float(other.double().abs().max()) + 1e-30
            assert one.dtype == other.dtype
            assert float((one.double() - other.double()).abs().max()) <= tolerance * scale
