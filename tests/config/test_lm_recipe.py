"""Language recipes: strict, every fault at once; those that come with abkd are dry-run on tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

pytest.importorskip("trl", reason="the language-model room needs trl")

from abkd.config import LmJob, load_recipe, parse_recipe, shipped_recipes
from abkd.errors import RecipeError
from abkd.lm import METHODS
from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama
from abkd.teachers import LmCache

SHIPPED = [name for name in shipped_recipes() if name.startswith("lm/") or name == "quickstart/lm"]

# Dotted path, value written there, and what the fault's line must hold.
FAULTS: list[tuple[str, Any, tuple[str, ...]]] = [
    ("sede", 1, ("sede:", "'seeds'")),
    ("data.trian", "x", ("data.trian:", "'train'")),
    ("data.train", "dolli", ("data.train:", "'dolly'")),
    ("data.train", "rows.jsonl", ("data.train:", "no such file")),
    ("data.validation", 1.5, ("data.validation:", "1.5")),
    ("data.validation", 0, ("data.validation: expected a share in (0, 1), or a number of rows of at least 1",)),
    ("student.layers", [0, 0, 1], ("student.layers: expected different indices in rising order",)),
    ("student.layers", [1, 0], ("student.layers: expected different indices in rising order",)),
    ("divergence", {"alpha": 0.5}, ("divergence: alpha and beta belong together, and only alpha is given",)),
    ("data.template", "alpacca", ("data.template:", "alpaca")),
    ("data.pretrain", "none.txt", ("data.pretrain:", "no such file")),
    ("data.answers", {"max_new_token": 3}, ("data.answers.max_new_token:", "'max_new_tokens'")),
    ("data.answers", {"generation_temperature": 0}, ("data.answers.generation_temperature:", "0")),
    ("teacher", None, ("teacher.model is required",)),
    ("teacher.model", "./nowhere", ("teacher.model:", "no such folder")),
    ("teacher.cache", "no/cache", ("teacher.cache:", "abkd cache")),
    ("teacher.adapter", "./nowhere", ("teacher.adapter:", "no such folder")),
    ("teacher.lora", {"r": 4}, ("teacher:", "adapter")),
    ("teacher.dtype", "float", ("teacher.dtype:", "float32")),
    ("student", {}, ("student:", "layers")),
    ("student.layers", 0, ("student.layers: expected how many layers to keep, at least 1", "got 0")),
    ("student.heads", 0, ("student.heads:", "0")),
    ("student.keep", "influenc", ("student.keep:", "influence")),
    ("student.lora", {"rank": 4}, ("student.lora.rank:", "no such key")),
    ("student", {"model": "owner/large"}, ("student.model:", "teacher itself")),
    ("method", "abkdd", ("method:", "'abkd'")),
    ("divergence.name", "alpha_bet", ("divergence.name:", "'alpha_beta'")),
    ("divergence.alpah", 1, ("divergence.alpah:", "'alpha'")),
    ("divergence.alpha", {"from": 1}, ("divergence.alpha:", "'to'")),
    ("loss.temperatur", 2, ("loss.temperatur:", "'temperature'")),
    ("loss.temperature", 0, ("loss.temperature:", "0")),
    ("loss.kd_weight", -1, ("loss.kd_weight:", "-1")),
    ("loss.pretrain_weight", 1.0, ("loss.pretrain_weight: of the LM loss on data.pretrain, which is not given",)),
    ("student", {"model": "owner/small", "keep": "even"}, ("student.keep: says which layers are kept",)),
    ("loss.pretrain_weight", "much", ("loss.pretrain_weight:", "'much'")),
    ("teacher.seed", 3, ("teacher:", "seed is of a teacher that the recipe trains")),
    ("training.eos_token", "<end>", ("training.eos_token:", "the tokenizer's own end")),
    ("training.chat_template_path", "t.jinja", ("training.chat_template_path:", "the tokenizer's own template")),
    ("student_text", {"shar": 0.5}, ("student_text.shar:", "'share'")),
    ("student_text", {"share": 2}, ("student_text.share:", "2")),
    ("student_text", {"schedule": "adaptiv"}, ("student_text.schedule:", "'adaptive'")),
    ("teacher_text", {"max_new_tokens": 3}, ("method abkd:", "teacher_text")),
    ("training.max_length", 0, ("training.max_length: expected at least 2 tokens",)),
    ("loss.temperature", "hot", ("loss.temperature: expected a number or a schedule",)),
    ("loss.ce_weight", -1, ("loss.ce_weight: expected a finite number",)),
    ("training.eval_strategy", "no", ("training.eval_strategy: 'no' contradicts data.validation",)),
    ("training.learnin_rate", 1, ("training.learnin_rate:", "'learning_rate'", "abkd.lm")),
    ("training.learning_rate", "fast", ("training.learning_rate:", "'fast'")),
    ("training.lmbda", 0.5, ("training.lmbda:", "student_text.share")),
    ("training.beta", 0.5, ("training.beta:", "divergence")),
    ("training.output_dir", "x", ("training.output_dir:", "output")),
    ("training.select_by", "nl", ("training.select_by:", "'nll'")),
    ("training.validation_texts", {"size": 0}, ("training.validation_texts:", "size")),
    ("training.validation_texts", {"sise": 4}, ("training.validation_texts:", "'size'")),
    ("evaluation.sets", ["dolly", "dolly"], ("evaluation.sets:", "more than once")),
    ("evaluation.sets", ["vicunia"], ("evaluation.sets.0:", "'vicuna'")),
    ("evaluation.seeds", [], ("evaluation.seeds:",)),
    ("compare.methods", ["kd", "gdk"], ("compare.methods.1:", "'gkd'")),
    ("compare.settings", {"sft": {"divergence": {"name": "forward_kl"}}}, ("compare.settings.sft.divergence:",)),
    ("compare.settings", {"minillm": {"loss": {"clipp": 1}}}, ("compare.settings.minillm.loss.clipp:", "'clip'")),
    ("compare.settings", {"kd": {"training": {"lr": 1}}}, ("compare.settings.kd.training.lr:",)),
]


@pytest.fixture
def language() -> dict[str, Any]:
    return {
        "task": "lm",
        "data": {"train": "everyday-tasks", "validation": 0.1, "answers": {"max_new_tokens": 8}, "template": "chat"},
        "teacher": {"model": "owner/large"},
        "student": {"layers": 2},
        "divergence": {"name": "alpha_beta", "alpha": 0.2, "beta": 0.7},
        "training": {"learning_rate": 1e-4},
    }


def spoilt(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    place = recipe
    *keys, last = path.split(".")
    for key in keys:
        place = place.setdefault(key, {})
    place[last] = value
    return recipe


def test_alpha_and_beta_alone_are_the_alpha_beta_divergence(language: dict[str, Any]) -> None:
    recipe = {**language, "method": "kd", "divergence": {"alpha": 0.5, "beta": 0.5}}
    run = parse_recipe(recipe).plan(["kd"], [3]).runs["kd"][3]
    assert run.divergence == {"name": "alpha_beta", "alpha": 0.5, "beta": 0.5}


def test_a_sound_recipe_gives_its_runs(language: dict[str, Any]) -> None:
    job = parse_recipe(language)
    assert isinstance(job, LmJob)
    run = job.plan(["kd", "abkd"], [3]).runs["abkd"][3]
    assert run.divergence == {"name": "alpha_beta", "alpha": 0.2, "beta": 0.7}
    assert run.seed == 3
    assert run.data.answers is not None
    assert run.data.answers["max_new_tokens"] == 8
    assert job.plan(["kd"], [3]).runs["kd"][3].divergence is None
    assert type(run).from_dict(run.to_dict()) == run
    again = yaml.safe_load(job.to_yaml())
    assert parse_recipe(again).plan(["abkd"], [3]) == job.plan(["abkd"], [3])


def test_the_special_case_is_named(language: dict[str, Any]) -> None:
    spoilt(language, "divergence", {"name": "alpha_beta", "alpha": 1.0, "beta": 0.0})
    assert "forward KL" in parse_recipe(language).describe("abkd")
    assert "own in 50%" in parse_recipe(language).describe("gkd")


@pytest.mark.parametrize(("path", "value", "said"), FAULTS, ids=lambda item: item if isinstance(item, str) else None)
def test_a_fault_is_named(language: dict[str, Any], path: str, value: Any, said: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(spoilt(language, path, value))
    assert any(all(part in line for part in said) for line in caught.value.problems), caught.value.problems


def test_settings_that_need_each_other_are_judged_together(language: dict[str, Any]) -> None:
    language["training"] |= {"padding_free": True, "max_length": None, "dataloader_prefetch_factor": 2}
    language["training"] |= {"dataloader_num_workers": 1}
    assert parse_recipe(language)
    language["training"]["max_length"] = 64
    with pytest.raises(RecipeError, match=r"training\.padding_free: padding_free=True takes rows whole"):
        parse_recipe(language)


def test_settings_for_vllm_are_a_mapping(language: dict[str, Any]) -> None:
    assert parse_recipe(spoilt(language, "student_text.vllm", {"mode": "server"}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("select_by", "rouge_l"), ("validation_texts", {"size": 3}), ("eval_strategy", "epoch"), ("eval_on_start", True)],
)
def test_an_epoch_is_chosen_by_validation_rows(language: dict[str, Any], key: str, value: Any) -> None:
    language["training"][key] = value
    assert parse_recipe(language)
    language["data"]["validation"] = None
    with pytest.raises(RecipeError, match=rf"training\.{key}: needs validation rows"):
        parse_recipe(language)


def test_steps_between_evaluations_need_evaluations_by_steps(language: dict[str, Any]) -> None:
    language["training"] |= {"eval_steps": 5, "logging_steps": 5}
    with pytest.raises(RecipeError, match=r"training\.eval_steps: has no effect with eval_strategy 'epoch'") as caught:
        parse_recipe(language)
    assert len(caught.value.problems) == 1
    language["training"]["eval_strategy"] = "steps"
    language["compare"] = {"settings": {"kd": {"training": {"eval_steps": 7}}}}
    assert parse_recipe(language)


def test_the_note_explains_the_columns_that_are_there(language: dict[str, Any]) -> None:
    note = parse_recipe(language).plan(["kd"], [1]).note()
    assert "of the epoch chosen by the validation rows. KL: forward KL" in note
    del language["data"]["answers"], language["data"]["validation"], language["teacher"], language["divergence"]
    language |= {"student": {"model": "owner/small"}, "method": "sft"}
    language["data"]["train"] = "dolly"
    language["data"]["test"] = 8
    note = parse_recipe(language).plan(["sft"], [1]).note()
    assert "of the last epoch. NLL: of the responses, in nats a token on held-out test rows" in note
    assert "KL" not in note
    assert "agreem." not in note


def test_all_faults_come_at_once(language: dict[str, Any]) -> None:
    for path, value in (("data.trian", 1), ("method", "abdk"), ("training.lr", 1), ("student.keep", "x")):
        spoilt(language, path, value)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(language)
    assert len(caught.value.problems) == 4


def small_cache(folder: Path) -> Path:
    tokenizer = byte_tokenizer()
    teacher = tiny_llama(len(tokenizer), 1).eval().requires_grad_(False)
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[-100, 2, 3]]})
    LmCache.build(rows, teacher, tokenizer, folder, top_k=4, progress=False)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"temperature": 2.0}}, r"teacher\.cache: .*temperature 1, the loss has 2"),
        ({"divergence": {"alpha": 0.8, "beta": 0.5}}, r"teacher\.cache: .*alpha \+ beta = 1\.3"),
        (
            {"divergence": {"alpha": {"from": 0.2, "to": 1.2}, "beta": 0.5}},
            r"teacher\.cache: alpha \+ beta moves from 0\.7 to 1\.7, and above 1 a cache serves a single sum",
        ),
    ],
)
def test_a_cache_that_does_not_serve_the_loss(
    language: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    del language["data"]["answers"]
    language["data"]["train"] = "dolly"
    language |= {"student": {"model": "owner/small"}, "divergence": None, "method": "abkd"}
    language["teacher"] = {"cache": str(small_cache(tmp_path / "cache"))}
    parse_recipe(language)
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**language, **changes})
    language["teacher"] = {"cache": str(tmp_path)}
    with pytest.raises(RecipeError, match=r"teacher\.cache: .*abkd cache"):
        parse_recipe(language)


def test_a_cache_does_not_go_with_written_text(language: dict[str, Any], tmp_path: Path) -> None:
    del language["data"]["answers"]
    language["data"]["train"] = "dolly"
    language["teacher"] = {"cache": str(small_cache(tmp_path / "cache"))}
    language["student"] = {"model": "owner/small"}
    language["divergence"] = None
    assert parse_recipe(language)
    answered = {**language, "data": {"train": "everyday-tasks", "answers": {"max_new_tokens": 8}}}
    with pytest.raises(RecipeError, match=r"without the teacher's answers.*abkd cache RECIPE"):
        parse_recipe(answered)
    (tmp_path / "cache-answers").mkdir()
    assert parse_recipe(answered)
    for method, word in (("gkd", "student writes"), ("seqkd", "teacher writes")):
        with pytest.raises(RecipeError, match=word):
            parse_recipe({**language, "method": method})


def test_a_method_may_have_a_learning_rate_of_its_own() -> None:
    plan = load_recipe("lm/gpt2-0.1b").plan(["minillm", "abkd"], [1])
    assert plan.runs["minillm"][1].training["learning_rate"] == 5e-6
    assert plan.runs["abkd"][1].training["learning_rate"] == 5e-4


@pytest.mark.parametrize(
    ("name", "divergence", "rate", "epochs"),
    [
        ("lm/gpt2-0.1b", (0.2, 0.7), 5e-4, 20),
        ("lm/gpt2-0.3b", (0.2, 0.7), 3e-4, 20),
        ("lm/gpt2-0.7b", (0.2, 0.7), 1e-4, 10),
        ("lm/openllama2-3b", (0.1, 0.8), 2.5e-4, 10),
    ],
)
def test_the_published_settings(name: str, divergence: tuple[float, float], rate: float, epochs: int) -> None:
    recipe = load_recipe(name)
    run = recipe.plan(["abkd"], [10]).runs["abkd"][10]
    assert run.divergence is not None
    assert (run.divergence["alpha"], run.divergence["beta"]) == divergence
    assert run.training["learning_rate"] == rate
    assert run.training["num_train_epochs"] == epochs
    assert run.training["max_length"] == 512
    assert run.training["select_by"] == "rouge_l"
    assert run.training["validation_texts"] == {"max_new_tokens": 256}
    assert run.data.validation == "dolly"
    assert run.evaluation.sets == ("dolly", "self-instruct", "vicuna", "s-ni", "unni")
    assert run.evaluation.seeds == (10, 20, 30, 40, 50)
    assert recipe.compared_methods == list(METHODS)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
@pytest.mark.parametrize("name", SHIPPED)
def test_two_steps_of_every_shipped_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    passed: list[str] = []
    recipe.dry_run([recipe.spec.method], tmp_path, passed.append)
    assert passed == [recipe.spec.method]


def test_two_steps_of_every_method_of_a_comparison(tmp_path: Path) -> None:
    recipe = load_recipe("lm/gpt2-0.1b")
    passed: list[str] = []
    recipe.dry_run(recipe.compared_methods, tmp_path, passed.append)
    assert passed == list(METHODS)


def test_a_language_recipe_without_task_says_so_alone() -> None:
    recipe = {"data": {"train": "dolly", "template": "chat"}, "teacher": {"model": "a"}, "student": {"layers": 2}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe)
    (fault,) = caught.value.problems
    assert fault.startswith("task: not given, which means image, but data.train, data.template, student.layers belong")
    assert fault.endswith("write task: lm")
