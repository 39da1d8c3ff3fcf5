"""Every shipped recipe is parsed, and takes two steps with its method on made-up images of the right size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from abkd.config import image_facts, load_recipe, recipes_folder, shipped_recipes
from abkd.image.objectives import METHODS
from abkd.study._dry_run import dry_run_images

RECIPES = [name for name in shipped_recipes() if load_recipe(name).spec.task == "image"]
CIFAR = [name for name in RECIPES if name.startswith("cifar100/")]
PAIRS = {
    ("resnet56", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("vgg13", "vgg8"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("resnet32x4", "ShuffleNetV1"),
    ("resnet32x4", "ShuffleNetV2"),
    ("wrn_40_2", "ShuffleNetV1"),
}


def test_the_published_pairs_are_all_there() -> None:
    found = set()
    for name in CIFAR:
        spec = load_recipe(name).spec
        assert spec.teacher is not None
        found.add((spec.teacher.model, spec.student.model))
    assert found == PAIRS


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_every_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    passed: list[str] = []
    dry_run_images(
        recipe.plan([recipe.spec.method], [1]), tmp_path, facts=image_facts(recipe.spec.data), report=passed.append
    )
    assert passed == [recipe.spec.method]


def test_the_cifar_comparison_names_every_method() -> None:
    recipe = load_recipe("cifar100/resnet56-resnet20")
    assert recipe.compared_methods == list(METHODS)


def test_two_steps_of_every_method_of_the_demo(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart/image")
    passed: list[str] = []
    plan = recipe.plan(METHODS, [1])
    dry_run_images(plan, tmp_path, facts=image_facts(recipe.spec.data), report=passed.append)
    assert passed == list(METHODS)


@pytest.mark.parametrize("name", CIFAR)
def test_the_published_schedule(name: str) -> None:
    recipe = load_recipe(name)
    run = recipe.plan(["abkd"], [1]).runs["abkd"][1]
    slow = run.student.name.startswith(("MobileNet", "ShuffleNet"))
    assert run.training["learning_rate"] == (0.01 if slow else 0.05)
    assert run.training["num_train_epochs"] == 240
    assert run.training["lr_milestones"] == [150, 180, 210]
    assert run.training["per_device_train_batch_size"] == 64
    assert run.training["weight_decay"] == 5e-4
    published = name == "cifar100/resnet56-resnet20"
    assert run.divergence == {"name": "alpha_beta", "alpha": 0.8, "beta": 0.3 if published else 0.2}
    text = (recipes_folder() / f"{name}.yaml").read_text()
    assert ("not a published value for this pair" in re.sub(r"\s*\n#\s*", " ", text)) != published


def test_the_demo_holds_what_it_says(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart/image")
    assert recipe.compared_methods == ["sft", "kd", "dkd", "lsd", "ttm", "abkd", "abdkd", "ablsd", "abttm"]
    assert recipe.compared_seeds == [1, 2, 3]
    from abkd.image.models import build_model

    spec = recipe.spec
    assert spec.teacher is not None
    assert spec.teacher.model is not None
    small = build_model(spec.student.model, num_classes=10, channels=1, **spec.student.options)
    large = build_model(spec.teacher.model, num_classes=10, channels=1, **spec.teacher.options)
    sizes = [sum(weight.numel() for weight in model.parameters()) for model in (small, large)]
    assert sizes[1] >= 20 * sizes[0]


def test_class_folders_are_counted_before_anything_loads(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            place = tmp_path / "data" / split / label
            place.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(place / "0.png")
    recipe = load_recipe("quickstart/image", [f"data={{name: {tmp_path / 'data'}, image_size: 8}}"])
    assert image_facts(recipe.spec.data) == (2, 3, (8, 8))
