"""What a user can get wrong, said before time is lost; and targets from a cache in place of a live teacher."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

import abkd
from abkd.errors import InputError
from abkd.lm import DistillationConfig, DistillationTrainer, lora, make_student
from abkd.lm._batch import counted
from abkd.lm._setup import Setup
from abkd.lm.data import tokenise
from abkd.losses import SparseTargets
from abkd.teachers import LmCache


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "distilm"}, "did you mean 'distillm'"),
        ({"alpha": 0.5}, "alpha and beta belong together"),
        ({"beta": 0.5, "method": "gkd"}, "Jensen-Shannon"),
        ({"alpha": 0.5, "beta": 0.5, "divergence": "forward_kl"}, "not both"),
        ({"divergence": "forward_lk"}, "did you mean 'forward_kl'"),
        ({"divergence": {"skew": 0.1}}, "'name' is missing"),
        ({"method": "sft", "divergence": "forward_kl"}, "no effect"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": {"from": 2.0, "to": 0.0}}, "temperature"),
        ({"kd_weight": -1.0}, "kd_weight"),
        ({"ce_weight": {"from": 1.0, "until": 0.5}}, "ce_weight: schedule"),
        ({"alpha": {"from": 1.0, "to": 0.2, "shap": "cosine"}, "beta": 0.0}, "did you mean 'shape'"),
        ({"method": "sft", "ce_weight": 0.0}, "empty"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices"),
        ({"loss_type": "dft"}, "loss_type"),
        ({"use_liger_kernel": True}, "liger"),
        ({"padding_free": True, "max_length": 64}, "padding_free=True takes rows whole, so max_length=64"),
        ({"pretrain_weight": -1.0}, "pretrain_weight"),
        ({"method_settings": {"clip": 0.1}}, "has no setting"),
        ({"max_new_tokens": 8}, "neither student nor teacher writes"),
        ({"method": "sft", "temperature": 2.0}, "compares nothing, so temperature"),
        ({"method": "seqkd", "kd_weight": 2.0}, "compares nothing, so temperature and kd_weight"),
        ({"kd_weight": 0.0}, "the loss is empty"),
        ({"select_by": "rouge_l"}, "select_by has no effect without evaluations"),
        ({"select_by": "nll"}, "select_by has no effect without evaluations"),
        ({"validation_texts": {"sizes": 3}}, "did you mean 'size'"),
        ({"student_text": "half"}, "student_text: expected settings by name, such as {'share': 0.5}, got 'half'"),
        ({"student_text": 0.5}, "such as {'share': 0.5}, got 0.5"),
        ({"divergence": 3}, "divergence: expected a name, .* got 3"),
        ({"divergence": 0.5 * abkd.ForwardKL() + 0.5 * abkd.ReverseKL()}, "has no name that settings can keep"),
        ({"method": "minillm", "method_settings": {"clip": "x"}}, "clip: expected a number above 0, got 'x'"),
        ({"max_length": 0}, "max_length: expected at least 2 tokens"),
        ({"method_settings": "clip"}, "method_settings: expected settings by name"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillationConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_a_divergence_object_is_kept_as_settings(tmp_path: Path) -> None:
    made = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, divergence=abkd.AlphaBeta(0.2, 0.7))
    assert made.divergence == {"name": "alpha_beta", "alpha": 0.2, "beta": 0.7}
    assert made.objective().at(0.0).divergence == abkd.AlphaBeta(0.2, 0.7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_dataset": None}, "train_dataset: expected a datasets.Dataset or a list of dicts"),
        ({"train_dataset": [{"prompt": "a", "completion": "b"}, 3]}, "row 2: expected a dict"),
        ({"train_dataset": [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": 3}]}, "one kind"),
        ({"teacher_model": None, "teacher_cache": 3}, "teacher_cache: expected an LmCache or its folder, got int"),
        ({"teacher_model": None, "teacher_cache": "no-such-folder"}, "no-such-folder: expected a teacher cache"),
        ({"teacher_model": None, "teacher_cache": __file__}, "expected a teacher cache, a folder"),
        ({"teacher_model": "./no-such-model"}, "no-such-model"),
    ],
)
def test_wrong_kinds_of_data_and_models(
    tmp_path: Path, student: Any, teacher: Any, tokenizer: Any, given: dict[str, Any], message: str
) -> None:
    rows = [{"prompt": "a", "completion": " b"}] * 2
    whole: dict[str, Any] = {"teacher_model": teacher, "train_dataset": rows, "processing_class": tokenizer, **given}
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(InputError, match=message):
        DistillationTrainer(student, args=args, **whole)


def test_evaluations_need_rows_and_a_list_of_rows_is_taken(
    tmp_path: Path, student: Any, teacher: Any, tokenizer: Any
) -> None:
    rows = [{"prompt": "a", "completion": " b"}] * 2
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, eval_strategy="epoch")
    with pytest.raises(InputError, match="there is no eval_dataset"):
        DistillationTrainer(student, teacher, args, train_dataset=rows, processing_class=tokenizer)
    made = DistillationTrainer(
        student, teacher, args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer
    )
    rows_made: Any = made.train_dataset
    assert len(rows_made) == 2


def test_an_unknown_metric_is_refused_before_anything_loads(tmp_path: Path, tokenizer: Any) -> None:
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, eval_strategy="epoch", select_by="nl")
    with pytest.raises(InputError, match="select_by: no such metric as 'nl'; did you mean 'nll'"):
        DistillationTrainer("nowhere", "elsewhere", args, train_dataset=[{"text": "a"}], processing_class=tokenizer)


def test_seqkd_needs_prompts_alone(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    prompts = [{"prompt": "What is 1?"}, {"prompt": "And 2?"}]
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, method="seqkd", max_new_tokens=4)
    made = DistillationTrainer(student, teacher, args, train_dataset=prompts, processing_class=tokenizer)
    rows: Any = made.train_dataset
    assert len(rows) > 0
    kd = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, method="kd")
    with pytest.raises(InputError, match="found prompt"):
        DistillationTrainer(student, teacher, kd, train_dataset=prompts, processing_class=tokenizer)


@pytest.mark.parametrize(("settings", "told"), [({}, True), ({"method": "kd"}, False)])
def test_what_a_top_k_cache_loses_with_a_small_alpha_is_said(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, capfd: Any, settings: dict[str, Any], told: bool
) -> None:
    rows = tokenise(lm_toys.instructions(4), tokenizer)
    LmCache.build(rows, teacher, tokenizer, tmp_path / "few", top_k=10, progress=False)
    given = {"train_dataset": rows, "teacher_cache": str(tmp_path / "few"), **settings}
    lm_toys.make_trainer(tmp_path, tokenizer, student, None, **given)
    said = capfd.readouterr().err
    assert ("at most 10 entries a token" in said) == told
    assert ("--power 0.9, or of more entries" in said) == told


def test_sizes_that_are_no_numbers(teacher: Any) -> None:
    with pytest.raises(InputError, match="r: expected a whole number, got 'x'"):
        lora(r="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="layers: expected 1 to 2"):
        make_student(teacher, layers="2")  # type: ignore[arg-type]


def test_plain_settings(tmp_path: Path) -> None:
    made = DistillationConfig.from_settings(
        {"method": "kd", "learning_rate": 1e-4}, output_dir=str(tmp_path), use_cpu=True
    )
    assert made.method == "kd"
    for settings, message in (
        ({"learnin_rate": 1.0}, "did you mean 'learning_rate'"),
        ({"output_dir": "x"}, "set elsewhere"),
        ({"lr_scheduler_type": "nonsense"}, "nonsense"),
    ):
        with pytest.raises(InputError, match=message):
            DistillationConfig.from_settings(settings, output_dir=str(tmp_path), use_cpu=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a", "answer": "b"}], "found answer, question"),
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": " "}],
            r"1 of 2 completions are empty \(rows 1\)",
        ),
        (
            [{"messages": [{"role": "user", "content": "a"}]}],
            r"1 of 1 dialogues have no answer .*\(rows 0\); the roles in row 0 are user",
        ),
        ([{"prompt": "a", "completion": 4}], "row 0: expected text, or a list of messages in completion, got int"),
        ([{"prompt": "a", "completion": None}], "row 0: .* got none: it is missing or null"),
        (
            [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}],
            "dialogues have no answer",
        ),
    ],
)
@pytest.mark.parametrize("where", ["train_dataset", "eval_dataset"])
def test_data_that_cannot_be_trained_on(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, where: str, rows: Any, message: str
) -> None:
    with pytest.raises(InputError, match=f"{where}: .*{message}"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **{where: Dataset.from_list(rows)})


def test_prompts_that_leave_no_room_for_a_response(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    rows = Dataset.from_list([{"prompt": "a" * 400, "completion": "b"}])
    with pytest.raises(InputError, match="fill max_length=128"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, train_dataset=rows)


def test_rows_whose_prompt_fills_the_limit_are_counted(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, capsys: Any
) -> None:
    rows = Dataset.from_list([*lm_toys.instruction_rows(3), {"prompt": "a" * 400, "completion": "b"}])
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, train_dataset=rows)
    assert len(trainer.train_dataset) == 3
    assert "1 of 4 rows left out" in capsys.readouterr().err


def test_dialogues_need_a_template(tmp_path: Path, student: Any, teacher: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "tokenizer", chat_template=None))
    with pytest.raises(InputError, match="no chat template"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, train_dataset=lm_toys.dialogues(2))


def test_a_template_may_come_from_a_file(tmp_path: Path, student: Any, teacher: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "tokenizer", chat_template=None))
    (tmp_path / "template.jinja").write_text(lm_toys.CHAT_TEMPLATE)
    settings = {"chat_template_path": str(tmp_path / "template.jinja"), "max_length": 256}
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, train_dataset=lm_toys.dialogues(2), **settings
    )
    assert trainer.train_dataset[0]["labels"].count(tokenizer.eos_token_id) == 2
    assert trainer.processing_class.chat_template == lm_toys.CHAT_TEMPLATE
    assert tokenizer.chat_template is None  # the caller's own


def test_a_template_without_marks_gives_each_answer_a_row(tmp_path: Path, student: Any, teacher: Any) -> None:
    plain = lm_toys.CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    found = []
    for template in (lm_toys.CHAT_TEMPLATE, plain):
        folder = tmp_path / f"tokenizer-{len(found)}"
        tokenizer = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(folder, chat_template=template))
        data = {"train_dataset": lm_toys.dialogues(3), "eval_dataset": lm_toys.dialogues(2)}
        trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, max_length=256, **data)
        labels = [label for row in trainer.train_dataset["labels"] for label in row if label != -100]
        found.append((len(trainer.train_dataset), labels))
        trainer.evaluate()
    assert [count for count, _ in found] == [3, 6]
    assert found[0][1] == found[1][1]


def test_teachers_that_do_not_fit(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    def make(teacher_model: Any, **settings: Any) -> None:
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher_model, **settings)

    with pytest.raises(InputError, match="needs a teacher"):
        make(None)
    with pytest.raises(InputError, match="what the teacher writes"):
        make(None, method="seqkd")
    with pytest.raises(InputError, match="the student itself"):
        make(student)
    teacher.model.embed_tokens = student.model.embed_tokens
    with pytest.raises(InputError, match="share weights"):
        make(teacher)
    with pytest.raises(InputError, match="given by name"):
        make(lm_toys.tiny_model(seed=2), teacher_model_init_kwargs={"dtype": "float32"})


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_an_adapter_of_virtual_tokens_is_refused(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    peft = pytest.importorskip("peft")
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(InputError, match="virtual tokens shift the positions of the loss: use LoRA"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, peft_config=prompts)


def test_a_balancing_loss_is_refused_and_can_be_left_out(tmp_path: Path, tokenizer: Any, teacher: Any) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    ends = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    experts = {"num_key_value_heads": 2, "num_local_experts": 2, "output_router_logits": True}

    def make(**more: Any) -> Any:
        student = MixtralForCausalLM(MixtralConfig(vocab_size=lm_toys.VOCABULARY, **shape, **experts, **ends, **more))
        return lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, max_steps=1)

    with pytest.raises(InputError, match=r"balancing loss, .* router_aux_loss_coef=0\.0"):
        make()
    make(router_aux_loss_coef=0.0).train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select_by": "nll"}, "select_by keeps whole weights in memory: .* load_best_model_at_end"),
        ({"validation_texts": {}}, "validation_texts are written with whole weights"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_spread(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, settings: dict[str, Any], message: str
) -> None:
    rows = lm_toys.instructions(6)
    given = {"eval_dataset": rows, "eval_strategy": "steps", "eval_steps": 1, **settings}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **given)
    setup = Setup(student, teacher, trainer.args, rows, rows, tokenizer, None)

    def check() -> None:
        setup.check_trainer(trainer)
        setup.validation_writer_of(trainer)

    check()
    for spread in ("is_fsdp_enabled", "is_deepspeed_enabled"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, spread, True)
            with pytest.raises(InputError, match=message):
                check()


def test_names_are_those_of_trls_distillation() -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    ours, theirs = (list(inspect.signature(kind).parameters) for kind in (DistillationTrainer, gkd.GKDTrainer))
    assert ours[:10] == theirs[:10]
    assert "peft_config" in ours
    settings = {field.name for field in fields(DistillationConfig)}
    assert {"temperature", "lmbda", "beta", "max_new_tokens", "teacher_model_init_kwargs", "seq_kd"} <= settings


def test_arguments_of_the_trainer(student: Any, tokenizer: Any, instructions: Any, tmp_path: Path) -> None:
    from trl.trainer.sft_config import SFTConfig

    other = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False)
    with pytest.raises(InputError, match="DistillationConfig"):
        DistillationTrainer(student, student, other, train_dataset=instructions, processing_class=tokenizer)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="processing_class"):
        lm_toys.make_trainer(tmp_path, None, student, None, method="sft")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    from abkd.engine import TrainingError

    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    with torch.no_grad():
        student.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        trainer.train()


def test_the_best_weights_are_kept(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        select_by="nll",
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=lm_toys.instructions(6),
    )
    trainer.train()
    lines = [line["eval_nll"] for line in trainer.state.log_history if "eval_nll" in line]
    assert trainer.best.value == min(lines)
    assert trainer.best.weights


@pytest.mark.parametrize(
    "settings",
    [
        {"select_by": "nll"},
        {"validation_texts": {}},
        {"method": "distillm"},
    ],
)
def test_what_goes_by_one_evaluation_set_refuses_several(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, settings: dict[str, Any]
) -> None:
    several = {"one": lm_toys.instructions(4), "other": lm_toys.instructions(4, start=10)}
    given = {"eval_dataset": several, "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(InputError, match="goes by one evaluation set"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **given, **settings)
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, max_steps=1, **given)
    trainer.train()
    names = {name for line in trainer.state.log_history for name in line if name.endswith("nll")}
    assert names == {"nll", "eval_one_nll", "eval_other_nll"}


def test_cheap_checks_come_before_the_teacher_is_loaded(
    tmp_path: Path, tokenizer: Any, student: Any, monkeypatch: Any
) -> None:
    def make(**settings: Any) -> None:
        lm_toys.make_trainer(tmp_path, tokenizer, student, str(tmp_path / "nowhere"), **settings)

    with pytest.raises(InputError, match=r"nowhere.*no causal language model could be loaded.*or pass a loaded model"):
        make()
    monkeypatch.setattr("abkd.lm._setup.load_teacher", lambda *_: pytest.fail("the teacher was loaded"))
    with pytest.raises(InputError, match="found question"):
        make(train_dataset=Dataset.from_list([{"question": "a"}]))
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        make(train_dataset=lm_toys.dialogues(2))


class WholeCache:
    """What a cache gives when it has kept every token: the live teacher's distributions."""

    def __init__(self, teacher: Any, tokens: int) -> None:
        self.teacher, self.tokens = teacher, tokens
        self.vocabulary, self.temperature = 320, 1.0

    def check_tokenizer(self, tokenizer: Any) -> None:
        assert len(tokenizer) == 320

    def check_divergence(self, divergence: Any) -> None:
        assert divergence.name

    def check_dataset(self, dataset: Any) -> None:
        assert "labels" in dataset.column_names

    def targets_for(self, batch: dict[str, Any]) -> SparseTargets:
        with torch.no_grad():
            logits = self.teacher(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return SparseTargets.from_logits(logits[:, :-1][counted(batch)], self.tokens)


@pytest.mark.parametrize("method", ["abkd", "kd", "rkd"])
def test_a_cache_of_all_tokens_is_the_live_teacher(tmp_path: Path, tokenizer: Any, method: str) -> None:
    ends = []
    for cached in (False, True):
        student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.frozen(lm_toys.tiny_model(seed=2))
        given = {"teacher_cache": WholeCache(teacher, 320)} if cached else {}
        trainer = lm_toys.make_trainer(
            tmp_path,
            tokenizer,
            student,
            None if cached else teacher,
            method=method,
            optim="sgd",
            learning_rate=0.5,
            eval_dataset=lm_toys.instructions(6),
            **given,
        )
        trainer.train()
        metrics = trainer.evaluate()
        ends.append(
            (lm_toys.weights(student), [metrics[f"eval_{name}"] for name in ("loss", "agreement", "teacher_mass")])
        )
    assert lm_toys.largest_difference(ends[0][0], ends[1][0]) < 1e-5
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)


def test_a_cache_knows_no_text_of_the_students(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    cache = WholeCache(teacher, 8)
    with pytest.raises(InputError, match="data set's own text"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, None, teacher_cache=cache, method="gkd")
    with pytest.raises(InputError, match="not both"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, teacher_cache=cache)


def test_a_real_cache_teaches_without_the_teacher(tmp_path: Path, tokenizer: Any, teacher: Any) -> None:
    from abkd.teachers._lm_cache import LmCache

    live = lm_toys.make_trainer(tmp_path, tokenizer, lm_toys.tiny_model(seed=1, layers=1), teacher)
    live.train()
    cache = LmCache.build(
        live.train_dataset, teacher, tokenizer, tmp_path / "cache", top_k=320, bits=16, progress=False
    )
    for settings in ({}, {"packing": True, "per_device_train_batch_size": 1}):
        trainer = lm_toys.make_trainer(
            tmp_path, tokenizer, lm_toys.tiny_model(seed=1, layers=1), None, teacher_cache=cache, **settings
        )
        trainer.train()
        if not settings:
            assert lm_toys.largest_difference(lm_toys.weights(live.model), lm_toys.weights(trainer.model)) < 1e-2
            losses = [[line["loss"] for line in one.state.log_history if "loss" in line] for one in (live, trainer)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    make = lm_toys.make_trainer
    few = LmCache.build(live.train_dataset, teacher, tokenizer, tmp_path / "few", top_k=50, power=1.2, progress=False)
    above = {"alpha": 0.8, "beta": {"from": 0.2, "to": 0.6, "until": 0.5}}
    with pytest.raises(
        InputError, match=r"alpha \+ beta moves from 1 to 1\.4, and above 1 a cache serves a single sum"
    ):
        make(tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=few, **above)
    make(tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=few, alpha=0.8, beta=0.4).train()
    make(tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=cache, **above)  # all is kept, so no tail
    odd = lm_toys.tiny_model()
    odd.lm_head = torch.nn.Sequential(odd.lm_head)
    odd.lm_head.weight = odd.lm_head[0].weight
    with pytest.raises(InputError, match=r"needs a student whose hidden states and head .*give teacher_model"):
        make(tmp_path, tokenizer, odd, None, teacher_cache=cache)
    with pytest.raises(InputError, match="temperature 1"):
        make(tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=cache, temperature=2.0)
    held_out = lm_toys.instructions(4, start=200)
    with pytest.raises(InputError, match="not in this teacher cache"):
        make(tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=cache, train_dataset=held_out)
    trainer = make(tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=cache, eval_dataset=held_out)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_nll"], rel=1e-5)
    assert "eval_divergence" not in metrics


def test_which_rows_a_cache_knows_is_asked_anew_for_each_evaluation(
    tmp_path: Path, tokenizer: Any, teacher: Any, capfd: Any
) -> None:
    from trl.data_utils import pack_dataset

    rows, others = lm_toys.instructions(6), lm_toys.instructions(4, start=200)
    tokens = tokenise(rows, tokenizer, max_length=128)
    cache = LmCache.build(tokens, teacher, tokenizer, tmp_path / "cache", top_k=320, bits=16, progress=False)
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, lm_toys.tiny_model(), None, teacher_cache=cache, train_dataset=rows, eval_dataset=rows
    )
    assert trainer.evaluate()["eval_divergence"] > 0
    assert "not in the teacher cache" not in capfd.readouterr().err
    assert "eval_divergence" not in trainer.evaluate(others)
    assert "not in the teacher cache: it gives nll alone" in capfd.readouterr().err
    assert trainer.evaluate()["eval_divergence"] > 0
    assert "test_divergence" not in trainer.predict(tokenise(others, tokenizer, max_length=128)).metrics
    assert "not in the teacher cache: it gives nll alone" in capfd.readouterr().err
    assert trainer.predict(trainer.eval_dataset).metrics["test_divergence"] > 0
    unknown = lm_toys.make_trainer(
        tmp_path, tokenizer, trainer.model, None, teacher_cache=cache, train_dataset=rows, eval_dataset=others
    )
    unknown.evaluate()
    unknown.evaluate()
    assert capfd.readouterr().err.count("not in the teacher cache") == 1
    packed = {"packing": True, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "max_length": 256}
    whole = lm_toys.make_trainer(
        tmp_path, tokenizer, trainer.model, None, teacher_cache=cache, train_dataset=rows, eval_dataset=rows, **packed
    )
    assert len(whole.eval_dataset) < len(rows)
    assert whole.evaluate()["eval_divergence"] == pytest.approx(trainer.evaluate()["eval_divergence"], rel=1e-5)
    foreign = pack_dataset(tokenise(others, tokenizer, max_length=128).select_columns(["input_ids", "labels"]), 256)
    with pytest.raises(InputError, match="1 of 1 rows are not in this teacher cache"):
        cache.check_dataset(foreign)


def test_a_configuration_serves_several_trainers_and_stays_as_it_is(
    tmp_path: Path, student: Any, tokenizer: Any
) -> None:
    args = DistillationConfig(
        str(tmp_path), method="sft", use_cpu=True, max_steps=1, save_strategy="no", disable_tqdm=True
    )
    for rows in (lm_toys.dialogues(), lm_toys.instructions(), lm_toys.dialogues()):
        DistillationTrainer(student, None, args, train_dataset=rows, processing_class=tokenizer)
        assert args.assistant_only_loss is False


def test_predictions_have_the_measures_of_an_evaluation(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    rows = lm_toys.instructions(6)
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, eval_dataset=rows)
    evaluated, predicted = trainer.evaluate(), trainer.predict(trainer.eval_dataset).metrics
    for name in ("nll", "divergence", "forward_kl", "agreement", "loss"):
        assert predicted[f"test_{name}"] == evaluated[f"eval_{name}"]


def test_only_metrics_whose_better_end_is_known_can_be_chosen_by(tmp_path: Path, student: Any, tokenizer: Any) -> None:
    args = DistillationConfig(
        str(tmp_path), method="sft", use_cpu=True, eval_strategy="epoch", select_by="teacher_mass"
    )
    with pytest.raises(InputError, match=r"no such metric as 'teacher_mass'.* Known: agreement, .* rouge_l"):
        DistillationTrainer(student, None, args, train_dataset=lm_toys.instructions(), processing_class=tokenizer)


def test_dropout_is_the_models_own_unless_it_is_disabled(tmp_path: Path, tokenizer: Any, teacher: Any) -> None:
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "vocab_size": lm_toys.VOCABULARY}
    cases = (
        ({"method": "kd"}, False),
        ({"method": "kd", "disable_dropout": True}, True),
        ({"method": "minillm"}, True),
    )
    for settings, disabled in cases:
        student = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).train()
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **settings)
        ids = torch.arange(8)[None]
        assert torch.equal(student(ids).logits, student(ids).logits) is disabled
