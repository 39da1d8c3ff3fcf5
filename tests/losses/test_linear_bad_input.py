"""What the fused loss says of arguments that do not fit."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from linear_toys import toy

import abkd
from abkd import AlphaBeta, ForwardKL, linear_divergence_loss
from abkd.losses import DenseTargets, HiddenTargets, SparseTargets
from abkd.losses._backend import Backend

D = AlphaBeta(0.2, 0.7)


def test_heads_that_do_not_fit() -> None:
    t = toy(bias=False)
    with pytest.raises(abkd.InputError, match=r"one width, got 12 and 11"):
        linear_divergence_loss(t.hidden, torch.zeros(53, 11), t.hidden_targets(), D)
    with pytest.raises(abkd.InputError, match=r"teacher head.*7 and 9"):
        HiddenTargets(t.teacher_hidden, torch.zeros(53, 9))
    with pytest.raises(abkd.InputError, match=r"bias: expected 53 values"):
        linear_divergence_loss(t.hidden, t.weight, t.hidden_targets(), D, student_bias=torch.zeros(50))
    with pytest.raises(abkd.InputError, match=r"weight: expected shape \(V, H\)"):
        linear_divergence_loss(t.hidden, t.weight[0], t.hidden_targets(), D)
    with pytest.raises(abkd.InputError, match=r"leading axes \(37,\)"):
        linear_divergence_loss(t.hidden, t.weight, HiddenTargets(t.teacher_hidden[:5], t.teacher_weight), D)


def test_wrong_kinds() -> None:
    t = toy(bias=False)
    with pytest.raises(abkd.InputError, match="token ids"):
        linear_divergence_loss(torch.zeros(4, 12, dtype=torch.long), t.weight, t.hidden_targets(), D)
    with pytest.raises(abkd.InputError, match="expected HiddenTargets, DenseTargets or SparseTargets"):
        linear_divergence_loss(t.hidden, t.weight, t.teacher_logits, D)  # type: ignore[arg-type]
    with pytest.raises(abkd.InputError, match="convert one"):
        linear_divergence_loss(t.hidden, t.weight.float(), t.hidden_targets(), D)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(abkd.InputError, match="leaves float64 as it is"):
        linear_divergence_loss(t.hidden, t.weight.float(), t.hidden_targets(), D)
    with pytest.raises(abkd.InputError, match=r"teacher hidden states are torch\.float64, the head torch\.float32"):
        t.fused(D, HiddenTargets(t.teacher_hidden, t.teacher_weight, torch.zeros(53)))
    with pytest.raises(abkd.InputError, match="write ForwardKL"):
        t.fused(ForwardKL)  # type: ignore[arg-type]
    with pytest.raises(abkd.InputError, match="floating logits"):
        DenseTargets(torch.zeros(3, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "avg"}, "reduction"),
        ({"temperature": 0.0}, "temperature"),
        ({"ce_weight": -1.0}, "ce_weight"),
        ({"ce_weight": 1.0}, "no labels"),
        ({"kd_weight": math.nan}, "kd_weight"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"vocab_chunk_size": -3}, "vocab_chunk_size"),
        ({"vocabulary": 0}, "vocabulary"),
        ({"mask": torch.ones(36).bool()}, "mask"),
        ({"labels": torch.full((37,), 99)}, r"labels: expected values in 0\.\.52"),
        ({"softcap": -1.0}, "softcap"),
        ({"logit_scale": 0.0}, "logit_scale"),
        ({"backend": "gpu"}, "backend"),
        ({"num_items_in_batch": 5, "reduction": "sum"}, "num_items_in_batch"),
        ({"support": "some"}, "support"),
        ({"log_floor": 1.0}, "log_floor"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(abkd.InputError, match=message):
        toy().fused(D, **options)


def test_a_backend_that_this_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(abkd.InputError, match="needs a CUDA device"):
        toy().fused(D, backend="triton")
    monkeypatch.setenv("ABKD_BACKEND", "fast")
    with pytest.raises(abkd.InputError, match="environment variable ABKD_BACKEND"):
        toy().fused(D)
    monkeypatch.setenv("ABKD_BACKEND", "eager")
    toy().fused(D)


@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_a_backend_that_this_call_lacks(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    t = toy()
    sparse = SparseTargets.from_logits(t.teacher_logits, 4)
    with pytest.raises(abkd.InputError, match=f"{backend}.*tiles of the vocabulary know no other path"):
        t.fused(D, vocab_chunk_size=10, backend=backend)
    with pytest.raises(abkd.InputError, match=f"{backend}.*sparse targets with tail='bucket' know no other path"):
        t.fused(D, sparse, backend=backend)
    monkeypatch.setenv("ABKD_BACKEND", backend)  # speaks of all calls, so these two give way
    assert torch.equal(t.fused(D, vocab_chunk_size=10), t.fused(D, vocab_chunk_size=10, backend="eager"))
    assert torch.equal(t.fused(D, sparse), t.fused(D, sparse, backend="eager"))


def test_triton_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "triton" or name.startswith("abkd.losses.tri")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)  # an import raises ModuleNotFoundError
    with pytest.raises(abkd.InputError, match="the package triton is missing"):
        toy().fused(D, backend="triton")
    monkeypatch.setenv("ABKD_BACKEND", "triton")
    with pytest.raises(abkd.InputError, match="the package triton is missing"):
        toy().fused(D)


@pytest.mark.parametrize("tiles", [None, 10])
def test_nan_and_infinite_divergences_name_the_token(tiles: int | None) -> None:
    t = toy((4, 5), bias=False)
    with torch.no_grad():
        t.hidden[2, 1, 0] = math.nan
    with pytest.raises(abkd.InputError, match=r"student_logits.*nan at token index \(2, 1\)"):
        t.fused(D, vocab_chunk_size=tiles, chunk_size=3)
    mask = torch.ones(4, 5).bool()
    mask[2, 1] = False
    loss = t.fused(D, vocab_chunk_size=tiles, mask=mask)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss, (t.weight,)))

    bias = torch.zeros(53).double()
    bias[7] = -torch.inf
    with pytest.raises(abkd.InfiniteDivergenceError, match=r"token index \(0, 0\).*student rules out class 7"):
        linear_divergence_loss(
            t.hidden, t.weight, t.hidden_targets(), ForwardKL(), student_bias=bias, mask=mask, vocab_chunk_size=tiles
        )


def test_a_label_that_the_student_rules_out() -> None:
    t = toy((4,), bias=False)
    bias = torch.zeros(53).double()
    bias[7] = -torch.inf
    with pytest.raises(abkd.InfiniteDivergenceError, match=r"cross-entropy is infinite at token index 2.*label 7"):
        linear_divergence_loss(
            t.hidden,
            t.weight,
            None,
            None,
            student_bias=bias,
            kd_weight=0.0,
            ce_weight=1.0,
            labels=torch.tensor([1, 2, 7, 3]),
        )
    logits = torch.zeros(4, 53).double()
    logits[:, 7] = -torch.inf
    with pytest.raises(abkd.InfiniteDivergenceError, match=r"cross-entropy is infinite at token index 2.*label 7"):
        linear_divergence_loss(
            t.hidden,
            t.weight,
            SparseTargets.from_logits(logits, 3),
            ForwardKL(),
            student_bias=bias,
            ce_weight=1.0,
            labels=torch.tensor([1, 2, 7, 3]),
            tail="proportional",
        )
