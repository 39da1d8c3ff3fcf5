"""The teacher cache: what it keeps, that it answers for the right text, and what it loses."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import pytest
import torch
from cache_toys import build, collated, dense, live_log_probs
from torch import Tensor

from abkd import AlphaBeta, ForwardKL, ReverseKL, divergence_loss
from abkd.errors import InputError
from abkd.lm.data import tokenise
from abkd.lm.evaluation import cache_loss
from abkd.losses import SparseTargets, linear_divergence_loss
from abkd.teachers import LmCache
from abkd.teachers._lm_cache_build import KEY, POSITIONS, measured
from abkd.teachers._lm_cache_codec import decode, encode
from abkd.teachers._lm_cache_select import Asker, Rule, select


@pytest.fixture
def rows(instructions: Any, tokenizer: Any) -> Any:
    return tokenise(instructions, tokenizer)


# What is kept, and how exactly.


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 8e-2), (16, 1e-3)])
def test_everything_kept_is_the_live_teacher_to_the_stated_tolerance(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, bits: int, tolerance: float
) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=lm_toys.VOCABULARY, bits=bits)
    batch = collated([rows[3], rows[0], rows[11]])
    targets, live = cache.targets_for(batch), live_log_probs(teacher, batch)
    assert torch.isneginf(targets.log_tail).all()
    error = (dense(targets) - live).abs().max()
    assert error <= cache.summary["largest_log_prob_error"] + 1e-5 < tolerance
    student = torch.randn(live.shape)
    for d in (ForwardKL(), ReverseKL(), AlphaBeta(0.2, 0.7)):
        one = divergence_loss(student, live, d)
        other = linear_divergence_loss(student, torch.eye(lm_toys.VOCABULARY), targets, d)
        assert float(other) == pytest.approx(float(one), rel=tolerance)


def test_entries_and_tail_make_up_one_and_entries_are_the_rule_s(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    batch = collated([rows[1], rows[2]])
    live = live_log_probs(teacher, batch)
    kept = {
        "k": build(rows, teacher, tokenizer, tmp_path / "k", top_k=5),
        "tail": build(rows, teacher, tokenizer, tmp_path / "tail", tail_mass=0.3),
        "least": build(rows, teacher, tokenizer, tmp_path / "least", min_probability=0.01),
        "both": build(rows, teacher, tokenizer, tmp_path / "both", min_probability=0.01, top_k=9),
        "floor": build(rows, teacher, tokenizer, tmp_path / "floor", min_probability=0.01, min_entries=30),
    }
    for cache in kept.values():
        targets = cache.targets_for(batch)
        total = targets.log_probs.exp().sum(-1) + targets.log_tail.exp()
        torch.testing.assert_close(total, torch.ones_like(total))
        chosen = dense(targets).isfinite()
        torch.testing.assert_close(dense(targets)[chosen], live[chosen], atol=2e-2, rtol=0)
        tail = live.masked_fill(chosen, -torch.inf).logsumexp(-1)
        torch.testing.assert_close(targets.log_tail, tail, atol=1e-3, rtol=1e-3)
        assert cache.summary["entries_per_token"] >= 1
    counts = {name: (cache.targets_for(batch).ids >= 0).sum(-1) for name, cache in kept.items()}
    assert (counts["k"] == 5).all()
    order = live.exp().sort(-1, descending=True).values.cumsum(-1)
    fewest = (order < 0.7).sum(-1) + 1
    assert (counts["tail"] - fewest).abs().max() <= 1
    assert torch.equal(counts["least"], (live.exp() >= 0.01).sum(-1).clamp(min=1))
    assert torch.equal(counts["both"], counts["least"].clamp(max=9))
    assert torch.equal(counts["floor"], counts["least"].clamp(min=30))
    usual = build(rows, teacher, tokenizer, tmp_path / "usual").targets_for(batch)
    assert torch.equal((usual.ids >= 0).sum(-1), (live.exp() >= 0.0015).sum(-1).clamp(min=32))


@pytest.mark.parametrize("bits", [4, 5, 7, 8, 16])
@pytest.mark.parametrize("vocabulary", [2, 3, 300, 20_000])
def test_codec_round_trip(bits: int, vocabulary: int) -> None:
    for scale in (0.0, 3.0, 40.0):
        logits = scale * torch.randn(9, vocabulary)
        for rule in (Rule(top_k=2), Rule(min_probability=0.01), Rule(tail_mass=0.2), Rule(top_k=vocabulary)):
            if rule.tail_mass and vocabulary > 1000 and scale < 1:
                continue  # tens of thousands of entries a token
            form = rule.form(vocabulary, bits, None)
            targets = select(logits, rule, form)
            if not form.dense:
                parts = [
                    SparseTargets(targets.ids[i], targets.log_probs[i], targets.log_tail[i])
                    for i in (slice(0, 4), slice(4, 9))
                ]
                columns = [encode(part, form) for part in parts]
            else:
                columns = [encode(targets, form)]
            back = decode(columns, form, 1.0)
            kept = dense(targets, vocabulary).isfinite()
            assert torch.equal(dense(back, vocabulary).isfinite(), kept)
            span = float((-dense(targets, vocabulary)[kept]).max())
            error = (dense(back, vocabulary) - dense(targets, vocabulary))[kept].abs()
            near = dense(targets, vocabulary)[kept] > -60
            assert float(error[near].max()) <= form.largest_error(min(span, 64)) + 2e-3
            assert torch.equal(torch.isneginf(back.log_tail), torch.isneginf(targets.log_tail))


def test_codec_keeps_ruled_out_classes_and_power_tails() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0], [3.0, -torch.inf, 0.0, 0.0]])
    rule = Rule(top_k=4)
    form = rule.form(4, 8, None)
    back = decode([encode(select(logits, rule, form), form)], form, 1.0)
    assert form.dense
    assert torch.equal(torch.isneginf(dense(back, 4)), torch.isneginf(logits))
    rule = Rule(top_k=1)
    form = rule.form(4, 8, 2.0)
    targets = select(torch.randn(5, 4), rule, form)
    back = decode([encode(targets, form)], form, 1.0)
    assert back.power == 2.0
    assert torch.equal(back.log_power_tail, targets.log_power_tail)


def test_temperature_and_padded_vocabulary(rows: Any, tokenizer: Any, tmp_path: Path) -> None:
    teacher = lm_toys.frozen(lm_toys.tiny_model(seed=2, vocabulary=lm_toys.VOCABULARY + 16))
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=lm_toys.VOCABULARY, temperature=2.0, bits=16)
    batch = collated([rows[1]])
    keep = batch["labels"][:, 1:] != -100
    logits = teacher(input_ids=batch["input_ids"]).logits[:, :-1][keep][:, : lm_toys.VOCABULARY]
    targets = cache.targets_for(batch)
    assert cache.vocabulary == lm_toys.VOCABULARY
    assert (cache.temperature, targets.temperature) == (2.0, 2.0)
    torch.testing.assert_close(dense(targets), (logits / 2).log_softmax(-1), atol=1e-3, rtol=0)


def test_models_without_logits_to_keep_are_asked_alike(rows: Any, teacher: Any, tokenizer: Any) -> None:
    from abkd.teachers._token_rows import row_of

    rule = Rule(top_k=8)
    form = rule.form(lm_toys.VOCABULARY, 8, None)
    asker = Asker(teacher, rule, form)
    some = [row_of(rows[index]) for index in (0, 5)]
    with_it = asker.ask(some)
    asker._keeps = False
    for one, other in zip(with_it, asker.ask(some), strict=True):
        torch.testing.assert_close(one.log_probs, other.log_probs)
        torch.testing.assert_close(one.log_tail, other.log_tail)


# Content decides, not order.


def test_rows_are_found_by_content_whatever_the_order_padding_or_packing(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    build(rows, teacher, tokenizer, tmp_path / "c", top_k=lm_toys.VOCABULARY)
    cache = LmCache.open(tmp_path / "c")
    shuffled = rows.shuffle(seed=3)
    for start in (0, 5, 20):
        picked = [shuffled[start + offset] for offset in range(4)]
        batch = collated(picked)
        torch.testing.assert_close(dense(cache.targets_for(batch)), live_log_probs(teacher, batch), atol=3e-2, rtol=0)
        alone = torch.cat([dense(cache.targets_for(collated([row]))) for row in picked])
        torch.testing.assert_close(dense(cache.targets_for(batch)), alone)
        packed = collated(picked, padding_free=True)
        torch.testing.assert_close(dense(cache.targets_for(packed)), alone)
        left = {name: torch.flip(value, [1]) for name, value in batch.items()}
        real = left["attention_mask"].bool()
        for name in left:  # the same texts, padded on the left
            for line in range(4):
                left[name][line, real[line]] = batch[name][line, batch["attention_mask"][line].bool()]
        torch.testing.assert_close(dense(cache.targets_for(left)), alone)


def test_fewer_counted_tokens_are_a_part_of_the_row(rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=6)
    batch = collated([rows[4]])
    whole = cache.targets_for(batch)
    batch["labels"][0, batch["labels"][0].ne(-100).nonzero()[:3, 0]] = -100
    part = cache.targets_for(batch)
    assert torch.equal(part.ids, whole.ids[3:])
    batch["labels"][:] = batch["input_ids"]
    with pytest.raises(InputError, match="not all of its tokens that count"):
        cache.targets_for(batch)
    batch["labels"][:] = -100
    assert cache.targets_for(batch).shape == (0,)


def test_a_changed_text_is_refused_never_answered_for(rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=6)
    batch = collated([rows[4], rows[5]])
    batch["input_ids"][1, 0] += 1
    with pytest.raises(InputError, match="not in the teacher cache"):
        cache.targets_for(batch)
    packed = collated([rows[4], rows[5]], padding_free=True)
    packed["labels"][0, packed["position_ids"][0].eq(0)] = 5
    with pytest.raises(InputError, match="first of a packed text"):
        cache.targets_for(packed)


def test_rows_keep_their_own_columns_and_datasets_reads_the_folder(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c")
    loaded = datasets.load_from_disk(str(tmp_path / "c"))
    for data in (cache.dataset, loaded):
        for name in rows.column_names:
            assert list(data[name]) == list(rows[name])
    assert len(cache) == len(rows)
    assert "bytes/token" in repr(cache)
    tokens = sum(label != -100 for labels in rows["labels"] for label in labels[1:])
    assert cache.summary["tokens"] == tokens
    files = sum(file.stat().st_size for file in (tmp_path / "c" / "parts").rglob("*.arrow"))
    assert cache.summary["bytes_per_token"] * tokens < files


@pytest.mark.parametrize("options", [{"top_k": 5}, {"min_probability": 0.008}, {"top_k": 5, "power": 0.9}])
def test_the_summary_is_what_the_files_hold(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c", **options)
    targets = cache.targets_for(collated(list(rows)))
    entries, mass = (targets.ids >= 0).sum(-1).double(), targets.log_tail.double().exp()
    assert cache.summary["entries_per_token"] == pytest.approx(float(entries.mean()), rel=1e-9)
    assert cache.summary["tail_mass"] == pytest.approx(float(mass.mean()), rel=1e-6)
    assert 0.05 < cache.summary["tail_mass"] < 0.99
    assert cache.summary["bytes_per_token"] == pytest.approx(bytes_of(cache) / len(entries), rel=0.02)


def test_one_flat_position_does_not_make_the_summary_take_a_rectangle() -> None:
    vocabulary = 4096
    rule = Rule(min_probability=1e-5)
    form = rule.form(vocabulary, 6, None)
    flat, sure = torch.zeros(1, vocabulary), 30.0 * torch.eye(vocabulary)[:999]
    columns = [encode(select(logits, rule, form), form) for logits in (flat, sure)]
    data = datasets.Dataset.from_dict(
        {KEY: [b"0" * 16] * 2, POSITIONS: [b""] * 2, **{name: [row[name] for row in columns] for name in form.columns}}
    )
    tracemalloc.start()
    summary = measured(data, form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (summary["tokens"], summary["entries_per_token"]) == (1000, (vocabulary + 999) / 1000)
    assert peak < 1000 * vocabulary


def test_a_large_vocabulary_takes_the_bytes_that_the_formula_says(rows: Any, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.add_tokens([f"<more {number}>" for number in range(20_000 - lm_toys.VOCABULARY)])
    teacher = lm_toys.frozen(lm_toys.tiny_model(seed=2, layers=1, vocabulary=20_000))
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=50, bits=6)
    tokens, read = cache.summary["tokens"], sum(len(ids) for ids in rows["input_ids"])
    texts = (44 * len(rows) + read / 8) / tokens
    formula = 4 + 50 / 8 * (6 + math.log2(20_000 / 50) + 2)
    assert cache.vocabulary == 20_000
    assert bytes_of(cache) / tokens == pytest.approx(formula + texts, rel=0.05)
    assert cache.summary["bytes_per_token"] == pytest.approx(bytes_of(cache) / tokens, rel=0.02)


def bytes_of(cache: LmCache) -> int:
    """What Arrow holds of the teacher's columns."""
    own = [name for name in cache.dataset.column_names if name.startswith("teacher_")]
    return int(cache.dataset.select_columns(own).data.nbytes)


# What it loses.


def test_what_a_cache_loses_is_measured(rows: Any, teacher: Any, student: Any, tokenizer: Any, tmp_path: Path) -> None:
    whole = build(rows, teacher, tokenizer, tmp_path / "whole", top_k=lm_toys.VOCABULARY, bits=16)
    small = build(rows, teacher, tokenizer, tmp_path / "small", top_k=40)
    exact = cache_loss(whole, student, teacher, rows, ForwardKL())
    lost = cache_loss(small, student, teacher, rows, ForwardKL())
    assert abs(exact.bias) < 1e-4
    assert exact.gradient_error < 1e-3
    assert lost.live == pytest.approx(exact.live, rel=1e-6)
    assert lost.cached < lost.live  # the tail as one class is a lower bound
    assert -0.9 < lost.bias < -0.01
    assert lost.gradient_error > exact.gradient_error
    assert lost.tokens == small.summary["tokens"]
    with pytest.raises(InputError, match="another teacher"):
        cache_loss(whole, student, student, rows, ForwardKL())


def test_a_cache_of_the_power_loses_less_and_is_used_without_being_asked(
    rows: Any, teacher: Any, student: Any, tokenizer: Any, tmp_path: Path
) -> None:
    d = AlphaBeta(0.2, 0.7)
    plain = build(rows, teacher, tokenizer, tmp_path / "plain", top_k=20, bits=16)
    powered = build(rows, teacher, tokenizer, tmp_path / "powered", top_k=20, bits=16, power=0.9)
    losses = [cache_loss(cache, student, teacher, rows, d) for cache in (plain, powered)]
    assert losses[0].bias < losses[1].bias < 0


def test_masses_of_another_temperature_are_not_told(rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "warm", top_k=20, temperature=2.0)
    settings = {"temperature": 2.0, "teacher_cache": cache}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, lm_toys.tiny_model(seed=1, layers=1), None, **settings)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert "agreement" in logged
    assert "teacher_mass" not in logged


# Training.


@pytest.mark.parametrize(("power", "tail"), [(None, "bucket"), (0.9, "power-bucket")])
def test_the_trainer_compares_the_tail_as_one_class(
    rows: Any, student: Any, teacher: Any, tokenizer: Any, tmp_path: Path, power: float | None, tail: Any
) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=5, power=power)
    options: dict[str, Any] = {"alpha": 0.2, "beta": 0.7, "teacher_cache": cache}
    trainer = lm_toys.make_trainer(tmp_path / "run", tokenizer, student, None, **options)
    batch = lm_toys.batch_of(trainer)
    loss = float(trainer.mean_loss(trainer.model, batch)[0].detach())
    logits, targets = live_log_probs(trainer.model, batch), cache.targets_for(batch)
    expected = {
        name: float(linear_divergence_loss(logits, torch.eye(320), targets, AlphaBeta(0.2, 0.7), tail=name))
        for name in (tail, "renormalise")
    }
    assert loss == pytest.approx(expected[tail], rel=1e-4)
    assert abs(loss - expected["renormalise"]) > 0.1 * expected[tail]


def test_training_from_everything_kept_is_training_from_the_live_teacher(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    cache = build(rows, teacher, tokenizer, tmp_path / "c", top_k=lm_toys.VOCABULARY, bits=16)
    students: list[dict[str, Tensor]] = []
    losses: list[list[float]] = []
    options = {"method": "abkd", "alpha": 0.2, "beta": 0.7, "seed": 4, "optim": "sgd", "learning_rate": 0.1}
    for live, given in ((teacher, {}), (None, {"teacher_cache": cache})):
        student = lm_toys.tiny_model(seed=1, layers=1)
        trainer = lm_toys.make_trainer(tmp_path / "run", tokenizer, student, live, **options, **given)
        trainer.train()
        students.append(dict(student.state_dict()))
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for name, value in students[0].items():
        torch.testing.assert_close(students[1][name], value, atol=2e-4, rtol=1e-3)
