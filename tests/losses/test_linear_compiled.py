"""The compiled path: the same result as the eager one, and one compilation for the whole (alpha, beta) plane."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from linear_toys import assert_same, toy

import abkd
from abkd import AlphaBeta
from abkd.losses import SparseTargets, _backend, _compiled, _walk

D = AlphaBeta(0.2, 0.7)
pytestmark = pytest.mark.skipif(
    _compiled.missing_for_compiling(torch.device("cpu")) is not None, reason="needs a C++ compiler"
)


def test_one_compilation_for_the_plane() -> None:
    t = toy(dtype=torch.float32, bias=False)
    before = len(_compiled._compiled)
    for alpha, beta in (
        (0.2, 0.7),
        (1.0, 0.0),
        (0.0, 1.0),
        (0.0, 0.0),
        (0.5, 0.5),
        (1.3, 0.4),
        (1.0, 1.0),
        (1e-6, 0.7),
    ):
        d = AlphaBeta(alpha, beta)
        assert_same(t.fused(d, backend="compiled", chunk_size=8), t.plain(d), t.inputs, 3e-5)
    assert len(_compiled._compiled) - before <= 2


def test_with_everything() -> None:
    t = toy((5, 6), dtype=torch.float32)
    t.options = {
        "labels": t.labels,
        "ce_weight": 0.3,
        "temperature": 2.0,
        "softcap": 5.0,
        "logit_scale": 0.7,
        "mask": t.mask,
        "chunk_size": 7,
    }
    per_token = AlphaBeta(torch.rand(5, 6, 1), torch.rand(6, 1))
    assert_same(t.fused(per_token, backend="compiled"), t.plain(per_token), t.inputs, 3e-5)
    assert_same(
        t.fused(per_token, backend="compiled", reduction="none"), t.plain(per_token, reduction="none"), t.inputs, 3e-5
    )


def test_a_member_that_decides_by_a_number_is_compiled_for_each_setting() -> None:
    t = toy(dtype=torch.float32, bias=False)
    for order in (0.5, 1.0):
        assert_same(t.fused(abkd.Renyi(order), backend="compiled"), t.plain(abkd.Renyi(order)), t.inputs, 3e-5)


def test_labels_are_compiled_once() -> None:
    graphs: list[int] = []
    for step in range(3):
        t = toy((10 + step,), dtype=torch.float32)
        t.options = {"labels": t.labels, "ce_weight": 0.3 + step, "chunk_size": 8}
        assert_same(t.fused(D, backend="compiled"), t.plain(D), t.inputs, 3e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] == graphs[2]


def test_half_precision() -> None:
    t = toy(dtype=torch.bfloat16, bias=False)
    d = abkd.JensenShannon(0.3)
    assert_same(t.fused(d, backend="compiled"), t.fused(d, backend="eager"), t.inputs, 0.02)


def test_the_choice_and_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    d, cpu = AlphaBeta(0.2, 0.7), torch.device("cpu")
    _backend._say.cache_clear()
    with caplog.at_level(logging.INFO, logger="abkd"):
        for tokens in (10, 11, 12):
            assert _backend.backend_for(None, cpu, tokens, 100, d)[0] == "eager"
            assert _backend.backend_for(None, cpu, 2048 + tokens, 49152, d)[0] == "compiled"
    assert caplog.text.count("runs eager: this call has fewer than the 16777216 logits") == 1
    assert caplog.text.count("runs compiled") == 1


def test_what_is_never_compiled_is_not_called_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backend, "_WORTH_COMPILING", 1)
    _backend._say.cache_clear()
    t = toy()
    with caplog.at_level(logging.INFO, logger="abkd"):
        t.fused(D, vocab_chunk_size=10)
        t.fused(D, SparseTargets.from_logits(t.teacher_logits, 4))
    assert "runs eager: tiles of the vocabulary" in caplog.text
    assert "runs eager: sparse targets with tail='bucket'" in caplog.text
    assert "compiled" not in caplog.text


def test_an_accelerator_compiles_for_few_numbers_of_tokens() -> None:
    def rows(tokens: int, chunk_size: int = 96, backend: str = "compiled") -> int:
        job: Any = SimpleNamespace(backend=backend, tokens=tokens, chunk_size=chunk_size, classes=100)
        return _walk.rows_at_once(job, torch.device("cuda"))

    assert {rows(tokens) for tokens in range(33, 65)} == {64}
    assert {rows(tokens) for tokens in range(65, 300)} == {96}
    assert (rows(0), rows(1), rows(2), rows(3)) == (1, 1, 2, 4)
    assert rows(65, backend="triton") == 65


def test_a_compiler_that_fails_costs_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(_backend, "compiled_rows", broken)
    monkeypatch.setattr(_backend, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(_backend, "_failed", [])
    t = toy()
    with caplog.at_level(logging.WARNING, logger="abkd"):
        assert_same(t.fused(AlphaBeta(0.2, 0.7)), t.plain(AlphaBeta(0.2, 0.7)), t.inputs, 1e-10)
    assert caplog.text.count("no compiler today") == 1


def test_memory_that_runs_out_is_no_failed_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_backend, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(_backend, "_failed", [])
    monkeypatch.setattr(_compiled, "_numbers_needed", set())
    monkeypatch.setattr(_compiled, "_call", full)
    for backend in (None, "compiled"):
        with pytest.raises(torch.OutOfMemoryError):
            toy().fused(D, backend=backend)
    assert not _backend._failed
    assert not _compiled._numbers_needed
