"""Evaluation: scores against cases worked out by hand, decoding, seeds, files, and held-out text."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import pytest
import torch

from abkd.errors import InputError
from abkd.lm.data import alpaca_prompt, prompt_ids, read_alpaca, tokenise
from abkd.lm.evaluation import (
    SEEDS,
    Decoding,
    Response,
    RougeL,
    SeedResult,
    SetResult,
    bootstrap_interval,
    distinct,
    evaluate,
    exact_match,
    held_out,
    mean_and_error,
    normalised,
    write_responses,
)
from abkd.lm.evaluation import _evaluate as module

SHORT = Decoding(max_new_tokens=8, max_prompt_length=200)

# Scores. Each case: what was written, the references, and the score worked out by hand.

ROUGE_CASES = [
    ("the cat sat", ["the cat sat"], 100.0),
    ("The CAT, sat!", ["the cat sat"], 100.0),  # case and punctuation do not count
    ("the cat sat on the mat", ["the cat is on the mat"], 100 * 5 / 6),  # LCS 5 of 6 and 6
    ("cat sat", ["the cat sat down"], 100 * 2 / 3),  # LCS 2: precision 1, recall 1/2
    ("police killed the gunman", ["the gunman police killed"], 50.0),  # order counts: LCS 2 of 4 and 4
    ("he was running", ["he was runs"], 100.0),  # stems of words of more than three letters
    ("dogs", ["dog"], 100.0),
    ("one two", ["three four"], 0.0),
    ("", ["a word"], 0.0),
    ("a b c d", ["a x y z", "a b x y", "q"], 50.0),  # the best of several references
]


@pytest.mark.parametrize(("text", "references", "score"), ROUGE_CASES)
def test_rouge_l_by_hand(text: str, references: list[str], score: float) -> None:
    assert RougeL()(text, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "references", "score"),
    [
        ("Yes.", ["yes"], 100.0),
        ("  Paris,\n France! ", ["paris france"], 100.0),
        ("the answer", ["answer"], 0.0),  # articles are kept
        ("it's", ["its"], 100.0),
        ("4", ["3", "4"], 100.0),
        ("", ["..."], 100.0),
        ("no", ["yes", "no way"], 0.0),
    ],
)
def test_exact_match_by_hand(text: str, references: list[str], score: float) -> None:
    assert exact_match(text, references) == score


def test_normalised_and_missing_references() -> None:
    assert normalised("  The  (big)\tDOG's. ") == "the big dogs"
    for scored in (RougeL(), exact_match):
        for references in ([], "a text"):
            with pytest.raises(InputError, match="at least one reference"):
                scored("x", references)


def test_distinct_by_hand() -> None:
    assert distinct(["a a b"], 1) == pytest.approx(2 / 3)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)  # ab ba ab, ab
    assert distinct(["a"], 2) == 0.0
    assert distinct([], 1) == 0.0
    with pytest.raises(InputError, match="at least 1, got 0"):
        distinct(["a"], 0)


def test_means_errors_and_intervals() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(4.0)
    assert error == pytest.approx(statistics.stdev(values) / 2)
    assert mean_and_error([3.0]) == (3.0, None)
    low, high = bootstrap_interval(values * 50)
    wide = 1.96 * statistics.pstdev(values) / math.sqrt(200)
    assert low == pytest.approx(4 - wide, abs=0.1)
    assert high == pytest.approx(4 + wide, abs=0.1)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval([5.0, 5.0]) == (5.0, 5.0)
    for call in (
        lambda: mean_and_error([]),
        lambda: bootstrap_interval([]),
        lambda: bootstrap_interval([1.0], level=2),
    ):
        with pytest.raises(InputError, match="expected"):
            call()


def test_summary_by_hand() -> None:
    def seed(number: int, *scores: float) -> SeedResult:
        responses = tuple(Response("w " * int(score / 10), int(score), score > 20) for score in scores)
        return SeedResult(number, scores, (0.0, 100.0), responses)

    result = SetResult("x", (seed(10, 10.0, 30.0), seed(20, 20.0, 50.0)))
    found = result.summary()
    assert found["rouge_l"]["mean"] == pytest.approx(27.5)
    assert found["rouge_l"]["standard_error"] == pytest.approx(statistics.stdev([20, 35]) / math.sqrt(2))
    low, high = found["rouge_l"]["interval_95"]
    assert (low, high) == (15.0, 40.0)  # of two examples with means 15 and 40
    assert found["exact_match"] == {"mean": 50.0, "standard_error": 0.0}
    assert found["response_tokens"]["mean"] == pytest.approx(27.5)
    assert found["finished"]["mean"] == pytest.approx(0.5)
    assert found["examples"] == 2


# Writing texts.


def test_the_protocol_is_the_published_one() -> None:
    assert SEEDS == (10, 20, 30, 40, 50)
    assert Decoding() == Decoding(1.0, 1.0, 0, 256, 6, 256)
    for bad in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": 0}, {"max_prompt_length": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Decoding(**bad)


def test_responses_follow_from_seed_and_leave_the_program_alone(student: Any, tokenizer: Any) -> None:
    prompts = [row["prompt"] for row in lm_toys.instruction_rows(5)]
    student.train()
    torch.manual_seed(7)
    first = write_responses(student, tokenizer, prompts, decoding=SHORT, seed=10, batch_size=2)
    after = torch.rand(1)
    assert student.training
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), after)
    assert write_responses(student, tokenizer, prompts, decoding=SHORT, seed=10, batch_size=2) == first
    assert write_responses(student, tokenizer, prompts, decoding=SHORT, seed=20, batch_size=2) != first
    assert all(1 <= response.tokens <= 8 and response.text == response.text.strip() for response in first)


def test_padding_and_batching_change_no_greedy_text_and_model_settings_do_not_apply(
    student: Any, tokenizer: Any
) -> None:
    prompts = [row["prompt"] for row in lm_toys.instruction_rows(4)] + ["a"]
    greedy = Decoding(temperature=0.0, max_new_tokens=12, no_repeat_ngram_size=0, max_prompt_length=200)
    together = write_responses(student, tokenizer, prompts, decoding=greedy, batch_size=5)
    alone = [write_responses(student, tokenizer, [prompt], decoding=greedy)[0] for prompt in prompts]
    assert together == alone
    for prompt, response in zip(prompts, together, strict=True):
        ids = prompt_ids(tokenizer, prompt)
        for _ in range(12):
            ids.append(int(student(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        written = ids[len(prompt_ids(tokenizer, prompt)) :]
        assert response.tokens == len(written)
        assert response.finished == (written[-1] == tokenizer.eos_token_id)
    student.generation_config.repetition_penalty = 5.0
    student.generation_config.max_length = 3
    assert write_responses(student, tokenizer, prompts, decoding=greedy, batch_size=5) == together
    assert student.generation_config.repetition_penalty == 5.0


def test_no_n_gram_twice_and_texts_end_at_the_end_token(student: Any, tokenizer: Any) -> None:
    decoding = Decoding(temperature=0.0, max_new_tokens=60, no_repeat_ngram_size=2, max_prompt_length=200)
    response = write_responses(student, tokenizer, ["The value of"], decoding=decoding)[0]
    ids = prompt_ids(tokenizer, "The value of") + tokenizer(response.text, add_special_tokens=False)["input_ids"]
    free = write_responses(
        student, tokenizer, ["The value of"], decoding=Decoding(0.0, max_new_tokens=60, no_repeat_ngram_size=0)
    )[0]
    assert free.text != response.text
    assert len(ids) > 5
    head = student.get_output_embeddings()
    with torch.no_grad():  # a head that always ends
        student.config.tie_word_embeddings = False
        head.weight = torch.nn.Parameter(torch.zeros_like(head.weight))
        head.weight[5:] -= 1e-6
    ended = write_responses(student, tokenizer, ["x"], decoding=decoding)[0]
    assert ended == Response("", 1, True)


def test_prompts_the_model_cannot_take_are_refused(student: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"prompt 2 has no token"):
        write_responses(student, tokenizer, ["x", ""])
    with pytest.raises(InputError, match=r"outgrows the model's 512 positions"):
        write_responses(student, tokenizer, ["x " * 200])
    with pytest.raises(InputError, match="batch_size"):
        write_responses(student, tokenizer, ["x"], batch_size=0)


# Evaluations.


def sets() -> dict[str, Any]:
    rows = lm_toys.instruction_rows(6)
    plain = [{"prompt": alpaca_prompt(row["prompt"]), "references": [row["completion"], "x"]} for row in rows[:4]]
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in rows[4:]
    ]
    return {"plain": datasets.Dataset.from_list(plain), "chats": datasets.Dataset.from_list(chats)}


def test_a_set_whose_first_text_is_being_written_is_not_summed_up(student: Any, tokenizer: Any, tmp_path: Path) -> None:
    one = {"plain": sets()["plain"]}
    options: dict[str, Any] = {"decoding": SHORT, "seeds": (10,), "progress": False}
    evaluate(student, tokenizer, one, folder=tmp_path / "f", **options)
    (tmp_path / "f" / "texts" / "other").mkdir()
    evaluate(student, tokenizer, one, folder=tmp_path / "f", **options)
    assert list(json.loads((tmp_path / "f" / "results.json").read_text())["sets"]) == ["plain"]


def test_evaluate_scores_saves_and_goes_on(
    student: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"decoding": SHORT, "batch_size": 3, "progress": False}
    result = evaluate(student, tokenizer, sets(), seeds=(10, 20), folder=tmp_path / "e", **options)
    assert set(result.sets) == {"plain", "chats"}
    saved = json.loads((tmp_path / "e" / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.as_dict()))
    assert saved["sets"]["plain"]["examples"] == 4
    texts = [
        json.loads(line) for line in (tmp_path / "e" / "texts" / "plain" / "seed-20.jsonl").read_text().splitlines()
    ]
    rouge = RougeL()
    for line in texts:
        assert line["rouge_l"] == pytest.approx(rouge(line["response"], line["references"]))
        assert line["exact_match"] == exact_match(line["response"], line["references"])
        assert line["prompt"].endswith("### Response:\n")
    means = [statistics.mean(seed.means()["rouge_l"] for seed in one.seeds) for one in result.sets.values()]
    assert result.average() is not None
    assert saved["average_rouge_l"]["mean"] == pytest.approx(statistics.mean(means))
    assert "plain: ROUGE-L" in str(result)
    assert "average: ROUGE-L" in str(result)

    written: list[int] = []
    write = module.write_responses
    monkeypatch.setattr(module, "write_responses", lambda *a, **k: (written.append(k["seed"]), write(*a, **k))[1])
    (tmp_path / "e" / "texts" / "plain" / "seed-10.jsonl").unlink()  # as if interrupted before
    again = evaluate(student, tokenizer, sets(), seeds=(10, 20), folder=tmp_path / "e", **options)
    assert written == [10]
    assert again == result
    whole = {"plain": sets()["plain"], "chats": sets()["chats"]}
    for name, seeds in (("plain", (10,)), ("chats", (20,)), ("chats", (10,)), ("plain", (20,))):
        evaluate(student, tokenizer, {name: whole[name]}, seeds=seeds, folder=tmp_path / "parts", **options)
    assert json.loads((tmp_path / "parts" / "results.json").read_text()) == saved
    for match, changes in (
        ("another model", {"model": lm_toys.tiny_model(seed=9, layers=1)}),
        ("another decoding", {"decoding": Decoding(max_new_tokens=4, max_prompt_length=200)}),
        ("another batch_size", {"batch_size": 2}),
        ("another plain", {"sets": {"plain": sets()["plain"].select([1])}}),
    ):
        given = {"model": student, "sets": sets(), **options, **changes}
        with pytest.raises(InputError, match=match):
            evaluate(tokenizer=tokenizer, seeds=(10, 20), folder=tmp_path / "e", **given)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".evaluation.json.a.tmp").write_text("left by a process that was killed")
    evaluate(student, tokenizer, sets(), seeds=(10,), folder=tmp_path / "other", **options)
    (tmp_path / "other" / "evaluation.json").unlink()
    (tmp_path / "other" / "x").write_text("x")
    with pytest.raises(InputError, match="holds no evaluation"):
        evaluate(student, tokenizer, sets(), seeds=(10,), folder=tmp_path / "other", **options)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_nothing_of_an_evaluation_stays_in_a_model_with_an_adapter(student: Any, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    student.generation_config.top_k = 7
    student.generation_config.max_new_tokens = 5
    own, before = student.generation_config, student.generation_config.to_dict()
    adapted: Any = get_peft_model(student, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    evaluate(adapted, tokenizer, sets(), seeds=(10,), decoding=SHORT, progress=False)
    for model in (student, adapted, adapted.get_base_model()):
        assert model.generation_config is own
    assert own.to_dict() == before
    assert adapted.merge_and_unload().generation_config.to_dict() == before


def test_long_prompts_keep_their_template_in_evaluation(
    student: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = " ".join(lm_toys.sentences()[:5])
    data = datasets.Dataset.from_list([{"prompt": alpaca_prompt(long), "references": ["x"]}])
    seen: list[str] = []
    write = module.write_responses
    monkeypatch.setattr(module, "write_responses", lambda m, t, p, **k: (seen.extend(p), write(m, t, p, **k))[1])
    evaluate(student, tokenizer, {"x": data}, seeds=(10,), decoding=SHORT, progress=False)
    assert len(prompt_ids(tokenizer, seen[0])) <= 200
    task = read_alpaca(seen[0])
    assert task is not None
    assert long.startswith(task.instruction)


def test_evaluate_refuses_bad_input(student: Any, teacher: Any, tokenizer: Any) -> None:
    good = sets()

    def refused(match: str, data: Any = good, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            evaluate(student, tokenizer, data, **{"decoding": SHORT, "progress": False, **options})

    refused("x: expected the columns prompt and references .* found a", {"x": datasets.Dataset.from_list([{"a": 1}])})
    refused("x: expected a datasets.Dataset", {"x": [1]})
    refused("x, row 1: no reference", {"x": datasets.Dataset.from_list([{"prompt": "a", "references": list[str]()}])})
    turns = [{"role": "user", "content": "a"}]
    refused("x, row 1: expected messages that end", {"x": datasets.Dataset.from_list([{"messages": turns}])})
    refused("seeds: expected different numbers", seeds=(1, 1))
    refused("seeds: expected different numbers", seeds=())
    refused("a teacher is compared on held-out rows", teacher=teacher)
    refused("nothing to evaluate on", {})


# Held-out text.


def test_held_out_measures_against_full_logits(
    student: Any, teacher: Any, tokenizer: Any, instructions: Any, tmp_path: Path
) -> None:
    rows = tokenise(instructions, tokenizer)
    found = held_out(student, rows, tokenizer, teacher=teacher, batch_size=5)
    sums: dict[str, float] = {}
    count = 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        keep = labels != -100
        with torch.no_grad():
            lq, lp = (m(input_ids=ids).logits[0, :-1].double().log_softmax(-1)[keep] for m in (student, teacher))
        count += len(lq)
        values = {
            "nll": -lq.gather(1, labels[keep, None]),
            "teacher_nll": -lp.gather(1, labels[keep, None]),
            "student_entropy": -(lq.exp() * lq),
            "teacher_entropy": -(lp.exp() * lp),
            "forward_kl": lp.exp() * (lp - lq),
            "reverse_kl": lq.exp() * (lq - lp),
            "agreement": (lp.argmax(-1) == lq.argmax(-1)).double(),
        }
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value.sum())
    assert found["tokens"] == count
    for name, value in sums.items():
        assert found[name] == pytest.approx(value / count, rel=1e-4), name
    alone = held_out(student, rows, tokenizer)
    assert set(alone) == {"tokens", "nll", "student_entropy"}
    same = held_out(teacher, rows, tokenizer, teacher=teacher)
    assert same["forward_kl"] == pytest.approx(0.0, abs=1e-6)
    assert same["agreement"] == 1.0
    result = evaluate(student, tokenizer, {}, held_out=rows, teacher=teacher, progress=False, folder=tmp_path / "e")
    assert result.held_out["forward_kl"] == pytest.approx(found["forward_kl"], rel=1e-5)
    assert "held out: tokens" in str(result)
    with pytest.raises(InputError, match="expected tokenised rows"):
        held_out(student, instructions, tokenizer)
    with pytest.raises(InputError, match="batch_size"):
        held_out(student, rows, tokenizer, batch_size=0)
    with pytest.raises(InputError, match="nothing to measure"):
        held_out(student, rows.map(lambda row: {"labels": [-100] * len(row["labels"])}), tokenizer)
