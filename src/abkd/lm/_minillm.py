"""MiniLLM: reverse KL of whole sequences by policy gradient (arXiv 2306.08543).

The gradient of KL(q || p) over sequences is split as in the paper's section 2.2 into a single-step part, which is
the full reverse KL at each token, and a long-range part, which pushes each sampled token by what came after it.
The published code departs from these formulas: there the long-range part counts the token's own reward too, discounts
later ones by 0.95 a token and is whitened, over padding and all processes as well; ratio and importance weight are
clipped as one factor, and the single-step part has no importance weight. As there, the student has no dropout: with it,
the ratio of the present student to the sampling one would not be 1 where nothing has been learnt in between.
Legend: B texts, S tokens, N response tokens of the batch in row-major order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from abkd.errors import InputError
from abkd.lm._generate import mixture
from abkd.lm._hidden import Predictions
from abkd.lm._objective import Objective, dense_logits, head_loss
from abkd.lm._policy_settings import PolicyGradient
from abkd.lm._student_settings import StudentText
from abkd.losses import SparseTargets, Targets

_BLOCK = 128


@torch.no_grad()
def remember(
    student: Predictions, targets: Targets, labels: Tensor, keep: Tensor, settings: PolicyGradient, mix: float
) -> dict[str, Tensor]:
    """What the loss needs of the moment when a text was sampled.

    Args:
        student: its predictions of the N response tokens.
        targets: the teacher's.
        labels: those tokens, (N,).
        keep: which positions they stand at, (B, S - 1).
        settings: of the policy gradient.
        mix: the teacher's share in the distribution sampled from, in [0, 1).

    Returns:
        `log_q` (N,): the student's log-probabilities then. `weight` (N,): importance weights q / ((1 - m) q + m p).
        `future` (N,): rewards log p - log q of the tokens after each (with it, without `single_step`), nats; with
        `whiten` without unit.
    """
    log_q, log_p = _label_logs(student, labels), _teacher_logs(targets, labels, student)
    weight = (log_q - mixture(log_q, log_p, mix)).exp()
    rewards = torch.zeros(keep.shape, dtype=log_q.dtype, device=log_q.device)
    keep = keep.to(log_q.device)
    rewards[keep] = log_p - log_q
    following = rewards.flip(-1).cumsum(-1).flip(-1)
    lengths = keep.to(log_q.dtype).flip(-1).cumsum(-1).flip(-1)
    if settings.single_step:
        following, lengths = following - rewards, lengths - 1
    if settings.length_normalised:
        following = following / lengths.clamp(min=1)
    future = following[keep]
    if settings.whiten and len(future) > 1:
        variance, mean = torch.var_mean(future)
        future = (future - mean) * torch.rsqrt(variance + 1e-8)
    return {"log_q": log_q, "weight": weight, "future": future}


def policy_loss(
    student: Predictions,
    targets: Targets,
    labels: Tensor,
    moment: Mapping[str, Tensor],
    objective: Objective,
    settings: PolicyGradient,
) -> Tensor:
    """The loss whose gradient is the policy gradient, as a mean over the N response tokens.

    The long-range part is the clipped surrogate of PPO, `-w min(r R, clip(r) R)` with `r = q / q_then`.

    Args:
        student: its predictions of the N response tokens now.
        targets: the teacher's.
        labels: those tokens, (N,).
        moment: what `remember` gave.
        objective: its `kd_weight` multiplies the whole.
        settings: of the policy gradient.
    """
    moment = {name: value.to(labels.device) for name, value in moment.items()}
    ratio = (_label_logs(student, labels) - moment["log_q"]).exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    surrogate = torch.minimum(ratio * moment["future"], clipped * moment["future"])
    loss = -(moment["weight"] * surrogate).mean()
    if settings.single_step:
        loss = loss + head_loss(student, targets, objective.divergence, token_weights=moment["weight"])
    return objective.kd_weight * loss


def _label_logs(student: Predictions, labels: Tensor) -> Tensor:
    """The student's log-probabilities of the labels, (N,), with gradient."""
    return -head_loss(student, None, None, labels=labels, ce_weight=1.0, kd_weight=0.0, reduction="none")


def _teacher_logs(targets: Targets, labels: Tensor, student: Predictions) -> Tensor:
    """The teacher's log-probabilities of the labels, (N,)."""
    if isinstance(targets, SparseTargets):
        raise InputError("a policy gradient asks the teacher about text that is not in a cache: use a live teacher")
    logs: list[Tensor] = []
    for start in range(0, len(labels), _BLOCK):
        block = slice(start, start + _BLOCK)
        log_p = dense_logits(targets, block, student.classes).float().log_softmax(-1)
        logs.append(log_p.gather(-1, labels[block].unsqueeze(-1)).squeeze(-1))
    return torch.cat(logs)


def check_policy_settings(moments: Iterable[Objective], text: StudentText) -> None:
    """A policy gradient's importance weights hold for text just sampled as the student speaks, and for nothing else.

    Args:
        moments: the objective at the start and at the end of the run.
        text: how the student writes.

    Raises:
        InputError: another sampling, another text, a temperature in the loss, or nothing of the divergence in it.
    """
    if text.generation_temperature != 1 or text.top_p != 1:
        raise InputError("minillm samples at generation_temperature 1 and top_p 1: its weights hold for that alone")
    if text.share != 1 or text.schedule != "constant" or text.replay:
        raise InputError("minillm trains on text just sampled: leave share at 1, schedule at constant and replay at 0")
    ends = tuple(moments)
    if any(objective.kd_weight == 0 for objective in ends):
        raise InputError("kd_weight multiplies all that minillm minimises: give a number above 0")
    if any(objective.temperature != 1 or objective.ce_weight > 0 for objective in ends):
        raise InputError(
            "minillm has temperature 1 and no cross-entropy on its own text (ce_weight 0); its LM loss is that on "
            "pretrain_dataset"
        )
