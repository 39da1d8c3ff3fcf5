"""The losses that are compared: each computes a divergence and its gradients from hidden states and heads.

The peers are not dependencies of abkd. To have them in the comparison (each is left out, and said to be, if missing):

    pip install --no-deps liger-kernel==0.8.5 trl==1.16.0 orda-kernel==0.1.0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import abkd
from abkd.losses import HiddenTargets

PEERS = ("liger-kernel", "trl", "orda-kernel")
ALPHA, BETA = 0.2, 0.7
BLOCK = 256


@dataclass
class Problem:
    """N tokens, width H, V classes, on both sides."""

    tokens: int
    width: int
    classes: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        torch.manual_seed(0)

        def new(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape) * scale).to(self.dtype)

        scale = 2 / self.width**0.5  # logits with a standard deviation of 2
        self.hidden, self.teacher_hidden = (new(self.tokens, self.width) for _ in range(2))
        self.weight, self.teacher_weight = (new(self.classes, self.width, scale=scale) for _ in range(2))
        self.labels = torch.randint(self.classes, (self.tokens,))
        self.hidden.requires_grad_()
        self.weight.requires_grad_()

    def first(self, tokens: int) -> Problem:
        """The same with fewer tokens, to warm up on."""
        part = object.__new__(Problem)
        part.__dict__.update(self.__dict__)
        part.tokens = min(tokens, self.tokens)
        part.hidden = self.hidden.detach()[:tokens].clone().requires_grad_()
        part.teacher_hidden, part.labels = self.teacher_hidden[:tokens], self.labels[:tokens]
        return part


Loss = Callable[[Problem], "Tensor | None"]


def floor(problem: Problem) -> None:
    """The four matrix products alone, in blocks, into memory that is already there."""
    p, block = problem, min(BLOCK, problem.tokens)
    student, teacher = (torch.empty(block, p.classes, dtype=p.dtype) for _ in range(2))
    slope, head = torch.empty(block, p.width, dtype=p.dtype), torch.empty(p.classes, p.width, dtype=p.dtype)
    with torch.no_grad():
        for start in range(0, p.tokens, block):
            hidden, teacher_hidden = p.hidden[start : start + block], p.teacher_hidden[start : start + block]
            count = hidden.shape[0]
            torch.mm(hidden, p.weight.t(), out=student[:count])
            torch.mm(teacher_hidden, p.teacher_weight.t(), out=teacher[:count])
            torch.mm(student[:count], p.weight, out=slope[:count])
            torch.mm(student[:count].t(), hidden, out=head)


def ours(divergence: abkd.Divergence, backend: str) -> Loss:
    """`linear_divergence_loss`."""
    return lambda p: abkd.linear_divergence_loss(
        p.hidden, p.weight, HiddenTargets(p.teacher_hidden, p.teacher_weight), divergence, backend=backend
    )


def official(p: Problem) -> Tensor:
    """The definition on materialised logits, as the published training code computes it: softmax, then powers."""
    teacher = torch.softmax((p.teacher_hidden @ p.teacher_weight.t()).float(), -1)
    student = torch.softmax((p.hidden @ p.weight.t()).float(), -1)
    s = ALPHA + BETA
    inner = teacher**ALPHA * student**BETA - ALPHA / s * teacher**s - BETA / s * student**s
    return (-inner.sum(-1) / (ALPHA * BETA)).mean()


def trl(beta: float) -> Loss:
    """TRL's chunked divergence; beta 0 is forward KL, 0.5 Jensen-Shannon."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def loss(p: Problem) -> Tensor:
        result: Any = ChunkedDivergenceFunction.apply(
            p.hidden, p.weight, None, p.teacher_hidden, p.teacher_weight, None, beta
        )
        return result[0].mean()

    return loss


def liger(compiled: bool) -> Loss:
    """Liger's chunked Jensen-Shannon divergence."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    fused = LigerFusedLinearJSDLoss(0.0, 1.0, 0.5, compiled=compiled)
    return lambda p: fused(p.hidden, p.weight, p.teacher_hidden, p.teacher_weight, p.labels)


def orda() -> Loss:
    """orda-kernel's alpha-beta-divergence (its alpha is beta here, and the other way round)."""
    from orda_kernel import SeparateTeacher, distillation_loss

    def loss(p: Problem) -> Tensor:
        teacher = SeparateTeacher(hidden=p.teacher_hidden, weight=p.teacher_weight)
        how: Any = {"kl_divergence": "abkd", "kl_alpha": BETA, "kl_beta": ALPHA}
        return distillation_loss(
            p.hidden, p.weight, p.labels, teacher, student_ce_weight=0.0, kl_weight=1.0, **how
        ).loss

    return loss


def torch_cross_entropy(p: Problem) -> Tensor:
    """Cross-entropy by torch's own fused function: three products, no teacher."""
    return torch.nn.functional.linear_cross_entropy(p.hidden, p.weight, p.labels)


def our_cross_entropy(p: Problem) -> Tensor:
    """The cross-entropy alone: three products, no teacher."""
    return abkd.linear_divergence_loss(
        p.hidden, p.weight, None, None, labels=p.labels, ce_weight=1.0, kd_weight=0.0, backend="compiled"
    )


def contenders() -> tuple[dict[str, Loss], dict[str, str]]:
    """By name, and the names of those that are left out with the reason."""
    alpha_beta, jsd = abkd.AlphaBeta(ALPHA, BETA), abkd.JensenShannon(0.5)
    makers: dict[str, Callable[[], Loss]] = {
        "floor: four products": lambda: floor,
        "abkd alpha-beta, compiled": lambda: ours(alpha_beta, "compiled"),
        "abkd alpha-beta, eager": lambda: ours(alpha_beta, "eager"),
        "abkd forward KL, compiled": lambda: ours(abkd.ForwardKL(), "compiled"),
        "abkd JSD, compiled": lambda: ours(jsd, "compiled"),
        "official alpha-beta, materialised": lambda: official,
        "orda-kernel alpha-beta": orda,
        "TRL forward KL, chunked": lambda: trl(0.0),
        "TRL JSD, chunked": lambda: trl(0.5),
        "Liger JSD, chunked": lambda: liger(False),
        "Liger JSD, chunked, compiled": lambda: liger(True),
        "abkd cross-entropy": lambda: our_cross_entropy,
        "torch linear_cross_entropy": lambda: torch_cross_entropy,
    }
    found: dict[str, Loss] = {}
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        loss = _or_reason(make)
        if isinstance(loss, str):
            left_out[name] = loss
        else:
            found[name] = loss
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        left_out["torch linear_cross_entropy"] = "not in this torch"
        del found["torch linear_cross_entropy"]
    return found, left_out


def _or_reason(make: Callable[[], Loss]) -> Loss | str:
    try:
        return make()
    except ImportError as error:
        return f"not installed ({error})"


def step(loss: Loss, problem: Problem) -> None:
    """Value and gradients once."""
    problem.hidden.grad = problem.weight.grad = None
    value = loss(problem)
    if value is not None:
        value.backward()
