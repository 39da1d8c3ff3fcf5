"""One of two processes (gloo, on the CPU), each with tokens of its own and a head spread over both.

Not a test; `test_linear.py` starts it. Gradients have to be those of the mean over the ranks.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from abkd import AlphaBeta, linear_divergence_loss
from abkd.losses import HiddenTargets

D = AlphaBeta(0.2, 0.7)
torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
head, teacher = torch.nn.Linear(4, 11), torch.randn(11, 5)
hidden, teacher_hidden = torch.randn(2, 6, 4), torch.randn(2, 6, 5)


def loss(rank: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return linear_divergence_loss(
        hidden[rank], weight, HiddenTargets(teacher_hidden[rank], teacher), D, student_bias=bias
    )


whole = [head.weight.detach().clone().requires_grad_(), head.bias.detach().clone().requires_grad_()]
expected = torch.autograd.grad((loss(0, *whole) + loss(1, *whole)) / 2, whole)


def check(weight: torch.Tensor, bias: torch.Tensor) -> None:
    loss(dist.get_rank(), weight, bias).backward()
    for parameter, gradient in zip((weight, bias), expected, strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), gradient, rtol=1e-5, atol=1e-7)


mesh = init_device_mesh("cpu", (2,))
for spread in (Shard(0), Replicate()):
    check(*(distribute_tensor(value.detach(), mesh, [spread]).requires_grad_() for value in whole))
fully_shard(head)
check(head.weight, head.bias)
dist.destroy_process_group()
# gloo's threads may abort while the interpreter ends (pytorch issue 190489); after FSDP2 they outlive their group
os._exit(0)
