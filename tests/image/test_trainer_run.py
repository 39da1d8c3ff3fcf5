"""Whole image runs: what lies in the folder, one look at the test split, resumption, refusals."""

import dataclasses
import json
import math

import pytest
import torch
from trainer_toys import same_bits
from transformers import TrainerCallback

import abkd.image._run as run_module
from abkd.engine import TrainingError
from abkd.errors import InputError, RunExistsError
from abkd.image import DataChoice, ImageRun, ModelChoice, RunResult, load_result, load_teacher, run_image
from abkd.image._evaluate import evaluate_models
from abkd.image.data import load_data
from abkd.image.models import load_model
from abkd.storage import newest_complete, verify_manifest

DATA = DataChoice("digits", {"train_size": 200})
STUDENT = ModelChoice("cnn", {"widths": [2, 4], "hidden": 8})
TEACHER = ModelChoice("cnn", {"widths": [4, 8], "hidden": 16})
TRAINING = {"num_train_epochs": 3, "per_device_train_batch_size": 20, "use_cpu": True}


@pytest.fixture(scope="module")
def data():
    return load_data(DATA.name, **DATA.options)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    settings = ImageRun(TEACHER, DATA, method="sft", training=TRAINING | {"num_train_epochs": 8}, seed=5)
    run_image(settings, folder, progress=False, data=data)
    return folder


def distilled(teacher_folder, **changes):
    settings = ImageRun(STUDENT, DATA, "abkd", teacher=ModelChoice(str(teacher_folder)), training=TRAINING, seed=1)
    return dataclasses.replace(settings, **changes)


class Counted(torch.utils.data.Dataset):
    def __init__(self, dataset):
        self.dataset = dataset
        self.reads = [0] * len(dataset)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.dataset[index]


def test_a_run_leaves_everything_about_it(tmp_path, data, teacher_folder):
    settings = distilled(teacher_folder, divergence={"name": "alpha_beta", "alpha": 0.9, "beta": 0.3})
    result = run_image(settings, tmp_path / "run", progress=False, data=data)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["best", "data.json", "environment.json", "last", "metrics.jsonl", "result.json", "run.json"]
    for split in ("validation", "test"):
        for which in ("best", "last"):
            metrics = result.metrics[split][which]
            assert {"accuracy", "top5", "nll", "ece", "agreement"} <= set(metrics)
            assert all(math.isfinite(value) for value in metrics.values())
    accuracies = [line["validation_accuracy"] for line in result.history]
    assert [line["epoch"] for line in result.history] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) for line in result.history)
    assert result.metrics["validation"]["best"]["accuracy"] == max(accuracies)
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1
    assert result.teacher["accuracy"] > 0.5
    assert result.parameters["teacher"] > result.parameters["student"] > 0
    assert load_result(tmp_path / "run") == result
    assert ImageRun.from_dict(json.loads((tmp_path / "run" / "run.json").read_text())) == settings
    verify_manifest(tmp_path / "run" / "best")
    best = load_model(tmp_path / "run" / "best")
    assert accuracy_of(best, data.test) == pytest.approx(result.metrics["test"]["best"]["accuracy"])


def test_the_test_split_is_read_once_and_never_chooses(tmp_path, data, teacher_folder):
    """Every test image is read exactly once; its labels do not change what is chosen."""
    counted = Counted(data.test)
    settings = distilled(teacher_folder, method="kd")
    result = run_image(settings, tmp_path / "a", progress=False, data=dataclasses.replace(data, test=counted))
    assert set(counted.reads) == {1}
    turned = [{**data.test[i], "labels": (data.test[i]["labels"] + 1) % 10} for i in range(len(data.test))]
    other = run_image(settings, tmp_path / "b", progress=False, data=dataclasses.replace(data, test=turned))
    assert other.best_epoch == result.best_epoch
    assert other.metrics["validation"] == result.metrics["validation"]
    assert other.metrics["test"]["best"]["accuracy"] < 0.5 * result.metrics["test"]["best"]["accuracy"]


def test_best_holds_the_weights_of_the_best_epoch(tmp_path, data):
    """With a rate that grows, so that the last epoch is the worst."""
    training = TRAINING | {"learning_rate": 1.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 60}
    result = run_image(ImageRun(TEACHER, DATA, "sft", training=training), tmp_path / "run", progress=False, data=data)
    accuracies = [line["validation_accuracy"] for line in result.history]
    assert result.best_epoch < 3
    assert max(accuracies) > accuracies[-1] + 0.1
    assert not same_bits(weights_of(tmp_path / "run", "best"), weights_of(tmp_path / "run", "last"))
    for which in ("best", "last"):
        model = load_model(tmp_path / "run" / which)
        for split, rows in (("validation", data.validation), ("test", data.test)):
            assert accuracy_of(model, rows) == pytest.approx(result.metrics[split][which]["accuracy"])


def test_students_are_measured_in_the_precision_they_are_saved_in(tmp_path, data):
    training = TRAINING | {"learning_rate": 1.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 60}
    settings = ImageRun(TEACHER, DATA, "sft", training=training | {"bf16": True})
    result = run_image(settings, tmp_path / "run", progress=False, data=data)
    for which in ("best", "last"):
        found = evaluate_models({"saved": load_model(tmp_path / "run" / which)}, data.test)["saved"]
        assert result.metrics["test"][which] == pytest.approx(
            {name: found[name] for name in result.metrics["test"][which]}, rel=1e-5
        )


@torch.no_grad()
def accuracy_of(model, rows):
    images = torch.stack([rows[i]["pixel_values"] for i in range(len(rows))])
    labels = torch.tensor([rows[i]["labels"] for i in range(len(rows))])
    return float((model(images).logits.argmax(-1) == labels).double().mean())


def weights_of(folder, which="last"):
    return load_model(folder / which).state_dict()


def test_a_seed_fixes_the_run(tmp_path, data, teacher_folder):
    settings = distilled(teacher_folder, data=DataChoice("digits", {"train_size": 200, "augment": "crop-flip"}))
    results = [
        run_image(dataclasses.replace(settings, seed=seed), tmp_path / f"{i}", progress=False)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert same_bits(weights_of(tmp_path / "0"), weights_of(tmp_path / "1"))
    assert not same_bits(weights_of(tmp_path / "0"), weights_of(tmp_path / "2"))
    assert results[0].metrics == results[1].metrics
    assert results[0].history != results[2].history


class Stop(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 17:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cache", [False, True])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, data, teacher_folder, monkeypatch, cache):
    changes = {"teacher_cache": cache, "training": TRAINING | {"save_strategy": "steps", "save_steps": 4}}
    settings = distilled(teacher_folder, **changes)
    whole = run_image(settings, tmp_path / "whole", progress=False, data=data)
    original = run_module.DistillationTrainer

    def killed(*args, callbacks, **options):
        return original(*args, callbacks=[*callbacks, Stop()], **options)

    monkeypatch.setattr(run_module, "DistillationTrainer", killed)
    with pytest.raises(KeyboardInterrupt):
        run_image(settings, tmp_path / "run", progress=False, data=data)
    monkeypatch.undo()
    assert newest_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-16"
    assert load_result(tmp_path / "run") is None
    with pytest.raises(RunExistsError):
        run_image(settings, tmp_path / "run", progress=False, data=data)
    other = load_data(DATA.name, train_size=200, split_seed=1)
    with pytest.raises(InputError, match="the train and validation data has changed since the run was started"):
        run_image(settings, tmp_path / "run", resume=True, progress=False, data=other)
    resumed = run_image(settings, tmp_path / "run", resume=True, progress=False, data=data)
    for which in ("best", "last"):
        assert same_bits(weights_of(tmp_path / "run", which), weights_of(tmp_path / "whole", which))
    assert resumed.metrics["test"] == whole.metrics["test"]
    assert resumed.history == whole.history


def test_finished_runs_are_returned_refused_or_overwritten(tmp_path, data, monkeypatch):
    settings = ImageRun(STUDENT, DATA, "sft", training=TRAINING, seed=1)
    folder = tmp_path / "run"
    first = run_image(settings, folder, progress=False, data=data, resume=True)
    assert "agreement" not in first.metrics["test"]["best"]
    assert first.teacher is None
    assert first.parameters["teacher"] is None
    with pytest.raises(RunExistsError):
        run_image(settings, folder, progress=False, data=data)
    with pytest.raises(InputError, match="seed was 1, now 2"):
        run_image(dataclasses.replace(settings, seed=2), folder, progress=False, data=data, resume=True)
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "load_student", None)
        assert run_image(settings, folder, progress=False, data=data, resume=True) == first
    second = run_image(dataclasses.replace(settings, seed=2), folder, progress=False, data=data, overwrite=True)
    assert second.seed == 2
    assert load_result(folder) == second


def test_a_shared_teacher_gives_the_same_run(tmp_path, data, teacher_folder):
    settings = distilled(teacher_folder, method="dkd", teacher_cache=True)
    shared = load_teacher(settings.teacher, data, cache=True)
    one = run_image(settings, tmp_path / "one", progress=False, data=data, teacher=shared)
    two = run_image(settings, tmp_path / "two", progress=False, data=data, teacher=shared)
    three = run_image(settings, tmp_path / "three", progress=False)
    assert one.metrics == two.metrics == three.metrics
    assert shared.hits > 0


@pytest.mark.parametrize("training", [TRAINING, TRAINING | {"eval_strategy": "no"}], ids=["nothing said", "no"])
def test_without_a_validation_split_the_last_epoch_is_taken(tmp_path, training):
    data = DataChoice("digits", {"train_size": 100, "validation": 0})
    result = run_image(ImageRun(STUDENT, data, "sft", training=training), tmp_path / "run", progress=False)
    assert "validation" not in result.metrics
    assert result.metrics["test"]["best"] == result.metrics["test"]["last"]
    assert result.best_epoch == 3
    assert len(result.history) == 3


def test_progress_in_a_log_is_few_lines(tmp_path, data, capsys):
    run_image(ImageRun(STUDENT, DATA, "sft", training=TRAINING, seed=4), tmp_path / "run", data=data)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert 2 <= len(lines) <= 11
    assert lines[0].startswith("sft, seed 4:   ")
    assert lines[-1].startswith("sft, seed 4: 100%")
    assert "validation accuracy" in lines[-1]


def test_progress_by_a_function(tmp_path, data):
    seen = []
    settings = ImageRun(STUDENT, DATA, "sft", training=TRAINING)
    run_image(settings, tmp_path / "run", data=data, progress=lambda done, text: seen.append((done, text)))
    assert [done for done, _ in seen] == pytest.approx([step / 30 for step in range(1, 31)])
    assert seen[-1][1].startswith("epoch ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "kdd"}, "did you mean 'kd'"),
        ({"teacher": None}, "needs a teacher"),
        ({"teacher": TEACHER}, "would have random weights"),
        ({"teacher": ModelChoice("runs/none")}, "would have random weights"),
        ({"student": ModelChoice("resnet21")}, "did you mean 'resnet"),
        ({"data": DataChoice("digts")}, "did you mean 'digits'"),
        ({"training": {"learning_rte": 1}}, "did you mean 'learning_rate'"),
        ({"training": {"seed": 1}}, r"training\.seed: set elsewhere"),
        ({"training": {"method": "kd"}}, r"training\.method: set elsewhere"),
        ({"loss": {"temperature": -1.0}}, "temperature"),
        ({"divergence": {"name": "alpha_beta", "alpha": 1, "beta": 1, "gamma": 2}}, "gamma"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_settings_leave_no_folder(tmp_path, teacher_folder, changes, message):
    with pytest.raises(InputError, match=message):
        run_image(distilled(teacher_folder, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_teacher_of_other_classes(tmp_path, data, teacher_folder):
    fewer = dataclasses.replace(data, num_classes=9)
    with pytest.raises(InputError, match="10 classes, expected 9"):
        run_image(distilled(teacher_folder), tmp_path / "run", progress=False, data=fewer)
    taught = load_teacher(ModelChoice(str(teacher_folder)), data)
    with pytest.raises(InputError, match="student has 9 classes and the teacher 10"):
        run_image(distilled(teacher_folder), tmp_path / "run", progress=False, data=fewer, teacher=taught)


def test_a_diverging_run_fails_with_its_step(tmp_path, data):
    training = TRAINING | {"learning_rate": 1e30, "save_strategy": "no"}
    with pytest.raises(TrainingError, match="stopped at step"):
        run_image(ImageRun(STUDENT, DATA, "sft", training=training), tmp_path / "run", progress=False, data=data)


def test_settings_round_trip_as_plain_data(teacher_folder):
    settings = distilled(teacher_folder, loss={"kd_weight": {"from": 1.0, "to": 0.5}}, teacher_cache=True)
    assert ImageRun.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(InputError, match="did you mean 'method'"):
        ImageRun.from_dict(settings.to_dict() | {"metod": "kd"})
    with pytest.raises(InputError, match="'student' is missing"):
        ImageRun.from_dict({"data": {"name": "digits"}})
    assert RunResult.from_dict(json.loads(json.dumps({
        "seed": 1, "seconds": 1.0, "best_epoch": 1, "metrics": {}, "parameters": {}, "history": [], "teacher": None
    })), teacher_folder).folder == teacher_folder  # fmt: skip
