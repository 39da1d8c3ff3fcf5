"""Run by test_triton.py with TRITON_INTERPRET=1: every member that has a kernel, against the eager path."""

from __future__ import annotations

import pytest
import torch
from linear_toys import toy

import abkd
from abkd import AlphaBeta, ForwardKL, JensenShannon, ReverseKL, SkewForwardKL, SkewReverseKL
from abkd.losses import DenseTargets

torch.set_num_threads(1)
torch.manual_seed(0)
agreeing = 0


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    scale = float(other.detach().abs().max()) + 1e-30
    error = float((one - other).detach().float().abs().max()) / scale
    assert error <= tolerance, error


for classes, tokens in ((7, 4), (5003, 2)):
    per_token = AlphaBeta(torch.rand(tokens, 1), torch.rand(tokens, 1))
    points = [AlphaBeta(0.2, 0.7), AlphaBeta(0.0, 0.0), AlphaBeta(1.4, 0.3), per_token]
    for d in (*points, ForwardKL(), ReverseKL(), JensenShannon(0.3), SkewForwardKL(0.1), SkewReverseKL(0.1)):
        for options in ({}, {"temperature": 2.0, "ce_weight": 0.5, "softcap": 3.0, "chunk_size": 3}):
            t = toy((tokens,), classes, 6, torch.float32)
            t.options = {"labels": t.labels, **options}
            teacher = t.teacher_logits
            finite = isinstance(d, JensenShannon | SkewForwardKL | SkewReverseKL)
            if finite:
                teacher[:, 2] = -torch.inf  # ruled out by the teacher
            one, other = (t.fused(d, DenseTargets(teacher), backend=backend) for backend in ("triton", "eager"))
            close(one, other, 1e-5)
            for mine, reference in zip(
                torch.autograd.grad(one, t.inputs), torch.autograd.grad(other, t.inputs), strict=True
            ):
                close(mine, reference, 3e-5)
            agreeing += 1

# Where p = q the stand-in of a class that both rule out, as of the lanes beyond the last class, is infinite to the -4.
t = toy((3,), 7, 6, torch.float32)
teacher = t.teacher_logits
teacher[:, 2] = t.bias.data[2] = -torch.inf
one, other = (t.fused(AlphaBeta(-2.0, -2.0), DenseTargets(teacher), backend=backend) for backend in ("triton", "eager"))
close(one, other, 1e-5)
for mine, reference in zip(torch.autograd.grad(one, t.inputs), torch.autograd.grad(other, t.inputs), strict=True):
    close(mine, reference, 3e-5)

# A confident student in half precision: the label's share keeps its digits.
hidden, weight = torch.eye(3, 6).half().requires_grad_(), (11 * torch.eye(40, 6)).half().requires_grad_()
loss = abkd.linear_divergence_loss(
    hidden, weight, None, None, labels=torch.arange(3), ce_weight=1.0, kd_weight=0.0, backend="triton"
)
slope = torch.softmax((hidden @ weight.T).detach().double(), -1) - torch.eye(3, 40).double()
assert 1e-4 < float(slope.diagonal().abs().max()) < 1e-3
close(torch.autograd.grad(loss, weight)[0], slope.T @ hidden.detach().double() / 3, 3e-3)

# Kernels run on the tensors' device, whichever is the current one.
guarded, device_of = [], torch.cuda.device_of
torch.cuda.device_of = lambda tensor: (guarded.append(tensor.shape), device_of(tensor))[1]
toy((3,), 7, 6, torch.float32).fused(ForwardKL(), backend="triton")
torch.cuda.device_of = device_of
assert guarded == [(3, 7)]

logits = torch.zeros(3, 7)
logits[1, 2] = -torch.inf
t = toy((3,), 7, 6, torch.float32, bias=False)
t.fused(ForwardKL(), DenseTargets(logits), backend="triton")
with pytest.raises(abkd.InfiniteDivergenceError, match="token index 1"):
    t.fused(ReverseKL(), DenseTargets(logits), backend="triton")
print(f"{agreeing} agree")
