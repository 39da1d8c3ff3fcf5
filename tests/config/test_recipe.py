"""Recipes: every fault at once, each a line with the field's path and the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from abkd.config import Data, image_facts, load_recipe, parse_recipe
from abkd.errors import InputError, RecipeError
from abkd.image import ModelChoice, load_teacher
from abkd.image.data import load_data
from abkd.image.models import build_model, save_model

# Dotted path, value written there, and what the fault's line must hold.
FAULTS: list[tuple[str, Any, tuple[str, ...]]] = [
    ("task", "imag", ("task:", "image")),
    ("sede", 1, ("sede:", "'seeds'")),
    ("data.validaton", 0.1, ("data.validaton:", "'validation'")),
    ("data.name", "mnist5k", ("data.name:", "'mnist-5k'")),
    ("data.name", "no/such/folder", ("data.name:", "no such folder")),
    ("data.name", "cifar100", ("data.root:", "required")),
    ("data.root", "somewhere", ("data.root:", "package")),
    ("data.validation", 1.5, ("data.validation:", "1.5")),
    ("data.validation", "much", ("data.validation:", "'much'")),
    ("data.train_size", 0, ("data.train_size:", "0")),
    ("data.augment", "flip", ("data.augment:", "crop-flip")),
    ("data.download", "perhaps", ("data.download:", "'perhaps'")),
    ("teacher", None, ("teacher:", "required", "abkd")),
    ("teacher.model", "resnet57", ("teacher.model:", "'resnet56'")),
    ("teacher.training", None, ("teacher:", "untrained")),
    ("teacher.weights", "none.pth", ("teacher:", "weights")),
    ("teacher.cache", "disk", ("teacher.cache:", "memory")),
    ("teacher.training.learning_rte", 1, ("teacher.training.learning_rte:", "'learning_rate'")),
    ("student.model", "cnm", ("student.model:", "'cnn'")),
    ("student.model", None, ("student.model:",)),
    ("student.options.width", [1], ("student.options.width:", "'widths'")),
    ("student.options.hidden", -3, ("student.options.hidden:", "-3")),
    ("student.options.widths", "x", ("student.options.widths:",)),
    ("student.pretrained", True, ("student:", "published weights")),
    ("method", "abkdd", ("method:", "'abkd'")),
    ("divergence.name", "alpha_bet", ("divergence.name:", "'alpha_beta'")),
    ("divergence.alpah", 1, ("divergence.alpah:", "'alpha'")),
    ("divergence.alpha", "x", ("divergence.alpha:", "'x'")),
    ("divergence.alpha", {"from": 1, "to": 0, "shap": "cosine"}, ("divergence.alpha:", "'shape'")),
    ("divergence.alpha", {"from": 1}, ("divergence.alpha:", "'to'")),
    ("divergence.beta", float("nan"), ("divergence.beta:", "nan")),
    ("loss.temperatur", 2, ("loss.temperatur:", "'temperature'")),
    ("loss.temperature", 0, ("loss.temperature:", "0")),
    ("loss.kd_weight", -1, ("loss.kd_weight:", "-1")),
    ("training.learning_rate", -1, ("training.learning_rate:", "-1")),
    ("training.learning_rate", "fast", ("training.learning_rate:", "'fast'")),
    ("training.learnin_rate", 1, ("training.learnin_rate:", "'learning_rate'")),
    ("training.num_train_epochs", 0, ("training.num_train_epochs:", "more than 0")),
    ("training.per_device_train_batch_size", True, ("training.per_device_train_batch_size:", "True")),
    ("training.seed", 3, ("training.seed:", "seeds")),
    ("training.output_dir", "x", ("training.output_dir:", "output")),
    ("training.lr_scheduler_type", "cosin", ("training.lr_scheduler_type:", "'cosine'")),
    ("training.optim", "sgdd", ("training.optim:", "'sgd'")),
    ("training.select_by", "acuracy", ("training.select_by:", "'accuracy'")),
    ("training.momentum", 2, ("training.momentum:", "2")),
    ("training.lr_milestones", [3, 2], ("training.lr_milestones:", "growing")),
    ("seeds", [], ("seeds:", "at least 1")),
    ("seeds", [1, 1], ("seeds:", "more than once")),
    ("seeds", [-1], ("seeds.0:", "-1")),
    ("compare.methods", ["kd", "kdd"], ("compare.methods.1:", "'kd'")),
    ("compare.settings.dkdd", {}, ("compare.settings.dkdd:", "'dkd'")),
    ("compare.settings.dkd.loss", {"bta": 1}, ("compare.settings.dkd.loss.bta:", "Known")),
    ("compare.settings.dist.divergence", {"name": "forward_kl"}, ("compare.settings.dist.divergence:", "takes no")),
]


def spoil(recipe: dict[str, Any], path: str, value: object) -> None:
    *keys, last = path.split(".")
    place = recipe
    for key in keys:
        place = place.setdefault(key, {})
    place[last] = value


def problems(recipe: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe)
    assert caught.value.exit_code == 2
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def test_the_sound_recipe_is_sound(sound: dict[str, Any]) -> None:
    assert parse_recipe(sound).spec.seeds == [1, 2]


@pytest.mark.parametrize(("path", "value", "words"), FAULTS, ids=[f"{path}={value}" for path, value, _ in FAULTS])
def test_each_fault_is_one_line_with_its_path(
    sound: dict[str, Any], path: str, value: object, words: tuple[str, ...]
) -> None:
    spoil(sound, path, value)
    found = [problem for problem in problems(sound) if problem.startswith(words[0])]
    assert len(found) == 1
    for word in words:
        assert word in found[0]


def test_all_faults_come_at_once(sound: dict[str, Any]) -> None:
    chosen = [fault for fault in FAULTS if fault[0] not in ("task", "teacher", "teacher.training", "seeds")]
    once = {path: (path, value, words) for path, value, words in chosen if path.count(".") <= 2}
    once.pop("teacher.weights")  # makes the section wrong as a whole, and so hides its other faults
    once.pop("student.model")
    once.pop("divergence.name")
    once.pop("method")  # the settings of an unknown method cannot be judged
    once.pop("data.root")
    once.pop("student.pretrained")
    for path, value, _ in once.values():
        spoil(sound, path, value)
    found = problems(sound)
    missed = [words[0] for _, _, words in once.values() if not any(line.startswith(words[0]) for line in found)]
    assert missed == []


def test_missing_sections_are_named() -> None:
    found = problems({"method": "sft"})
    assert "data: required and not given" in found
    assert "student: required and not given" in found


def test_teacher_and_data_must_agree_on_the_classes(sound: dict[str, Any], tmp_path: Path) -> None:
    save_model(build_model("cnn", num_classes=7, channels=1), tmp_path / "teacher")
    sound["teacher"] = {"path": str(tmp_path / "teacher")}
    (line,) = problems(sound)
    assert line.startswith("teacher.path:")
    assert "7" in line
    assert "10" in line
    sound["teacher"] = {"path": str(tmp_path / "nothing")}
    (line,) = problems(sound)
    assert "no such folder" in line


def test_a_teacher_s_weights_must_be_there(sound: dict[str, Any]) -> None:
    sound["teacher"] = {"model": "resnet20", "weights": "none.pth"}
    assert problems(sound) == ("teacher.weights: no such file: none.pth",)


def test_a_method_without_a_teacher_needs_none(sound: dict[str, Any]) -> None:
    del sound["teacher"], sound["divergence"]
    sound |= {"method": "sft", "loss": {}}
    assert parse_recipe(sound).plan(["sft"], [1]).teacher is None


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    for text in ("", "- 1", "3", "a: [1"):
        file = tmp_path / "r.yaml"
        file.write_text(text)
        with pytest.raises(RecipeError):
            load_recipe(file)
    with pytest.raises(RecipeError, match="folder"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="quickstart/image"):
        load_recipe("quickstart/imag")
    (tmp_path / "latin").write_bytes(b"a: \xff")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "latin")


def test_what_is_written_wins_and_the_method_fills_the_rest(sound: dict[str, Any]) -> None:
    sound["divergence"] = {"alpha": 0.4}
    recipe = parse_recipe(sound)
    run = recipe.plan(["abkd", "kd"], [5]).runs["abkd"][5]
    assert run.divergence == {"name": "alpha_beta", "alpha": 0.4, "beta": 0.3}
    assert run.loss == {"kd_weight": 2.0}
    other = recipe.plan(["kd"], [5]).runs["kd"][5]
    assert other.divergence is None
    assert other.loss == {}


def test_named_points_of_the_plane_are_said(sound: dict[str, Any]) -> None:
    sound["divergence"] = {"alpha": 1.0, "beta": 0.0}
    assert "forward KL" in parse_recipe(sound).describe("abkd")
    sound["divergence"] = {"alpha": {"from": 1.0, "to": 0.2}, "beta": 0.0}
    words = parse_recipe(sound).describe("abkd")
    assert "at the start" in words
    assert "from 1.0 to 0.2" in words


def test_written_out_and_read_again_it_is_the_same(sound: dict[str, Any], tmp_path: Path) -> None:
    sound["compare"] = {"methods": ["kd"], "settings": {"dkd": {"loss": {"other_weight": 2.0}}}}
    recipe = parse_recipe(sound)
    file = tmp_path / "again.yaml"
    file.write_text(recipe.to_yaml())
    assert load_recipe(file).spec == recipe.spec
    assert yaml.safe_load(recipe.to_yaml())["seeds"] == [1, 2]


def test_student_and_teacher_get_their_own_data(sound: dict[str, Any]) -> None:
    plan = parse_recipe(sound).plan(["kd"], [1])
    assert plan.teacher is not None
    assert "train_size" not in plan.teacher.data.options
    assert plan.runs["kd"][1].data.options["train_size"] == 100
    assert plan.runs["kd"][1].data.options["validation"] == plan.teacher.data.options["validation"]


def test_another_method_on_the_command_line_leaves_the_old_one_s_settings(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    sound["compare"] = {"methods": ["kd"], "settings": {"dkd": {"loss": {"other_weight": 4.0, "ce_weight": 0.5}}}}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(sound))
    kd = load_recipe(file, ["method=kd"]).plan(["kd"], [1]).runs["kd"][1]
    assert (kd.divergence, kd.loss) == (None, {})
    recipe = load_recipe(file, ["loss.other_weight=2.0", "method=dkd"])
    assert recipe.plan(["dkd"], [1]).runs["dkd"][1].loss == {"other_weight": 2.0, "ce_weight": 0.5}
    assert recipe.spec.divergence is None
    same = load_recipe(file, ["method=abkd"]).plan(["abkd"], [1]).runs["abkd"][1]
    assert same.loss == {"kd_weight": 2.0}
    with pytest.raises(RecipeError, match=r"(?m)^.*: loss\.othr_weight: .*'other_weight'"):
        load_recipe(file, ["method=dkd", "loss.othr_weight=2.0"])


def test_settings_of_the_file_s_method_stay_with_it_in_a_comparison(sound: dict[str, Any], tmp_path: Path) -> None:
    sound["compare"] = {"methods": ["kd", "abkd"]}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(sound))
    plain = load_recipe(file).plan(["abkd"], [1]).runs["abkd"][1]
    recipe = load_recipe(file, ["method=kd", "loss.kd_weight=3.0"])
    runs = recipe.plan(recipe.compared_methods, [1]).runs
    assert runs["abkd"][1] == plain
    assert (runs["kd"][1].divergence, runs["kd"][1].loss) == (None, {"kd_weight": 3.0})
    recipe = load_recipe(file, ["method=kd", "compare.settings.abkd.loss.ce_weight=0.5"])
    assert recipe.plan(["abkd"], [1]).runs["abkd"][1].loss == {"kd_weight": 2.0, "ce_weight": 0.5}
    sound["compare"]["settings"] = {"abkd": {"loss": {"kd_weight": 4.0}}}
    file.write_text(yaml.safe_dump(sound))
    assert load_recipe(file, ["method=kd"]).plan(["abkd"], [1]).runs["abkd"][1].loss == {"kd_weight": 4.0}
    sound["loss"] = {"kd_wight": 2.0}
    del sound["compare"]["settings"]
    file.write_text(yaml.safe_dump(sound))
    with pytest.raises(RecipeError, match=r"compare\.settings\.abkd\.loss\.kd_wight: .*'kd_weight'"):
        load_recipe(file, ["method=kd"])


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("training.lr_milestones", [1, float("inf")], "training.lr_milestones.1"),
        ("seeds", [1, float("nan")], "seeds.1"),
        ("data.options", {"crop": [{"pad": [float("-inf")]}]}, "data.options.crop.0.pad.0"),
        ("teacher.training.lr_milestones", [float("nan")], "teacher.training.lr_milestones.0"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(
    sound: dict[str, Any], path: str, value: object, where: str
) -> None:
    spoil(sound, path, value)
    (line,) = problems(sound)
    assert line.startswith(f"{where}: expected")
    assert line.endswith(("got nan", "got inf", "got -inf"))


def test_alpha_and_beta_alone_are_the_alpha_beta_divergence(sound: dict[str, Any]) -> None:
    sound |= {"method": "kd", "divergence": {"alpha": 0.5, "beta": 0.5}}
    run = parse_recipe(sound).plan(["kd"], [1]).runs["kd"][1]
    assert run.divergence == {"name": "alpha_beta", "alpha": 0.5, "beta": 0.5}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training.learning_rate", float("inf"), "finite"),
        ("training.max_grad_norm", float("nan"), "finite"),
        ("training.push_to_hub", True, "push best/"),
        ("training.metric_for_best_model", "accuracy", "select_by"),
        ("training.load_best_model_at_end", True, "select_by"),
        ("training.greater_is_better", False, "select_by"),
        ("teacher", {"path": ".", "seed": 3}, "seed is of a teacher that the recipe trains"),
        ("teacher", {"path": ".", "options": {"widths": [4]}}, "takes no weights, pretrained, training or options"),
        ("training.eval_steps", 5, "no effect with eval_strategy 'epoch'"),
        ("training.logging_steps", 5, "no effect with logging_strategy 'epoch'"),
        ("training.save_only_model", True, "state of the optimiser"),
        ("training.save_strategy", "best", "select_by"),
        ("training.batch_eval_metrics", True, "whole split"),
        ("training.eval_do_concat_batches", False, "whole split"),
        ("training.neftune_noise_alpha", 5.0, "images have none"),
        ("training.train_sampling_strategy", "group_by_length", "images have no length"),
        ("training.disable_tqdm", True, "--quiet"),
        ("training.max_steps", 0, "at least 1"),
        ("training.lr_milestones", [2, 3], "3 not reached in 3 epochs"),
        ("training.eval_strategy", "no", "contradicts data.validation"),
        ("training.optim", "galore_adamw", "galore_torch"),
        ("training.report_to", "wandbb", "'wandb'"),
        ("data.options", {"augment": "none"}, "data.augment"),
    ],
)
def test_what_would_work_against_the_trainer_is_refused(
    sound: dict[str, Any], path: str, value: object, said: str
) -> None:
    spoil(sound, path, value)
    (line,) = problems(sound)
    assert line.startswith(path)
    assert said in line


def test_milestones_are_measured_against_the_epochs_where_these_are_known(sound: dict[str, Any]) -> None:
    for training in ({"num_train_epochs": 3.5}, {"max_steps": 100}):
        parse_recipe(sound | {"training": {"lr_milestones": [2, 3], **training}})


@pytest.mark.parametrize("section", ["training", "teacher.training"])
@pytest.mark.parametrize(("key", "value"), [("select_by", "nll"), ("eval_strategy", "epoch"), ("eval_on_start", True)])
def test_an_epoch_is_chosen_by_validation_images(sound: dict[str, Any], section: str, key: str, value: object) -> None:
    spoil(sound, "data.validation", 0)
    spoil(sound, f"{section}.{key}", value)
    (line,) = problems(sound)
    assert line.startswith(f"{section}.{key}: needs validation images")


def test_the_table_of_a_study_without_validation_images_speaks_of_the_last_epoch(sound: dict[str, Any]) -> None:
    plan = parse_recipe(sound).plan(["kd"], [1])
    assert "last epoch %" in [column.title for column in plan.columns()]
    assert "chosen on the validation split" in plan.note()
    spoil(sound, "data.validation", 0)
    spoil(sound, "training.eval_strategy", "no")
    plan = parse_recipe(sound).plan(["kd"], [1])
    assert "last epoch %" not in [column.title for column in plan.columns()]
    assert "of the last epoch." in plan.note()
    assert "validation" not in plan.note()


def test_a_teacher_may_be_trained_from_published_weights(sound: dict[str, Any]) -> None:
    sound["teacher"] |= {"model": "timm:test_resnet", "pretrained": True}
    assert parse_recipe(sound).plan(["kd"], [1]).teacher.student.options == {"pretrained": True}


def test_a_saved_teacher_s_folder_is_not_taken_for_the_model_of_its_name(
    sound: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = build_model("cnn", num_classes=10, channels=1)
    save_model(saved, "cnn")
    sound["teacher"] = {"path": "cnn"}
    chosen = parse_recipe(sound).plan(["kd"], [1]).runs["kd"][1].teacher
    data = load_data("digits")
    pixels = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_teacher(chosen, data)(pixels), saved.eval()(pixels).logits)
    with pytest.raises(InputError, match=r"random weights.*as a folder this one is '\./cnn'"):
        load_teacher(ModelChoice("cnn"), data)


def test_a_data_set_is_not_taken_for_the_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar100/a").mkdir(parents=True)
    facts = image_facts(Data(name="cifar100", root=str(tmp_path)))
    assert facts is not None
    assert facts[0] == 100


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("a", "b", ".ipynb_checkpoints"):
        (tmp_path / "train" / name).mkdir(parents=True)
    facts = image_facts(Data(name=str(tmp_path)))
    assert facts is not None
    assert facts[0] == 2


def test_absurd_yaml_is_a_fault_of_the_recipe(tmp_path: Path) -> None:
    for text in ("a: " + "[" * 5000 + "]" * 5000, "seeds: [" + "9" * 5000 + "]"):
        file = tmp_path / "r.yaml"
        file.write_text(text)
        with pytest.raises(RecipeError):
            load_recipe(file)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("seeds", [], "expected at least 1 item"),
        ("training.lr_milestones", 3, "a list"),
        ("student", {"model": "timm:"}, "after the colon"),
        ("data.name", "hub:", "after the colon"),
    ],
)
def test_what_is_empty_or_no_list_is_said_in_plain_words(
    sound: dict[str, Any], path: str, value: object, said: str
) -> None:
    spoil(sound, path, value)
    (line,) = problems(sound)
    assert said in line
    assert "validation" not in line
