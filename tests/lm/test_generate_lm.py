"""Writing texts with a model: batched, ended by EOS alone, mixed with the teacher; and the texts that are kept."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import torch

from abkd.lm._batch import own_batch, prompts_of
from abkd.lm._decoding import Decoding
from abkd.lm._generate import cut_after_end, write_texts
from abkd.lm._replay import ReplayBuffer
from abkd.lm._student_settings import Sampling


def test_eos_in_a_prompt_ends_nothing() -> None:
    batch = own_batch([[0, 5, 0], [7]], [[4, 0], [9, 9, 9]], 0, "cpu")
    assert batch["input_ids"].tolist() == [[0, 5, 0, 4, 0], [7, 9, 9, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 4, 0], [-100, 9, 9, 9, -100]]
    assert prompts_of(batch) == [[0, 5, 0], [7]]
    ids, ones = torch.tensor([[0, 0, 5, 8], [4, 0, 6, 9]]), torch.ones(2, 4, dtype=torch.long)
    left = {"input_ids": ids, "labels": torch.tensor([[-100, -100, -100, 8], [-100, -100, -100, 9]])}
    assert prompts_of({**left, "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])}) == [[0, 5], [4, 0, 6]]
    assert prompts_of({**left, "attention_mask": ones}) == prompts_of(left) == [[0, 0, 5], [4, 0, 6]]
    assert cut_after_end([3, 0, 0], [0]) == [3, 0]
    assert cut_after_end([3, 4], [0]) == [3, 4]


def test_batched_writing_is_that_of_each_prompt_alone(student: Any) -> None:
    prompts = [[5, 6, 7, 8, 9], [10], [11, 12]]
    greedy = Sampling(generation_temperature=1e-4, max_new_tokens=5)
    options: dict[str, Any] = {"pad": 1, "ends": [0], "vocabulary": 320}
    together = write_texts(student, prompts, greedy.decoding(), **options)
    assert together == [write_texts(student, [prompt], greedy.decoding(), **options)[0] for prompt in prompts]


def test_padding_of_the_vocabulary_is_never_written(student: Any) -> None:
    hot = Sampling(generation_temperature=100.0, max_new_tokens=40)
    written = write_texts(student, [[5]] * 8, hot.decoding(), pad=1, ends=[0], vocabulary=20)
    assert max(token for row in written for token in row) < 20


def test_the_models_own_generation_settings_do_not_apply_and_stay(student: Any) -> None:
    student.generation_config.min_p = 0.999  # nearly greedy
    short = Sampling(max_new_tokens=3).decoding()
    written = write_texts(student, [[5]] * 16, short, pad=1, ends=[0], vocabulary=320)
    assert len({tuple(row) for row in written}) > 8
    assert student.generation_config.min_p == 0.999


def test_no_pair_of_tokens_comes_twice_where_it_is_asked_for(student: Any) -> None:
    prompt = [5, 6, 7, 5, 8]
    most: dict[int, int] = {}
    for size in (2, 0):
        greedy = Decoding(temperature=0.0, max_new_tokens=60, no_repeat_ngram_size=size)
        text = prompt + write_texts(student, [prompt], greedy, pad=1, ends=[], vocabulary=320)[0]
        most[size] = max(Counter(pairwise(text)).values())
        assert len(text) == 65
    assert most[2] == 1 < most[0]


def test_top_p_and_top_k_draw_from_the_most_probable_alone(student: Any) -> None:
    prompt, count = [20, 21, 22], 400
    with torch.no_grad():
        student.get_output_embeddings().weight.mul_(2)
        probabilities = student(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    largest, order = probabilities.sort(descending=True)
    nucleus = order[largest.cumsum(-1) - largest < 0.5].tolist()

    def drawn(**options: Any) -> set[int]:
        decoding = Decoding(max_new_tokens=1, no_repeat_ngram_size=0, **options)
        return {row[0] for row in write_texts(student, [prompt] * count, decoding, pad=1, ends=[], vocabulary=320)}

    assert drawn(top_k=3) == set(order[:3].tolist())
    assert 3 < len(nucleus) < 160
    assert drawn(top_p=0.5) <= set(nucleus)
    assert drawn() - set(nucleus)
    assert drawn(top_k=0) - set(order[:50].tolist())


def test_teacher_mix_samples_from_the_mixture(student: Any, teacher: Any) -> None:
    prompt, share, count = [20, 21, 22], 0.6, 4000
    with torch.no_grad():
        for model, scale in ((student, 6.0), (teacher, 6.0)):
            model.get_output_embeddings().weight.mul_(scale)
        probabilities = [model(torch.tensor([prompt])).logits[0, -1].softmax(-1) for model in (student, teacher)]
    expected = (1 - share) * probabilities[0] + share * probabilities[1]
    sampling = Sampling(max_new_tokens=1).decoding()
    written = write_texts(
        student, [prompt] * count, sampling, pad=1, ends=[], vocabulary=320, mixed_with=(teacher, share)
    )
    seen = Counter(row[0] for row in written)
    token = int(expected.argmax())
    deviation = math.sqrt(float(expected[token] * (1 - expected[token])) / count)
    assert abs(seen[token] / count - float(expected[token])) < 4 * deviation
    observed = torch.tensor([seen[number] / count for number in range(320)])
    assert float((observed - expected).abs().sum()) < 0.5 * float((probabilities[0] - expected).abs().sum())


def test_teacher_mix_follows_the_teacher_over_padded_prompts(student: Any, teacher: Any) -> None:
    prompts = [[20, 21, 22, 23], [30]]
    sampling = Sampling(max_new_tokens=5).decoding()
    with torch.no_grad():
        teacher.get_output_embeddings().weight.mul_(300)  # nearly greedy
    written = write_texts(student, prompts, sampling, pad=1, ends=[], vocabulary=320, mixed_with=(teacher, 0.999999))
    greedy = Sampling(generation_temperature=1e-4, max_new_tokens=5).decoding()
    for prompt, row in zip(prompts, written, strict=True):
        assert row == write_texts(teacher, [prompt], greedy, pad=1, ends=[], vocabulary=320)[0]


def test_replay_keeps_the_newest_and_survives_a_checkpoint() -> None:
    buffer = ReplayBuffer(3)
    buffer.add([([number], [number, 0]) for number in range(5)])
    other = ReplayBuffer(3)
    other.load(buffer.tensors())
    drawn = other.draw(50, random.Random(0))
    assert {text[0][0] for text in drawn} == {2, 3, 4}
    assert all(response == [prompt[0], 0] for prompt, response in drawn)
    empty = ReplayBuffer(2)
    empty.load(ReplayBuffer(2).tensors())
    assert len(empty) == 0
