"""Text that the student writes: when, from which prompts, with which mask and labels, and what is never done on it."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, ClassVar

import lm_toys
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from abkd import ForwardKL, divergence_loss
from abkd.errors import InputError, MissingPackageError
from abkd.lm._batch import OWN_TEXT, ROLLOUT, prompts_of
from abkd.lm._student_settings import StudentText

SHORT = {"max_new_tokens": 6}


def own_trainer(folder: Path, tokenizer: Any, student: Any, teacher: Any, **settings: Any) -> Any:
    defaults = {"method": "imitkd", "student_text": SHORT, "seed": 3}
    trainer = lm_toys.make_trainer(folder, tokenizer, student, teacher, **{**defaults, **settings})
    trainer.state.max_steps = 10
    trainer.model_wrapped = trainer.model
    return trainer


@pytest.mark.parametrize("pad", [lm_toys.PAD, lm_toys.EOS])
@pytest.mark.parametrize("data", ["instructions", "dialogues"])
def test_mask_and_labels_token_by_token(tmp_path: Path, student: Any, teacher: Any, pad: str, data: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "tokenizer", pad=pad))
    with torch.no_grad():  # a student that likes to stop
        student.get_output_embeddings().weight[0] += 0.1
    rows = lm_toys.instructions() if data == "instructions" else lm_toys.dialogues()
    settings = {"train_dataset": rows, "max_length": 256, "student_text": {"max_new_tokens": 24}}
    trainer = own_trainer(tmp_path, tokenizer, student, teacher, **settings)
    batch = lm_toys.batch_of(trainer)
    prompts = prompts_of(batch)
    (own,) = trainer.prepare_batches([batch])
    assert own[OWN_TEXT]
    stopped = 0
    for row, prompt in enumerate(prompts):
        ids, labels, mask = (own[name][row].tolist() for name in ("input_ids", "labels", "attention_mask"))
        length = sum(mask)
        response = ids[len(prompt) : length]
        assert ids[: len(prompt)] == prompt
        assert mask == [1] * length + [0] * (len(mask) - length)
        assert labels == [-100] * len(prompt) + response + [-100] * (len(ids) - length)
        assert ids[length:] == [tokenizer.pad_token_id] * (len(ids) - length)
        assert 1 <= len(response) <= 24
        assert tokenizer.eos_token_id not in response[:-1]
        if len(response) < 24:
            assert labels[length - 1] == tokenizer.eos_token_id  # learns to stop, whatever the pad token is
            stopped += 1
        if data == "dialogues":
            assert prompt[-1] == tokenizer.convert_tokens_to_ids(lm_toys.BOT)
            assert prompt.count(tokenizer.eos_token_id) == 1  # the first answer stays in the prompt
    assert stopped


def test_tokens_are_counted_after_writing_whatever_the_accumulation(
    tmp_path: Path, tokenizer: Any, teacher: Any
) -> None:
    """The loss of a step is the mean over the tokens that the student wrote, however they are divided."""
    steps = []
    for size in (4, 1):
        student = lm_toys.tiny_model(seed=1, layers=1)
        with torch.no_grad():  # texts of different lengths
            student.get_output_embeddings().weight[0] += 0.1
        trainer = own_trainer(tmp_path, tokenizer, student, teacher, student_text={"max_new_tokens": 12})
        whole = lm_toys.batch_of(trainer)
        if not steps:
            (own,) = trainer.prepare_batches([whole])
        rows = [
            {name: value[start : start + size] for name, value in own.items() if name != OWN_TEXT}
            for start in range(0, 4, size)
        ]
        batches = [{**row, OWN_TEXT: True} for row in rows]
        trainer.prepare_batches = lambda _, batches=batches: batches
        found, count = trainer.get_batch_samples(iter([whole] * len(batches)), len(batches), torch.device("cpu"))
        assert count == int((own["labels"] != -100).sum())
        assert count != sum(int((whole["labels"] != -100).sum()) for _ in batches)
        for batch in found:
            trainer.compute_loss(student, batch, num_items_in_batch=count).backward()
        steps.append({name: parameter.grad for name, parameter in student.named_parameters()})
    assert len({int((row != -100).sum()) for row in own["labels"]}) > 1
    assert lm_toys.largest_difference(*steps) < 1e-6


def test_no_cross_entropy_on_the_students_own_text(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = own_trainer(
        tmp_path, tokenizer, student, teacher, method="kd", ce_weight=5.0, student_text={"share": 0.5, **SHORT}
    )
    batch = lm_toys.batch_of(trainer)
    for number in range(20):
        trainer.state.global_step = number
        (found,) = trainer.prepare_batches([batch])
        loss, _ = trainer.mean_loss(trainer.model, found)
        inputs = {name: found[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits = [model(**inputs).logits[:, :-1] for model in (student, teacher)]
        mask = found["labels"][:, 1:] != -100
        expected = divergence_loss(*logits, ForwardKL(), mask=mask)
        if not found.get(OWN_TEXT):
            expected = expected + 5 * torch.nn.functional.cross_entropy(
                logits[0].flatten(0, 1), found["labels"][:, 1:].flatten()
            )
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_ce_weight_that_could_have_no_effect_is_refused(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    with pytest.raises(InputError, match="ce_weight"):
        own_trainer(tmp_path, tokenizer, student, teacher, ce_weight=0.1)


def test_the_share_of_batches_and_that_all_ranks_draw_alike(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, monkeypatch: Any
) -> None:
    trainer = own_trainer(tmp_path, tokenizer, student, teacher, method="gkd", student_text={"share": 0.3, **SHORT})
    monkeypatch.setattr(type(trainer._writer), "write", lambda self, prompts: [[5] for _ in prompts])
    batch = lm_toys.batch_of(trainer)

    def choices(rank: int) -> list[bool]:
        monkeypatch.setattr(type(trainer.args), "process_index", rank)
        random.seed(rank)
        torch.manual_seed(rank)
        found = []
        for step in range(200):
            trainer.state.global_step = step
            found += [bool(one.get(OWN_TEXT)) for one in trainer.prepare_batches([batch, batch])]
        return found

    first = choices(0)
    assert first == choices(1)
    assert 0.24 < sum(first) / len(first) < 0.36


def test_generation_has_its_own_temperature(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    cold = {"generation_temperature": 1e-4, **SHORT}
    written = []
    for temperature in (1.0, 4.0):
        trainer = own_trainer(tmp_path, tokenizer, student, teacher, temperature=temperature, student_text=cold)
        (own,) = trainer.prepare_batches([lm_toys.batch_of(trainer)])
        written.append(own["input_ids"])
        loss, _ = trainer.mean_loss(trainer.model, own)
        with torch.no_grad():
            logits = [
                model(own["input_ids"], attention_mask=own["attention_mask"]).logits[:, :-1]
                for model in (student, teacher)
            ]
        expected = divergence_loss(*logits, ForwardKL(), temperature=temperature, mask=own["labels"][:, 1:] != -100)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(*written)


def test_text_is_sampled_from_the_teacher_too_and_weighed_for_it(tmp_path: Path, tokenizer: Any, student: Any) -> None:
    teacher, favourite = lm_toys.frozen(lm_toys.tiny_model(seed=2, tie_word_embeddings=False)), 7
    teacher.get_input_embeddings().weight[:, 0] = 10.0  # every state points this way
    teacher.get_output_embeddings().weight.zero_()
    teacher.get_output_embeddings().weight[favourite, 0] = 2.0
    settings = {"method": "minillm", "student_text": {"teacher_mix": 0.9, "max_new_tokens": 16}}
    trainer = own_trainer(tmp_path, tokenizer, student, teacher, **settings)
    (own,) = trainer.prepare_batches([lm_toys.batch_of(trainer)])
    keep = own["labels"][:, 1:] != -100
    labels = own["labels"][:, 1:][keep]
    assert float((labels == favourite).float().mean()) > 0.75
    inputs = {name: own[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        q, p = (
            model(**inputs).logits[:, :-1][keep].softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            for model in (student, teacher)
        )
    assert float(p[labels == favourite].min()) > 0.9
    torch.testing.assert_close(own[ROLLOUT]["weight"], q / (0.1 * q + 0.9 * p), rtol=1e-4, atol=1e-6)


def test_batches_of_one_step_are_given_texts_of_their_own(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    trainer = own_trainer(tmp_path, tokenizer, student, teacher)
    batch = lm_toys.batch_of(trainer)
    first, second = (own["input_ids"].tolist() for own in trainer.prepare_batches([batch, batch]))
    again, _ = (own["input_ids"].tolist() for own in trainer.prepare_batches([batch, batch]))
    assert first == again != second


def test_nothing_is_logged_of_how_likely_the_students_own_text_is(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    lines: dict[str, list[dict[str, float]]] = {}
    for method, text in (("imitkd", SHORT), ("kd", None)):
        trainer = own_trainer(tmp_path, tokenizer, student, teacher, method=method, student_text=text, max_steps=2)
        trainer.train()
        lines[method] = [line for line in trainer.state.log_history if "loss" in line]
        assert len(lines[method]) == 2
        assert all("agreement" in line for line in lines[method])
    assert not any("nll" in line for line in lines["imitkd"])
    assert all("nll" in line for line in lines["kd"])


def test_the_model_comes_back_in_the_mode_it_was_in(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = own_trainer(tmp_path, tokenizer, student, teacher)
    trainer.model.train()
    trainer._writer.write([[5, 6]])
    assert trainer.model.training


def test_replay_grows_with_the_run(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, monkeypatch: Any
) -> None:
    trainer = own_trainer(tmp_path, tokenizer, student, teacher, student_text={"replay": 8, **SHORT})
    written: list[int] = []
    monkeypatch.setattr(
        type(trainer._writer), "write", lambda self, prompts: [written.append(1) or [5, 0] for _ in prompts]
    )
    batch = lm_toys.batch_of(trainer)
    trainer.state.max_steps = 100
    fresh: list[int] = []
    trainer.state.global_step = 99
    for _ in range(2):  # until the buffer is full
        assert not trainer._writer._replay.full
        trainer.prepare_batches([batch])
    assert len(written) == 8
    for step in range(100):
        trainer.state.global_step = step
        before = len(written)
        trainer.prepare_batches([batch])
        fresh.append(len(written) > before)
    assert sum(fresh[:50]) > sum(fresh[50:]) > 0


def test_the_adaptive_share_follows_the_validation_loss(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    settings = {"share": 0.0, "schedule": "adaptive", "growth": 0.4, "tolerance": 0.05, **SHORT}
    trainer = own_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method="kd",
        student_text=settings,
        eval_strategy="steps",
        eval_dataset=lm_toys.instructions(4),
    )
    shares = []
    for nll in (3.0, 2.5, 3.03, 3.05, 3.08, 3.11, 2.0, 3.12, 3.2):  # above the anchor, however small the steps
        trainer._writer.after_evaluation(nll)
        shares.append(trainer._writer.share)
    assert shares == pytest.approx([0.0, 0.0, 0.0, 0.4, 0.4, 0.8, 0.8, 0.8, 1.0])
    with pytest.raises(InputError, match="nll"):
        trainer._writer.after_evaluation(None)


def test_the_first_anchor_is_the_loss_before_training(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    trainer = own_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method="distillm",
        student_text={"share": 0.2, "tolerance": 100.0, **SHORT},
        select_by="nll",
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=lm_toys.instructions(4),
    )
    before = trainer.evaluate()["eval_nll"]
    trainer.state.log_history.clear()
    trainer.train()
    assert trainer._writer._anchor == pytest.approx(before)
    evaluated = [line for line in trainer.state.log_history if "eval_nll" in line]
    assert [line["step"] for line in evaluated] == [1, 2, 3]
    assert {line["eval_student_text_share"] for line in evaluated} == {0.2}
    assert trainer.best.step > 0
    trainer._writer.save(tmp_path / "state", 0)
    trainer._writer._anchor = None
    trainer._writer.load(tmp_path / "state", 0)
    trainer.validation_nll = lambda: pytest.fail("a resumed run was evaluated again")
    trainer.prepare_batches([lm_toys.batch_of(trainer)])


def test_the_share_grows_in_a_run_whose_validation_loss_rises(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    trainer = own_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method="distillm",
        student_text={"share": 0.0, "growth": 0.5, **SHORT},
        learning_rate=0.3,
        max_steps=5,
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=lm_toys.instructions(4),
    )
    limit = trainer.evaluate()["eval_nll"] + 0.1
    trainer.state.log_history.clear()
    trainer.train()
    evaluated = [line for line in trainer.state.log_history if "eval_nll" in line]
    shares = [line["eval_student_text_share"] for line in evaluated]
    passed = next(number for number, line in enumerate(evaluated[:-1]) if line["eval_nll"] >= limit)
    assert shares[: passed + 2] == [0.0] * (passed + 1) + [0.5]


def test_prompts_come_from_the_training_split_alone(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, monkeypatch: Any
) -> None:
    seen: list[tuple[int, ...]] = []
    held_out = lm_toys.instructions(8, start=100)
    trainer = own_trainer(
        tmp_path, tokenizer, student, teacher, eval_dataset=held_out, eval_strategy="steps", eval_steps=1
    )

    def write(self: Any, prompts: list[list[int]]) -> list[list[int]]:
        seen.extend(tuple(prompt) for prompt in prompts)
        return [[5, 0] for _ in prompts]

    monkeypatch.setattr(type(trainer._writer), "write", write)
    trainer.train()
    known = {tuple(tokenizer(row["prompt"])["input_ids"]) for row in lm_toys.instruction_rows()}
    assert seen
    assert set(seen) <= known


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
@pytest.mark.parametrize("adapter", [False, True])
def test_own_text_with_checkpointing_adapters_and_half_precision(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, adapter: bool
) -> None:
    from peft import LoraConfig

    trainer = own_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        method="minillm" if adapter else "imitkd",
        gradient_checkpointing=True,
        bf16=not adapter,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if adapter else None,
        student_text={"max_new_tokens": 5},
    )
    trainer.train()
    assert all(math.isfinite(line["loss"]) for line in trainer.state.log_history if "loss" in line)
    assert trainer.accelerator.unwrap_model(trainer.model).training


def test_checkpointing_is_layer_by_layer_what_it_was(tmp_path: Path, tokenizer: Any, teacher: Any) -> None:
    student = lm_toys.tiny_model(layers=2)
    trainer = own_trainer(tmp_path, tokenizer, student, teacher, gradient_checkpointing=True)
    first, second = trainer.model.model.layers
    trainer.model.activation_checkpointing_enable({"use_reentrant": True})
    second.gradient_checkpointing = False
    with torch.no_grad():
        trainer._writer.write([[5, 6]])
    assert (first.gradient_checkpointing, second.gradient_checkpointing) == (True, False)
    assert first._gradient_checkpointing_func.keywords == {"use_reentrant": True}


def test_a_sharded_teacher_is_not_asked_while_processes_write(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, monkeypatch: Any
) -> None:
    from abkd.lm._setup import Setup

    trainer = own_trainer(tmp_path, tokenizer, student, teacher, method="minillm")
    setup = Setup(student, teacher, trainer.args, lm_toys.instructions(), None, tokenizer, None)
    setup.check_trainer(trainer)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    trainer.is_fsdp_enabled = True
    with pytest.raises(InputError, match=r"teacher_mix .* set it to 0"):
        setup.check_trainer(trainer)


def test_vllm_is_asked_for_and_used_through_trl(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, monkeypatch: Any
) -> None:
    from trl import import_utils
    from trl.generation import vllm_generation

    settings = {"student_text": {"vllm": {"mode": "server"}, "generation_temperature": 0.7, **SHORT}}
    if not import_utils.is_vllm_available():
        with pytest.raises(MissingPackageError, match="vllm"):
            own_trainer(tmp_path, tokenizer, student, teacher, **settings)

    class StandIn:
        made: ClassVar[dict[str, Any]] = {}
        synced = 0

        def __init__(self, **options: Any) -> None:
            StandIn.made = options

        def sync_weights(self) -> None:
            StandIn.synced += 1

        def generate(self, prompts: Any, images: Any, num_generations: int) -> Any:
            return None, [[5, 0, 9] for _ in prompts], None, None

    monkeypatch.setattr(import_utils, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "VLLMGeneration", StandIn)
    trainer = own_trainer(tmp_path, tokenizer, student, teacher, **settings)
    trainer.prepare_batches([lm_toys.batch_of(trainer)])
    (own,) = trainer.prepare_batches([lm_toys.batch_of(trainer)])
    assert StandIn.synced == 1
    assert (StandIn.made["mode"], StandIn.made["temperature"], StandIn.made["max_completion_length"]) == (
        "server",
        0.7,
        6,
    )
    assert (own["labels"] == 9).sum() == 0
    assert (own["labels"] == 0).sum() == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shar": 0.5}, "did you mean 'share'"),
        ({"share": 1.5}, "share"),
        ({"share": 0.0, "replay": 5}, "leave student_text out"),
        ({"schedule": "adaptve"}, "adaptive"),
        ({"replay": -1}, "replay"),
        ({"generation_temperature": 0}, "generation_temperature"),
        ({"top_p": 0.0}, "^student_text.top_p: expected"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"teacher_mix": 1.0}, "teacher_mix"),
        ({"teacher_mix": 0.2, "vllm": {}}, "vllm"),
        ({"schedule": "adaptive", "share": 0.0}, "eval_strategy"),
        ({"schedule": "adaptive"}, "student_text.share: 1, as it is unless given, and an adaptive one grows"),
        ({"growth": 0.2}, "growth has no effect on a constant share"),
        ({"tolerance": 0.2}, "tolerance has no effect"),
    ],
)
def test_bad_settings(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_trainer(tmp_path, tokenizer, student, teacher, method="abkd", student_text=settings)


def test_what_does_not_go_with_student_text(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    with pytest.raises(InputError, match="packing"):
        own_trainer(tmp_path, tokenizer, student, teacher, packing=True)
    with pytest.raises(InputError, match="compares nothing"):
        own_trainer(tmp_path, tokenizer, student, teacher, method="sft", student_text={"share": 0.5})
    with pytest.raises(InputError, match="completion_only_loss"):
        own_trainer(tmp_path, tokenizer, student, teacher, completion_only_loss=False)
    with pytest.raises(InputError, match="kd_weight is 0"):
        own_trainer(tmp_path, tokenizer, student, teacher, kd_weight=0.0, ce_weight=1.0, student_text={"share": 0.5})
    assert StudentText().share == 1


def test_what_texts_ask_of_the_models_is_known_before_training(tmp_path: Path, tokenizer: Any, teacher: Any) -> None:
    def make(**settings: Any) -> None:
        own_trainer(tmp_path, tokenizer, lm_toys.tiny_model(seed=1, layers=1), **{"teacher": teacher, **settings})

    with pytest.raises(InputError, match=r"read by the student, prompt 1 .* 512 positions"):
        make(student_text={"max_new_tokens": 600})
    short = lm_toys.frozen(lm_toys.tiny_model(seed=2, max_position_embeddings=128))
    with pytest.raises(InputError, match=r"read by the teacher, .*128 positions"):
        make(student_text={"max_new_tokens": 120}, teacher=short)
    with pytest.raises(InputError, match="prompt 1 has no token"):
        make(train_dataset=Dataset.from_list([{"text": "all of it counts"}]))


def test_lmbda_is_the_share(tmp_path: Path) -> None:
    from abkd.lm import DistillationConfig

    def text(**settings: Any) -> StudentText | None:
        return DistillationConfig(output_dir=str(tmp_path), use_cpu=True, **settings).student_sampling()

    found = text(method="gkd", lmbda=0.25, max_new_tokens=7)
    assert found is not None
    assert (found.share, found.max_new_tokens) == (0.25, 7)
    assert text(method="gkd", lmbda=0.0) is None
    assert text(method="abkd") is None
    assert text(method="distillm", lmbda=0.0, eval_strategy="steps") is not None
    with pytest.raises(InputError, match="given twice"):
        text(lmbda=0.5, student_text={"share": 0.2})
