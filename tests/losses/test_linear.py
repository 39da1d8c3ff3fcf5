"""The fused loss against materialised float64 logits: values, gradients, options, and the walk itself."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_toys import Toy, assert_same, gradients, toy
from torch.distributed.tensor import Replicate, Shard

import abkd
from abkd import AlphaBeta, ForwardKL, linear_divergence_loss
from abkd.divergences import ALL
from abkd.losses import DenseTargets, HiddenTargets, SparseTargets

D = AlphaBeta(0.2, 0.7)
members = pytest.mark.parametrize("d", ALL, ids=lambda d: d.key)


@members
@pytest.mark.parametrize("kind", ["hidden", "dense", "sparse"])
def test_value_and_gradients_of_every_member_and_kind_of_target(d: abkd.Divergence, kind: str) -> None:
    t = toy()
    t.options = {"mask": t.mask, "labels": t.labels, "ce_weight": 0.3, "kd_weight": 0.7, "chunk_size": 8}
    targets = {
        "hidden": t.hidden_targets(),
        "dense": t.dense_targets(),
        "sparse": SparseTargets.from_logits(t.teacher_logits, t.weight.shape[0]),
    }[kind]
    assert_same(t.fused(d, targets), t.plain(d), t.inputs, 1e-10)


@members
def test_temperature_softcap_and_scale(d: abkd.Divergence) -> None:
    t = toy()
    t.options = {
        "temperature": 2.0,
        "labels": t.labels,
        "ce_weight": 0.3,
        "softcap": 4.0,
        "logit_scale": 0.7,
        "chunk_size": 8,
    }
    assert_same(t.fused(d), t.plain(d), t.inputs, 1e-10)


@pytest.mark.parametrize("classes", [7, 5003, 32001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_is_no_more_than_that_of_materialised_logits(classes: int, dtype: torch.dtype) -> None:
    t = toy((21,), classes, dtype=dtype, bias=False)
    results = [
        (loss.detach(), *gradients(loss, t.inputs))
        for loss in (t.plain(D), t.fused(D, chunk_size=16), t.plain(D, dtype))
    ]
    for true, mine, theirs in zip(*results, strict=True):
        scale = float(true.double().abs().max())
        error, allowed = (float((value.double() - true.double()).abs().max()) / scale for value in (mine, theirs))
        assert error <= allowed + 32 * torch.finfo(torch.float32).eps + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("which", ["no mask", "none", "all", "one"])
def test_masks_and_reductions(reduction: str, which: str) -> None:
    t = toy((3, 5))
    mask = {"no mask": None, "none": torch.zeros(3, 5).bool(), "all": torch.ones(3, 5).bool()}.get(
        which, torch.zeros(3, 5).bool()
    )
    if which == "one":
        mask[1, 2] = True
    t.options = {"mask": mask, "reduction": reduction, "chunk_size": 4}
    got, expected = t.fused(D), t.plain(D)
    assert_same(got, expected, t.inputs, 1e-10)
    if reduction == "none":
        weights = torch.rand(3, 5, dtype=torch.float64)
        for one, other in zip(
            gradients((got * weights).sum(), t.inputs), gradients((expected * weights).sum(), t.inputs), strict=True
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("d", [D, ForwardKL(), abkd.JensenShannon(0.3)], ids=str)
def test_block_size_changes_nothing(d: abkd.Divergence) -> None:
    t = toy()
    t.options = {"labels": t.labels, "ce_weight": 0.3}
    whole = t.fused(d, chunk_size=1000)
    for size in (1, 5, 36, 37, 38):
        assert_same(t.fused(d, chunk_size=size), whole, t.inputs, 1e-12)


@pytest.mark.parametrize("d", [d for d in ALL if d.separable], ids=lambda d: d.key)
def test_tiles_change_nothing(d: abkd.Divergence) -> None:
    t = toy()
    t.options = {
        "labels": t.labels,
        "ce_weight": 0.3,
        "temperature": 2.0,
        "mask": t.mask,
        "softcap": 5.0,
        "chunk_size": 8,
    }
    for targets in (t.hidden_targets(), t.dense_targets()):
        assert_same(t.fused(d, targets, vocab_chunk_size=10), t.fused(d, targets), t.inputs, 1e-10)
    assert_same(t.fused(d, vocab_chunk_size=10, temperature=1.0), t.fused(d, temperature=1.0), t.inputs, 1e-10)


def test_tiles_need_a_sum_over_classes() -> None:
    t = toy()
    with pytest.raises(abkd.InputError, match="not a sum over classes"):
        t.fused(abkd.Renyi(0.5), vocab_chunk_size=10)
    with pytest.raises(abkd.InputError, match="vocab_chunk_size"):
        t.fused(D, SparseTargets.from_logits(t.teacher_logits, 4), vocab_chunk_size=10)


def test_settings_for_each_token() -> None:
    t = toy((3, 4))
    d = AlphaBeta(torch.rand(3, 1, 1), torch.rand(4, 1))
    t.options = {"mask": t.mask, "chunk_size": 2}
    assert_same(t.fused(d), t.plain(d), t.inputs, 1e-10)


def test_token_weights() -> None:
    t = toy()
    weights = torch.rand(37, dtype=torch.float64)
    weights[3] = 0
    t.options = {"labels": t.labels, "ce_weight": 0.3, "mask": t.mask}
    total = (t.plain(D, reduction="none") * weights).sum()
    assert_same(t.fused(D, token_weights=weights, reduction="sum"), total, t.inputs, 1e-10)
    with pytest.raises(abkd.InputError, match="token_weights"):
        t.fused(D, token_weights=-weights)


def test_eight_steps_of_one_are_one_step_of_eight() -> None:
    t = toy((8, 6))
    t.options = {"labels": t.labels, "ce_weight": 0.3}
    counted = int((t.labels != -100).sum())
    whole = t.fused(D)
    parts = torch.zeros((), dtype=torch.float64)
    for i in range(8):
        targets = HiddenTargets(t.teacher_hidden[i], t.teacher_weight)
        parts = parts + linear_divergence_loss(
            t.hidden[i], t.weight, targets, D, student_bias=t.bias, labels=t.labels[i], ce_weight=0.3,
            num_items_in_batch=torch.tensor(counted),
        )  # fmt: skip
    assert_same(parts, whole, t.inputs, 1e-12)


def test_cross_entropy_alone() -> None:
    t = toy()
    loss = linear_divergence_loss(
        t.hidden, t.weight, None, None, student_bias=t.bias, labels=t.labels, ce_weight=1.0, kd_weight=0.0
    )
    z = t.hidden @ t.weight.T + t.bias
    assert_same(loss, torch.nn.functional.cross_entropy(z, t.labels), t.inputs, 1e-12)


def test_only_the_gradients_asked_for() -> None:
    t = toy()
    t.weight.requires_grad_(False)
    t.bias.requires_grad_(False)
    loss = t.fused(D)
    loss.backward()
    assert t.hidden.grad is not None
    assert t.weight.grad is None
    with torch.no_grad():
        assert not t.fused(D).requires_grad


def test_the_teacher_gets_no_gradient() -> None:
    t = toy()
    t.teacher_weight.requires_grad_()
    assert torch.autograd.grad(t.fused(D), t.teacher_weight, allow_unused=True) == (None,)


def test_a_tied_head() -> None:
    t = toy((6,), bias=False)
    ids = torch.randint(53, (6,))

    def both(fused: bool) -> torch.Tensor:
        hidden = t.weight[ids].tanh()
        if fused:
            return linear_divergence_loss(hidden, t.weight, t.hidden_targets(), D)
        return abkd.divergence_loss(hidden @ t.weight.T, t.teacher_logits, D)

    assert_same(both(True), both(False), (t.weight,), 1e-10)


def test_padded_vocabularies_are_sliced_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """PEERS 1: TRL raises, KDFlow truncates silently, ms-swift copies logits."""
    t = toy(bias=False)
    wide = torch.cat([t.teacher_weight, torch.full((11, 7), 100.0, dtype=torch.float64)])
    targets = HiddenTargets(t.teacher_hidden, wide)
    with caplog.at_level(logging.WARNING, logger="abkd"):
        assert_same(t.fused(D, targets), t.plain(D), t.inputs, 1e-10)
        t.fused(D, targets)
    assert sum("64" in record.message for record in caplog.records) == 1
    true = t.fused(D, targets, vocabulary=40)
    expected = abkd.divergence_loss((t.hidden @ t.weight.T)[:, :40], t.teacher_logits[:, :40], D)
    assert_same(true, expected, t.inputs, 1e-10)
    with pytest.raises(abkd.InputError, match=r"student's head has 53 classes, fewer than the 60"):
        t.fused(D, targets, vocabulary=60)
    with pytest.raises(abkd.InputError, match=r"teacher's head has 53 classes"):
        linear_divergence_loss(t.hidden, torch.zeros(64, 12).double(), t.hidden_targets(), D, vocabulary=60)


def test_temperature_scaling_and_log_floor_and_support() -> None:
    t = toy(bias=False)
    logits = t.teacher_logits.clone()
    logits[:, 3] = -torch.inf
    targets = DenseTargets(logits)
    z = t.hidden @ t.weight.T
    for options in (
        {"log_floor": -5.0},
        {"support": "shared"},
        {"temperature": 3.0, "temperature_scaling": True, "log_floor": -9.0},
    ):
        assert_same(
            t.fused(ForwardKL(), targets, **options),
            abkd.divergence_loss(z, logits, ForwardKL(), **options),
            t.inputs,
            1e-10,
        )


def test_a_capped_teacher_rules_nothing_out_of_a_shared_support() -> None:
    t = toy()
    bias = torch.zeros(53).double()
    bias[7] = -torch.inf
    capped = 5 * torch.tanh((t.teacher_logits + bias) / 5)
    targets = HiddenTargets(t.teacher_hidden, t.teacher_weight, bias, softcap=5.0)
    loss, expected = (t.fused(D, which, support="shared") for which in (targets, DenseTargets(capped)))
    assert_same(loss, expected, t.inputs, 1e-10)


def test_autocast() -> None:
    t = toy((9,), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, each = t.fused(D, chunk_size=2), t.fused(D, chunk_size=2, reduction="none").mean()
    low = Toy(
        *(value.detach().bfloat16().requires_grad_() for value in t.inputs),
        t.teacher_hidden,
        t.teacher_weight,
        t.labels,
        t.mask,
    )
    assert loss == low.fused(D)
    for total in (loss, each):
        for slope, rounded in zip(
            gradients(total, t.inputs), gradients(low.fused(D, chunk_size=2), low.inputs), strict=True
        ):
            assert slope.dtype == torch.float32
            torch.testing.assert_close(slope.bfloat16(), rounded, rtol=0.01, atol=1e-6)
        _, of_weight, of_bias = gradients(total, t.inputs)
        assert not torch.equal(of_weight, of_weight.bfloat16().float()), "what was added up is rounded"
        assert not torch.equal(of_bias, of_bias.bfloat16().float())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
def test_gradient_checkpointing_and_a_compiled_caller() -> None:
    t = toy((9,), dtype=torch.float32)
    expected = t.fused(D)
    again = torch.utils.checkpoint.checkpoint(lambda h: t.fused(D) + 0 * h.sum(), t.hidden, use_reentrant=False)
    assert_same(again, expected, t.inputs, 1e-6)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda h: 2 * linear_divergence_loss(h * 1, t.weight, t.hidden_targets(), D, student_bias=t.bias),
        backend="aot_eager",
    )
    assert_same(compiled(t.hidden), 2 * t.fused(D), t.inputs, 1e-5)


def test_a_sharded_head_is_gathered_once() -> None:
    t = toy(bias=False)

    class Sharded(torch.Tensor):
        """Answers to `full_tensor`, as a DTensor does."""

        gathered = 0
        placements = (Shard(0), Replicate())

        def full_tensor(self, *, grad_placements: Any) -> torch.Tensor:
            Sharded.gathered += 1
            assert [str(placement) for placement in grad_placements] == ["P(avg)", "P(avg)"]
            return t.weight

    loss = linear_divergence_loss(t.hidden, t.weight.detach().as_subclass(Sharded), t.hidden_targets(), D, chunk_size=4)
    assert Sharded.gathered == 1
    assert_same(loss, t.plain(D), t.inputs, 1e-10)


def test_the_gradient_of_a_sharded_head_is_that_of_the_mean_over_ranks() -> None:
    script = Path(__file__).with_name("sharded_head.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]


def test_second_backward_and_scaled_losses() -> None:
    t = toy()
    loss = t.fused(D)
    first = torch.autograd.grad(loss, t.inputs, retain_graph=True)
    again = torch.autograd.grad(3 * loss, t.inputs)
    for one, three in zip(first, again, strict=True):
        torch.testing.assert_close(3 * one, three)
