"""No tensor of tokens x vocabulary is ever made: every tensor that torch hands out is looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linear_toys import Toy, toy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import abkd
from abkd.losses import SparseTargets, _backend, _rows, _walk
from abkd.losses._linear import _default_chunk

TOKENS, CLASSES, WIDTH = 64, 600, 8


class Largest(TorchDispatchMode):
    """The most elements of any tensor (of this dtype) that comes out of an operation."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype, self.elements = dtype, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self.dtype in (None, leaf.dtype):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def watched(t: Toy, d: abkd.Divergence, targets: Any, **options: Any) -> int:
    options = {"chunk_size": 8, "backend": "eager", **options}
    with Largest() as largest:
        loss = t.fused(d, targets, **options)
        (loss if loss.dim() == 0 else loss.sum()).backward()
    return largest.elements


@pytest.fixture
def small() -> Toy:
    t = toy((TOKENS,), CLASSES, WIDTH, dtype=torch.float32)
    t.options = {"labels": t.labels, "ce_weight": 0.5}
    return t


LIMIT = TOKENS * CLASSES // 4  # blocks of 8 of 64 tokens, and the head (600 x 8) and its gradient, stay far below


@pytest.mark.parametrize("d", abkd.divergences.ALL, ids=lambda d: d.key)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_hidden_targets(small: Toy, d: abkd.Divergence, reduction: str) -> None:
    assert CLASSES * 8 <= watched(small, d, small.hidden_targets(), reduction=reduction) < LIMIT


@pytest.mark.parametrize("tail", ["bucket", "renormalise", "proportional"])
def test_sparse_targets(small: Toy, tail: str) -> None:
    targets = SparseTargets.from_logits(small.teacher_logits, 4)
    assert watched(small, abkd.ForwardKL(), targets, tail=tail) < LIMIT


def test_tiles_hold_no_block_either(small: Toy) -> None:
    assert watched(small, abkd.ForwardKL(), small.hidden_targets(), vocab_chunk_size=50) <= CLASSES * WIDTH


def test_the_watch_sees_what_it_should(small: Toy) -> None:
    with Largest() as largest:
        small.plain(abkd.ForwardKL(), torch.float32).backward()
    assert largest.elements >= TOKENS * CLASSES


class Products(TorchDispatchMode):
    """How many matrix products torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("vocab_chunk_size", [None, CLASSES // 2])
def test_a_gradient_that_nobody_asked_for_costs_no_product_and_no_buffer(vocab_chunk_size: int | None) -> None:
    tokens, blocks, tiles = 4, 2, 1 if vocab_chunk_size is None else 2
    options: dict[str, Any] = {"chunk_size": tokens // blocks, "vocab_chunk_size": vocab_chunk_size}
    t = toy((tokens,), CLASSES, 64, dtype=torch.bfloat16, bias=False)

    def costs() -> tuple[int, int]:
        with Products() as products, Largest(torch.float32) as largest:
            t.fused(abkd.ForwardKL(), backend="eager", **options)
        return products.count, largest.elements

    products, buffer = costs()
    assert buffer == CLASSES * 64
    t.weight.requires_grad_(False)
    without_head, buffer = costs()
    assert products - without_head == blocks * tiles
    assert buffer < CLASSES * 64
    t.hidden.requires_grad_(False)
    value_alone, _ = costs()
    assert without_head - value_alone >= blocks * tiles  # tiles are walked once less, too


@pytest.mark.parametrize("case", ["eager", "fallen back", "sparse"])
def test_plain_operations_take_a_few_rows_on_every_device(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """A GPU's rows, on the CPU: what is float32 is no block of tokens, whatever the block."""
    rows, gpu = _rows.rows_in_a_pass, torch.device("cuda")
    assert rows(152_000, gpu) * 152_000 <= 1 << 24 < (rows(152_000, gpu) + 1) * 152_000
    assert rows(1 << 25, gpu) == 1
    monkeypatch.setattr(_rows, "_LOGITS_ON_DEVICE", 3 * CLASSES)
    monkeypatch.setattr(_rows, "rows_in_a_pass", lambda classes, _: rows(classes, gpu))
    monkeypatch.setattr(_walk, "rows_at_once", lambda job, _: job.chunk_size)
    t = toy((TOKENS,), CLASSES, 2, dtype=torch.bfloat16, bias=False)
    targets: Any = t.hidden_targets()
    options: dict[str, Any] = {"labels": t.labels, "ce_weight": 0.5, "chunk_size": TOKENS, "backend": "eager"}
    if case == "fallen back":
        monkeypatch.setattr(_backend, "_failed", ["no compiler today"])
        monkeypatch.setattr(_backend, "_choice", lambda *_: ("compiled", "for the test"))
        options["backend"] = None
    elif case == "sparse":
        targets = SparseTargets.from_logits(t.teacher_logits.float(), 4)
    with Largest(torch.float32) as largest:
        t.fused(abkd.ForwardKL(), targets, **options)
    assert largest.elements == 3 * CLASSES


def test_blocks_that_nobody_chose_are_small_too() -> None:
    classes = 170_000
    t = toy((100,), classes, 2, dtype=torch.float32, bias=False)
    assert watched(t, abkd.ForwardKL(), t.hidden_targets(), chunk_size=None) <= 64 * classes < 100 * classes
    chunk = _default_chunk(torch.empty(1, 576), 49_152)
    assert 64 <= chunk < 4096
    assert 2 * chunk * 49_152 * 4 <= 160 << 20
