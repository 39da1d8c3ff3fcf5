"""The trainer on the data set's text: which tokens count, what the loss is, how the teacher is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from abkd import AlphaBeta, ForwardKL, divergence_loss
from abkd.errors import InputError
from abkd.lm._batch import counted, prompts_of
from abkd.lm._hidden import Predictions
from abkd.lm._metrics import Meter, comparison
from abkd.losses import DenseTargets, HiddenTargets


def by_hand(trainer: Any, batch: dict[str, Any], divergence: Any, temperature: float = 1.0, size: int = 320) -> Any:
    """The mean divergence over response tokens from both models' full logits."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        student = trainer.model(**inputs).logits[:, :-1, :size]
        teacher = trainer.teacher.model(**inputs).logits[:, :-1, :size]
    mask = batch["labels"][:, 1:] != -100
    return divergence_loss(student, teacher, divergence, temperature=temperature, mask=mask)


@pytest.mark.parametrize("pad", [lm_toys.PAD, lm_toys.EOS])
def test_response_and_eos_are_the_targets_and_nothing_else(
    tmp_path: Path, student: Any, teacher: Any, pad: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "tokenizer", pad=pad))
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    batch = lm_toys.batch_of(trainer)
    for row, text in enumerate(lm_toys.instruction_rows()[:4]):
        prompt = tokenizer(text["prompt"])["input_ids"]
        whole = tokenizer(text["prompt"] + text["completion"])["input_ids"] + [tokenizer.eos_token_id]
        labels = batch["labels"][row].tolist()
        expected = [-100] * len(prompt) + whole[len(prompt) :]
        assert labels == expected + [-100] * (len(labels) - len(expected))
        assert int(counted(batch)[row].sum()) == len(whole) - len(prompt)


def test_only_the_assistants_turns_count_in_dialogues(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, dialogues: Any
) -> None:
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, train_dataset=dialogues, max_length=256)
    bot, eos = tokenizer.convert_tokens_to_ids(lm_toys.BOT), tokenizer.eos_token_id
    batch = lm_toys.batch_of(trainer)
    for row in range(4):
        ids, labels = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
        inside, expected = False, []
        for token in ids:
            expected.append(token if inside else -100)
            inside = token == bot or (inside and token != eos)
        expected = [label if mask else -100 for label, mask in zip(expected, batch["attention_mask"][row], strict=True)]
        assert labels == expected
        assert labels.count(eos) == 2
        assert prompts_of(batch)[row] == ids[: len(ids) - 1 - ids[::-1].index(bot) + 1]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_hidden_path_gives_the_loss_of_full_logits(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, temperature: float
) -> None:
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, temperature=temperature)
    batch = lm_toys.batch_of(trainer)
    loss, _ = trainer.mean_loss(trainer.model, batch)
    torch.testing.assert_close(loss, by_hand(trainer, batch, AlphaBeta(0.2, 0.7), temperature), rtol=1e-5, atol=1e-7)


def adjusted(kind: str, seed: int) -> Any:
    """A tiny model whose logits are more than its head times its hidden states."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "attn_implementation": "eager",
    }
    if kind == "scaled":
        return GraniteForCausalLM(GraniteConfig(logits_scaling=4.0, **sizes)).eval()
    return Gemma2ForCausalLM(Gemma2Config(head_dim=8, final_logit_softcapping=1.5, **sizes)).eval()


@pytest.mark.parametrize("kind", ["scaled", "capped"])
def test_rescaled_and_capped_logits_are_followed_without_being_made(
    tmp_path: Path, tokenizer: Any, capsys: Any, kind: str
) -> None:
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, adjusted(kind, 1), lm_toys.frozen(adjusted(kind, 2)))
    batch = lm_toys.batch_of(trainer)
    loss, _ = trainer.mean_loss(trainer.model, batch)
    torch.testing.assert_close(loss, by_hand(trainer, batch, AlphaBeta(0.2, 0.7)), rtol=1e-5, atol=1e-7)
    assert isinstance(trainer.teacher.targets_for(batch), HiddenTargets)
    assert "logits are used" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["abkd", "sft"])
def test_a_model_without_separable_head_falls_back_to_logits(
    tmp_path: Path, tokenizer: Any, capsys: Any, method: str
) -> None:
    class Odd(LlamaForCausalLM):
        def forward(self, *args: Any, **inputs: Any) -> Any:
            output = super().forward(*args, **inputs)
            output.logits = output.logits.sin()
            return output

    student, teacher = (Odd(lm_toys.tiny_model(layers=1).config).eval() for _ in range(2))
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, method=method)
    batch = lm_toys.batch_of(trainer)
    loss, _ = trainer.mean_loss(trainer.model, batch)
    if method == "abkd":
        torch.testing.assert_close(loss, by_hand(trainer, batch, AlphaBeta(0.2, 0.7)), rtol=1e-5, atol=1e-7)
    said = capsys.readouterr().err
    assert said.count("the student's logits are used") == 1
    assert said.count("the teacher's logits are used") == 1
    trainer.train()


def test_cross_entropy_is_added_on_the_data_sets_text(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, method="kd", ce_weight=0.5, kd_weight=2.0)
    batch = lm_toys.batch_of(trainer)
    loss, _ = trainer.mean_loss(trainer.model, batch)
    with torch.no_grad():
        logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(loss, 0.5 * ce + 2 * by_hand(trainer, batch, ForwardKL()), rtol=1e-5, atol=1e-6)


def test_training_logs_loss_and_comparison(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, eval_dataset=lm_toys.instructions(6))
    trainer.train()
    first = trainer.state.log_history[0]
    names = {
        "loss",
        "divergence",
        "forward_kl",
        "nll",
        "student_entropy",
        "teacher_entropy",
        "agreement",
        "teacher_mass",
    }
    assert names | {"tokens_per_second", "num_tokens"} <= set(first)
    assert first["divergence"] == pytest.approx(first["loss"], rel=1e-5)
    evaluated = trainer.evaluate()
    assert {f"eval_{name}" for name in names} <= set(evaluated)
    assert evaluated["eval_divergence"] == pytest.approx(evaluated["eval_loss"], rel=1e-5)


def test_classes_that_are_ruled_out_are_worth_nothing_and_a_checkpoint_takes_any_sum() -> None:
    z, t = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    z[:, 0] = t[:, 0] = t[:, 1] = -math.inf
    found = comparison(Predictions(z.float()), torch.tensor([2, 3, 4, 5]), DenseTargets(t.float()))
    log_q, log_p = z[:, 1:].log_softmax(-1), t[:, 2:].log_softmax(-1)
    assert found["student_entropy"] == pytest.approx(float(-(log_q.exp() * log_q).sum()), rel=1e-5)
    assert found["forward_kl"] == pytest.approx(float((log_p.exp() * (log_p - log_q[:, 1:])).sum()), rel=1e-5)
    z[:, 2] = -math.inf
    found = comparison(Predictions(z.float()), torch.tensor([3, 3, 4, 5]), DenseTargets(t.float()))
    assert found["forward_kl"] == math.inf
    meter, again = Meter(), Meter()
    meter.add(found, 4)
    again.restore(json.loads(json.dumps(meter.state(), allow_nan=False)))
    assert again.state() == meter.state()


def test_logged_metrics_by_hand(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    """Each is what both models' full logits say, as a mean over the response tokens of the step."""
    student = lm_toys.tiny_model(seed=1, layers=1)
    torch.manual_seed(5)
    with torch.no_grad():  # near enough to its teacher to agree now and then
        student.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight)
    settings = {"max_steps": 1, "per_device_train_batch_size": 24, "alpha": 0.5, "beta": 0.5, "ce_weight": 0.3}
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, eval_dataset=lm_toys.instructions(), **settings
    )
    batch = lm_toys.batch_of(trainer, range(24))
    keep = counted(batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        log_q, log_p = (model(**inputs).logits[:, :-1][keep].log_softmax(-1) for model in (student, teacher))
    labels, q, p = batch["labels"][:, 1:][keep], log_q.exp(), log_p.exp()
    top = log_q.topk(10, -1).indices
    expected = {
        "nll": -log_q.gather(-1, labels.unsqueeze(-1)).mean(),
        "student_entropy": -(q * log_q).sum(-1).mean(),
        "teacher_entropy": -(p * log_p).sum(-1).mean(),
        "forward_kl": (p * (log_p - log_q)).sum(-1).mean(),
        "agreement": (log_q.argmax(-1) == log_p.argmax(-1)).float().mean(),
        "teacher_mass": p.gather(-1, top).sum(-1).mean(),
        "divergence": divergence_loss(log_q, log_p, AlphaBeta(0.5, 0.5)),
    }
    assert 0 < expected["agreement"] < 1
    evaluated = trainer.evaluate()
    trainer.train()
    logged = trainer.state.log_history[0]
    assert len(labels) > 256  # in training 256 of them, evenly spread, are compared
    for name, value in expected.items():
        assert evaluated[f"eval_{name}"] == pytest.approx(float(value), rel=1e-4)
        assert logged[name] == pytest.approx(float(value), rel=0.2)
    assert logged["loss"] == pytest.approx(float(expected["divergence"] + 0.3 * expected["nll"]), rel=1e-4)
    assert logged["num_tokens"] == float(batch["attention_mask"].sum())
    assert logged["tokens_per_second"] > 0


def test_the_logged_step_is_the_one_that_is_measured(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    settings = {"max_steps": 2, "logging_steps": 2, "learning_rate": 3e-2}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **settings)
    measure, found = trainer.mean_loss, list[tuple[float, float]]()

    def watch(model: Any, inputs: Any) -> Any:
        with torch.no_grad():
            logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())
        found.append((float(nll), float(by_hand(trainer, inputs, ForwardKL()))))
        return measure(model, inputs)

    trainer.mean_loss = watch
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["step"] == len(found) == 2
    assert (logged["nll"], logged["forward_kl"]) == pytest.approx(found[1], rel=1e-4)
    assert abs(found[1][0] - found[0][0]) > 1e-2


def test_the_teacher_stays_frozen_in_eval_mode_and_in_its_own_type(
    tmp_path: Path, tokenizer: Any, student: Any
) -> None:
    teacher = lm_toys.tiny_model(seed=2, attention_dropout=0.5).to(torch.bfloat16).train()
    before = lm_toys.weights(teacher)
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    teacher.train()  # someone else's hand
    batch = lm_toys.batch_of(trainer)
    first, second = trainer.teacher.targets_for(batch), trainer.teacher.targets_for(batch)
    assert torch.equal(first.hidden, second.hidden)
    assert first.hidden.dtype == torch.bfloat16
    assert not first.hidden.requires_grad
    trainer.train()
    assert lm_toys.largest_difference(before, lm_toys.weights(teacher)) == 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_autocast_does_not_reach_the_teacher(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, bf16=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert trainer.teacher.targets_for(lm_toys.batch_of(trainer)).hidden.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "bf16-weights"])
def test_half_precision_trains(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, precision: str) -> None:
    student = student.to(torch.bfloat16) if precision == "bf16-weights" else student
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, bf16=precision == "bf16", gradient_checkpointing=True, max_steps=4
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]


def test_schedules_move_over_the_steps(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        max_steps=2,
        alpha={"from": 1.0, "to": 0.2, "shape": "linear"},
        beta={"from": 0.0, "to": 0.8, "shape": "linear"},
    )
    batch = lm_toys.batch_of(trainer)
    trainer.state.max_steps = 2
    for step, divergence in ((0, AlphaBeta(1, 0)), (1, AlphaBeta(0.6, 0.4)), (2, AlphaBeta(0.2, 0.8))):
        trainer.state.global_step = step
        loss, _ = trainer.mean_loss(trainer.model, batch)
        torch.testing.assert_close(loss, by_hand(trainer, batch, divergence), rtol=1e-5, atol=1e-7)


def test_the_named_special_case_is_said(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, capsys: Any
) -> None:
    lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, alpha=1, beta=0)
    assert "forward KL" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_a_lora_adapter_trains_and_the_base_stays(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    from peft import LoraConfig

    base = lm_toys.weights(student)
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        gradient_checkpointing=True,
        max_steps=4,
        learning_rate=1e-2,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    after = {
        name.replace("base_layer.", ""): value for name, value in student.state_dict().items() if "lora" not in name
    }
    assert lm_toys.largest_difference(base, after) == 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_one_student_in_two_trainers_and_a_ready_made_adapter(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    from peft import LoraConfig, get_peft_model

    first = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    second = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    batch = lm_toys.batch_of(first)
    losses = [trainer.mean_loss(trainer.model, batch)[0] for trainer in (first, second)]
    assert torch.equal(*losses)
    adapted = get_peft_model(lm_toys.tiny_model(seed=1, layers=1), LoraConfig(r=2, target_modules=["q_proj"]))
    third = lm_toys.make_trainer(tmp_path, tokenizer, adapted, teacher)
    third.train()
    assert third.state.log_history[0]["loss"] > 0


def test_models_by_path(tmp_path: Path, student_folder: Path, teacher_folder: Path) -> None:
    trainer = lm_toys.make_trainer(tmp_path, None, str(student_folder), str(teacher_folder), max_steps=1)
    trainer.train()
    assert trainer.model.config.num_hidden_layers == 1
    for same in (str(student_folder), f"{student_folder}/", f"{student_folder}/../{student_folder.name}"):
        with pytest.raises(InputError, match="as is the student"):
            lm_toys.make_trainer(tmp_path, None, str(student_folder), same)


def test_a_copied_student_does_not_run_the_original(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    import copy

    lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    twin = copy.deepcopy(student)
    tokens = torch.arange(6).unsqueeze(0)
    expected = twin(tokens).logits
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(twin(tokens).logits, expected)


def test_compute_metrics_gets_logits_and_labels(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    from abkd.lm import DistillationTrainer

    made = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    trainer = DistillationTrainer(
        student,
        teacher,
        made.args,
        train_dataset=lm_toys.instructions(),
        eval_dataset=lm_toys.instructions(4),
        processing_class=tokenizer,
        compute_metrics=lambda found: {"shape": float(found.predictions.shape[-1] + found.label_ids.shape[0])},
    )
    assert trainer.evaluate()["eval_shape"] == 324
