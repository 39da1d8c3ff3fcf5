"""Every method by name: it lowers its own objective, and those with a mathematics of their own follow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import pytest
import torch
from transformers import AutoTokenizer

from abkd import ReverseKL, divergence_loss
from abkd.divergences import by_name
from abkd.errors import InputError
from abkd.lm import METHODS
from abkd.lm._batch import ROLLOUT
from abkd.lm._generate import mixture
from abkd.lm._hidden import Predictions
from abkd.lm._minillm import PolicyGradient, policy_loss, remember
from abkd.lm._objective import Objective
from abkd.lm._student_settings import Sampling, student_text_of
from abkd.lm._teacher_text import TeacherText, prompt_of
from abkd.lm.data import tokenise
from abkd.losses import DenseTargets


def test_the_table_is_whole() -> None:
    wanted = ["sft", "kd", "rkd", "jsd", "tvd", "akl", "bdkd", "seqkd", "imitkd", "gkd", "minillm", "distillm", "abkd"]
    assert list(METHODS) == wanted
    for name, method in METHODS.items():
        assert method.name == name
        assert method.description.endswith(".")
        assert method.source
        if method.divergence is not None:
            by_name(**method.divergence)
        if method.student_text is not None:
            student_text_of(method.student_text)


@pytest.mark.parametrize("method", METHODS)
def test_three_steps_of_every_method_lower_its_own_objective(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, method: str
) -> None:
    """On real text of a few rows; own text and the teacher's are written as the method says."""
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method=method,
        max_steps=3,
        per_device_train_batch_size=12,
        learning_rate=1e-2,
        eval_dataset=lm_toys.instructions(),
        max_new_tokens=None if METHODS[method].student_text is None and method != "seqkd" else 8,
        eval_strategy="steps",
        eval_steps=1,
        student_text={"share": 0.5, "growth": 0.5} if method == "distillm" else None,
    )
    rows = trainer.train_dataset if method == "seqkd" else trainer.eval_dataset  # its objective is the teacher's text
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.evaluate(rows)["eval_loss"] < before


# MiniLLM.


def text_of(count: int = 5, classes: int = 7) -> dict[str, Any]:
    torch.manual_seed(1)
    keep = torch.tensor([[False, True, True, True], [False, False, True, True]])
    return {
        "student": torch.randn(count, classes, dtype=torch.float64),
        "teacher": torch.randn(count, classes, dtype=torch.float64),
        "labels": torch.tensor([1, 3, 6, 0, 2]),
        "keep": keep,
    }


def moment_of(text: dict[str, Any], settings: PolicyGradient, mix: float) -> dict[str, torch.Tensor]:
    student, teacher = Predictions(text["student"]), DenseTargets(text["teacher"])
    return remember(student, teacher, text["labels"], text["keep"], settings, mix)


@pytest.mark.parametrize("single_step", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_what_is_remembered_by_hand(monkeypatch: Any, single_step: bool, normalised: bool) -> None:
    monkeypatch.setattr("abkd.lm._minillm._label_logs", plain_logs)
    text = text_of()
    settings = PolicyGradient(single_step=single_step, length_normalised=normalised)
    moment = moment_of(text, settings, 0.25)
    rows = torch.arange(5)
    log_q = text["student"].log_softmax(-1)[rows, text["labels"]]
    log_p = text["teacher"].float().log_softmax(-1)[rows, text["labels"]].double()
    torch.testing.assert_close(moment["weight"], log_q.exp() / (0.75 * log_q.exp() + 0.25 * log_p.exp()))
    reward = (log_p - log_q).tolist()
    expected: list[float] = []
    for tokens in (reward[:3], reward[3:]):
        for place in range(len(tokens)):
            after = tokens[place + 1 :] if single_step else tokens[place:]
            expected.append(sum(after) / (max(len(after), 1) if normalised else 1))
    torch.testing.assert_close(moment["future"], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7)


def test_whitened_futures_have_no_mean_and_no_unit() -> None:
    text, head = text_of(), torch.eye(7, dtype=torch.float64)
    student, targets = Predictions(text["student"], head), DenseTargets(text["teacher"])
    found = [
        remember(student, targets, text["labels"], text["keep"], PolicyGradient(whiten=whiten), 0.2)
        for whiten in (False, True)
    ]
    plain, white = (moment["future"] for moment in found)
    torch.testing.assert_close(white, (plain - plain.mean()) / plain.std())
    torch.testing.assert_close(found[0]["weight"], found[1]["weight"])
    alone = {"student": text["student"][:1], "teacher": text["teacher"][:1], "labels": text["labels"][:1]}
    keep = torch.tensor([[True]])
    one = remember(
        Predictions(alone["student"], head),
        DenseTargets(alone["teacher"]),
        alone["labels"],
        keep,
        PolicyGradient(whiten=True),
        0.0,
    )
    assert bool(one["future"].isfinite().all())


def plain_logs(student: Predictions, labels: torch.Tensor) -> torch.Tensor:
    return student.logits().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def test_the_policy_gradient_is_that_of_the_sequence_divergence() -> None:
    """Over all texts of two tokens, weighed by how often they are sampled, it is the gradient of KL(q || p)."""
    classes, mix = 4, 0.3
    torch.manual_seed(2)
    head = torch.eye(classes, dtype=torch.float64)
    first = torch.randn(classes, dtype=torch.float64, requires_grad=True)
    second = torch.randn(classes, classes, dtype=torch.float64, requires_grad=True)  # given the first token
    p_first, p_second = torch.randn(classes, dtype=torch.float64), torch.randn(classes, classes, dtype=torch.float64)
    log_q = first.log_softmax(-1).unsqueeze(1) + second.log_softmax(-1)
    log_p = p_first.log_softmax(-1).unsqueeze(1) + p_second.log_softmax(-1)
    exact = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), (first, second))

    settings = PolicyGradient(length_normalised=False)
    keep = torch.ones(1, 2, dtype=torch.bool)
    total = torch.zeros((), dtype=torch.float64)
    for a in range(classes):
        for b in range(classes):
            labels = torch.tensor([a, b])
            student = Predictions(torch.stack([first, second[a]]), head)
            targets = DenseTargets(torch.stack([p_first, p_second[a]]))
            moment = remember(student.detach(), targets, labels, keep, settings, 0.0)
            loss = policy_loss(student, targets, labels, moment, Objective(ReverseKL()), settings)
            total = total + log_q[a, b].exp().detach() * 2 * loss  # a mean over two tokens
    found = torch.autograd.grad(total, (first, second))
    for mine, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)  # the teacher's logs are taken in float32
    assert float(mixture(torch.tensor(-1.0), torch.tensor(-1.0), mix)) == pytest.approx(-1.0)


def test_clipping_stops_the_push_of_tokens_that_have_moved_enough() -> None:
    text = text_of()
    head = torch.eye(7, dtype=torch.float64)
    settings = PolicyGradient(clip=0.2, single_step=False)
    labels, targets = text["labels"], DenseTargets(text["teacher"])
    moment = remember(Predictions(text["student"], head), targets, labels, text["keep"], settings, 0.0)
    moment["future"] = torch.ones(5, dtype=torch.float64)
    moved = text["student"].clone()
    moved[0, labels[0]] += 3.0  # its ratio is far above 1.2
    moved.requires_grad_()
    policy_loss(Predictions(moved, head), targets, labels, moment, Objective(ReverseKL()), settings).backward()
    assert moved.grad is not None
    assert float(moved.grad[0].abs().max()) == 0
    assert float(moved.grad[1:].abs().max()) > 0


def test_texts_serve_as_many_steps_as_epochs(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, method="minillm", max_new_tokens=4, method_settings={"epochs": 3}
    )
    trainer.state.max_steps, trainer.model_wrapped = 6, trainer.model
    texts = []
    for step in range(6):
        trainer.state.global_step = step
        (own,) = trainer.prepare_batches([lm_toys.batch_of(trainer, range(step, step + 4))])
        texts.append(own["input_ids"])
    assert all(torch.equal(texts[0], texts[step]) for step in (1, 2))
    assert all(torch.equal(texts[3], texts[step]) for step in (4, 5))
    assert texts[0].shape != texts[3].shape or not torch.equal(texts[0], texts[3])


def test_minillm_trains_by_the_policy_gradient(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    settings = {"clip": 0.1, "epochs": 2}
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, method="minillm", max_new_tokens=8, method_settings=settings
    )
    trainer.state.max_steps, trainer.model_wrapped = 2, trainer.model
    (own,) = trainer.prepare_batches([lm_toys.batch_of(trainer)])
    with torch.no_grad():  # as if a step had been taken
        for parameter in student.parameters():
            parameter.mul_(1.2)
    trainer.model.train()
    loss, _ = trainer.mean_loss(trainer.model, own)
    keep = own["labels"][:, 1:] != -100
    inputs = {name: own[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        log_q, log_p = (model(**inputs).logits[:, :-1][keep].log_softmax(-1) for model in (student, teacher))
    labels, moment = own["labels"][:, 1:][keep], own[ROLLOUT]
    expected = policy_loss(
        Predictions(log_q, torch.eye(log_q.shape[-1])),
        DenseTargets(log_p),
        labels,
        moment,
        Objective(ReverseKL()),
        PolicyGradient(**settings),
    )
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    reverse = float((log_q.exp() * (log_q - log_p)).sum(-1).mean())
    assert float(loss.detach()) != pytest.approx(reverse, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 2.0}, "temperature 1"),
        ({"ce_weight": 1.0}, "cross-entropy"),
        ({"student_text": {"generation_temperature": 0.5}}, "generation_temperature"),
        ({"student_text": {"share": 0.5}}, "share"),
        ({"student_text": {"replay": 5}}, "replay"),
        ({"lmbda": 0.0}, "own text"),
        ({"method_settings": {"clips": 0.2}}, "did you mean 'clip'"),
        ({"method_settings": {"clip": 0.0}}, "clip"),
        ({"method_settings": {"epochs": 0}}, "epochs"),
        ({"divergence": "forward_kl"}, "policy gradient"),
        ({"kd_weight": 0.0}, "kd_weight"),
        ({"temperature": {"from": 1.0, "to": 2.0}}, "temperature 1"),
        ({"method_settings": {"whiten": 1}}, "whiten: expected true or false"),
    ],
)
def test_what_a_policy_gradient_refuses(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, settings: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, method="minillm", **settings)


# SeqKD.


def test_prompts_without_room_for_the_teachers_text_are_found_before_it_writes(
    tmp_path: Path, tokenizer: Any, teacher: Any, instructions: Any
) -> None:
    with pytest.raises(InputError, match=r"the teacher's text, prompt 1 .*512 positions"):
        TeacherText(teacher, tokenizer, Sampling(max_new_tokens=510), tmp_path / "parts", batch=8).of(instructions)
    assert not list((tmp_path / "parts").glob("part-*"))


def test_the_teachers_text_is_written_once_and_resumed(
    tmp_path: Path, tokenizer: Any, teacher: Any, instructions: Any, monkeypatch: Any
) -> None:
    sampling = Sampling(max_new_tokens=6)
    whole = TeacherText(teacher, tokenizer, sampling, tmp_path / "whole", batch=8).of(instructions)
    assert whole["prompt"] == instructions["prompt"]
    assert whole["completion"] != instructions["completion"]

    original, calls = TeacherText._write, []

    def interrupted(self: Any, prompts: Any, number: int) -> list[tuple[str, bool]]:
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, prompts, number)

    monkeypatch.setattr(TeacherText, "_write", interrupted)
    again = TeacherText(teacher, tokenizer, sampling, tmp_path / "parts", batch=8)
    with pytest.raises(KeyboardInterrupt):
        again.of(instructions)
    torch.manual_seed(5)
    assert again.of(instructions)["completion"] == whole["completion"]
    assert calls == [0, 1, 1, 2]
    assert again.of(instructions)["completion"] == whole["completion"]
    assert calls == [0, 1, 1, 2]
    with pytest.raises(InputError, match="other sampling"):
        TeacherText(teacher, tokenizer, Sampling(max_new_tokens=5), tmp_path / "parts", batch=8).of(instructions)


def test_two_processes_share_the_writing(tmp_path: Path, tokenizer: Any, teacher: Any, instructions: Any) -> None:
    sampling = Sampling(max_new_tokens=6)
    alone = TeacherText(teacher, tokenizer, sampling, tmp_path / "alone", batch=5).of(instructions)
    shared = TeacherText(teacher, tokenizer, sampling, tmp_path / "shared", batch=5)
    shared._open([prompt_of(row) for row in instructions], 0)
    other = lambda: shared.of(instructions, rank=1, ranks=2, wait=lambda: None)  # noqa: E731
    found = shared.of(instructions, rank=0, ranks=2, wait=lambda: shared_by(other))
    assert found["completion"] == alone["completion"]


def shared_by(other: Any) -> None:
    other()


def test_seqkd_trains_on_the_teachers_text_and_lets_the_teacher_go(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    teacher.get_output_embeddings().weight[0] *= 6  # sometimes it stops
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method="seqkd",
        max_new_tokens=8,
        max_steps=8,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        eval_dataset=lm_toys.instructions(8),
    )
    assert trainer.teacher is None
    parts = sorted((tmp_path / "teacher_text").glob("part-*.json"))
    texts = [text for part in parts for text in json.loads(part.read_text())]
    assert len(texts) == 24
    assert {written["ended"] for written in texts} == {True, False}
    for row, written in zip(trainer.train_dataset, texts, strict=True):
        answer = tokenizer.decode([token for token in row["labels"] if token != -100])
        assert answer.endswith(written["text"] + (lm_toys.EOS if written["ended"] else ""))
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("form", ["text", "chat"])
@pytest.mark.parametrize("settings", [{}, {"packing": True, "per_device_train_batch_size": 1}])
def test_an_answer_that_was_cut_is_not_taught_to_end(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, form: str, settings: dict[str, Any]
) -> None:
    """Both kinds side by side: labels token by token, as prompt, what was written, and an end where there was one."""
    prompts = [row["prompt"] for row in lm_toys.instruction_rows(3)]
    turns = prompts if form == "text" else [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [" and so on", " it is", ""]
    answers = texts if form == "text" else [[{"role": "assistant", "content": text}] for text in texts]
    ended = [False, True, True]
    data = datasets.Dataset.from_dict({"prompt": turns, "completion": answers, "completion_ended": ended})
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, train_dataset=data, eval_dataset=data, **settings
    )
    rows = tokenise(data, tokenizer)
    for name in ("input_ids", "labels"):
        kept, expected = (
            sorted(token for row in part[name] for token in row) for part in (trainer.train_dataset, rows)
        )
        assert kept == expected
    for row, prompt, text, end in zip(rows, prompts, texts, ended, strict=True):
        before = prompt if form == "text" else lm_toys.USER + prompt + lm_toys.BOT
        assert tokenizer.decode(row["input_ids"]) == before + text + (lm_toys.EOS if end else "")
    trainer.train()
    trainer.evaluate()


def test_half_a_character_of_a_cut_answer_goes(tokenizer: Any, teacher: Any, tmp_path: Path) -> None:
    writer = TeacherText(teacher, tokenizer, Sampling(), tmp_path)
    letters = tokenizer("né")["input_ids"]
    assert writer._text(letters[:-1], False) == ("n", False)
    assert writer._text([*letters, tokenizer.eos_token_id], True) == ("né", True)


def test_seqkd_works_across_tokenizers(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    other = tmp_path / "teacher"
    teacher.save_pretrained(other)
    lm_toys.save_tokenizer(other)
    saved = json.loads((other / "tokenizer.json").read_text())
    vocabulary = saved["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (100, 101))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match="seqkd"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, str(other))
    lm_toys.make_trainer(tmp_path, tokenizer, student, str(other), method="seqkd", max_new_tokens=4).train()


def test_seq_kd_gives_any_method_the_teachers_text(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method="kd",
        seq_kd=True,
        teacher_text={"max_new_tokens": 4},
        train_dataset=lm_toys.dialogues(4),
        max_length=256,
    )
    assert trainer.teacher is not None
    row = trainer.train_dataset[0]
    written = json.loads((tmp_path / "teacher_text" / "part-000000.json").read_text())[0]
    answer = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(answer) == written["text"] + (lm_toys.EOS if written["ended"] else "")
    trainer.train()
    with pytest.raises(InputError, match="seq_kd"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, method="kd", teacher_text={})


def test_prompts_of_dialogues_end_before_the_last_answer(dialogues: Any) -> None:
    assert prompt_of(dialogues[0]) == dialogues[0]["messages"][:3]
    assert prompt_of({"prompt": "a", "completion": "b"}) == "a"
    with pytest.raises(InputError, match="prompts to answer"):
        prompt_of({"text": "plain"})


def test_the_tokenizer_fixture_is_not_changed_by_any_of_it(tokenizer_folder: Path) -> None:
    assert AutoTokenizer.from_pretrained(tokenizer_folder).pad_token == lm_toys.PAD


def test_divergence_loss_is_what_the_objective_takes() -> None:
    text = text_of()
    from abkd.lm._objective import objective_loss

    head = torch.eye(7, dtype=torch.float64)
    found = objective_loss(
        Predictions(text["student"], head), DenseTargets(text["teacher"]), text["labels"], Objective(ReverseKL(), 2.0)
    )
    torch.testing.assert_close(found, divergence_loss(text["student"], text["teacher"], ReverseKL(), temperature=2.0))
