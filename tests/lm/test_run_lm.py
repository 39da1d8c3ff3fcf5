"""Whole language runs: from names to a measured student in a folder, interrupted, cached, with adapters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from safetensors.torch import load_file

from abkd.engine import TrainingError
from abkd.errors import CorruptFileError, InputError, RunExistsError
from abkd.lm import LmData, LmEvaluation, LmRun, LmStudent, LmTeacher, load_lm_result, load_model, load_parts, run_lm
from abkd.lm.data import tokenise
from abkd.lm.evaluation import held_out
from abkd.study import LmPlan, build_cache, evaluate_folder, evaluate_texts, quiet_libraries, run_lms

TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "max_length": 96,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in lm_toys.instruction_rows(28)))
    return file


@pytest.fixture
def settings(rows_file: Path, teacher_folder: Path) -> LmRun:
    return LmRun(
        student=LmStudent(layers=1),
        data=LmData(str(rows_file), validation=6, test=6, template="plain"),
        method="kd",
        teacher=LmTeacher(str(teacher_folder)),
        evaluation=LmEvaluation(
            sets=(str(rows_file),), seeds=(1, 2), max_new_tokens=4, size=3, samples=2, sample_tokens=4
        ),
        training=TRAINING,
        seed=5,
    )


def test_a_run_leaves_what_it_says(settings: LmRun, tmp_path: Path) -> None:
    result = run_lm(settings, tmp_path / "run", progress=False)
    test = result.metrics["test"]
    assert set(test) == {"start", "best", "last"}
    assert test["best"]["forward_kl"] < test["start"]["forward_kl"]
    assert 0 <= test["best"]["rouge_l"] <= 100
    assert "rouge_l" not in test["start"]
    assert set(result.metrics["validation"]) == {"best", "last"}
    assert result.teacher == {"nll": test["best"]["teacher_nll"]}
    teacher, student = result.parameters["teacher"], result.parameters["student"]
    assert teacher is not None
    assert student is not None
    assert student < teacher
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best",
        "data.json",
        "environment.json",
        "evaluation",
        "last",
        "metrics.jsonl",
        "result.json",
        "run.json",
        "samples.json",
    }
    samples = json.loads((tmp_path / "run/samples.json").read_text())
    assert [set(sample) for sample in samples] == [{"prompt", "response", "before", "after"}] * 2
    assert load_lm_result(tmp_path / "run") == result
    assert run_lm(settings, tmp_path / "run", resume=True) == result
    with pytest.raises(RunExistsError):
        run_lm(settings, tmp_path / "run")
    with pytest.raises(InputError, match=r"training\.learning_rate"):
        run_lm(replace(settings, training={**TRAINING, "learning_rate": 1.0}), tmp_path / "run", resume=True)


def test_the_saved_models_measure_the_same(settings: LmRun, tmp_path: Path) -> None:
    worse = {**TRAINING, "num_train_epochs": 3, "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    run = replace(settings, training=worse, method="sft", evaluation=LmEvaluation(samples=0))
    result = run_lm(run, tmp_path / "run", progress=False)
    parts = load_parts(run, tmp_path / "unused", progress=False)
    rows = tokenise(parts.test, parts.tokenizer, max_length=96)
    for which in ("best", "last"):
        model = load_model(tmp_path / "run" / which)
        found = held_out(model, rows, parts.tokenizer, teacher=parts.teacher)
        assert found["nll"] == pytest.approx(result.metrics["test"][which]["nll"], rel=1e-5)
    assert result.metrics["validation"]["best"]["nll"] <= result.metrics["validation"]["last"]["nll"]
    again = evaluate_folder(tmp_path / "run")["run"]
    assert again["forward_kl"] == pytest.approx(result.metrics["test"]["best"]["forward_kl"], rel=1e-4)
    file = tmp_path / "run" / "best" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"best/model\.safetensors: its content has changed"):
        evaluate_folder(tmp_path / "run")
    with pytest.raises(CorruptFileError, match=r"best/model\.safetensors: its content has changed"):
        evaluate_texts(str(tmp_path / "run"), {"rows": parts.test})


def test_an_interrupted_run_ends_as_if_it_had_not_been(settings: LmRun, tmp_path: Path) -> None:
    run = replace(settings, evaluation=LmEvaluation(samples=0), training={**TRAINING, "save_steps": 3})
    run = replace(run, training={**run.training, "save_strategy": "steps"})
    whole = run_lm(run, tmp_path / "whole", progress=False)

    def stop(share: float, text: str) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lm(run, tmp_path / "parts", progress=stop)
    assert load_lm_result(tmp_path / "parts") is None
    content = Path(run.data.train).read_text()
    Path(run.data.train).write_text("\n".join(content.split("\n")[::-1]))
    with pytest.raises(InputError, match="data has changed since the run was started"):
        run_lm(run, tmp_path / "parts", resume=True, progress=False)
    Path(run.data.train).write_text(content)
    resumed = run_lm(run, tmp_path / "parts", resume=True, progress=False)
    assert resumed.metrics == whole.metrics
    first, second = (load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_answers_are_written_once_for_all_runs(settings: LmRun, tmp_path: Path) -> None:
    data = replace(settings.data, answers={"max_new_tokens": 6})
    runs = {
        method: {1: replace(settings, method=method, data=data, evaluation=LmEvaluation(samples=1, sample_tokens=2))}
        for method in ("sft", "kd")
    }
    comparison = run_lms(LmPlan(runs), tmp_path / "study", progress=False)
    assert [record.method for record in comparison.records] == ["sft", "kd"]
    assert [column.title for column in comparison.columns][:2] == ["KL", "KL at start"]
    starts = [record.metrics["test"]["start"]["forward_kl"] for record in comparison.records]
    assert starts[0] == starts[1]
    written = list((tmp_path / "study/answers").glob("part-*.json"))
    assert written
    assert not (tmp_path / "study/runs/kd/seed-1/answers").exists()
    again = evaluate_folder(tmp_path / "study")
    assert again["runs/kd/seed-1"]["nll"] == pytest.approx(comparison.records[1].metrics["test"]["best"]["nll"])
    assert {"table.md", "table.png", "curves.png"} <= {path.name for path in (tmp_path / "study").iterdir()}


def test_training_from_a_cache_loads_no_teacher(
    settings: LmRun, tmp_path: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(settings, student=LmStudent(str(student_folder)), evaluation=LmEvaluation(samples=0))
    live = run_lm(run, tmp_path / "live", progress=False)
    cache = build_cache(run, tmp_path / "cache", top_k=320, bits=16, progress=False)
    assert len(cache) == 22
    cached = replace(run, teacher=LmTeacher(cache=str(tmp_path / "cache")))
    monkeypatch.setattr("abkd.lm._parts.load_teacher", lambda _: pytest.fail("the teacher was loaded"))
    result = run_lm(cached, tmp_path / "cached", progress=False)
    assert result.metrics["test"]["best"]["nll"] == pytest.approx(live.metrics["test"]["best"]["nll"], abs=2e-3)
    assert "forward_kl" not in result.metrics["test"]["best"]
    assert "divergence" in result.metrics["validation"]["best"]
    assert [column.title for column in LmPlan({"kd": {5: cached}}).columns()] == ["NLL", "NLL at start"]


def test_a_cache_of_the_teachers_own_answers(settings: LmRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(settings.data, answers={"max_new_tokens": 6})
    student = LmStudent(str(settings.teacher.model if settings.teacher else ""), layers=1, keep="even")
    run = replace(settings, data=data, student=student, evaluation=LmEvaluation(samples=0))
    live = run_lm(run, tmp_path / "live", progress=False)
    build_cache(run, tmp_path / "cache", top_k=320, bits=16, progress=False)
    cached = replace(run, teacher=LmTeacher(cache=str(tmp_path / "cache")))
    monkeypatch.setattr("abkd.lm._parts.load_teacher", lambda _: pytest.fail("the teacher was loaded"))
    result = run_lm(cached, tmp_path / "cached", progress=False)
    assert result.metrics["test"]["best"]["nll"] == pytest.approx(live.metrics["test"]["best"]["nll"], abs=2e-3)
    other = replace(cached, data=replace(data, answers={"max_new_tokens": 5}))
    with pytest.raises(InputError, match="other sampling"):
        run_lm(other, tmp_path / "other", progress=False)
    next((tmp_path / "cache-answers").glob("part-*.json")).unlink()
    with pytest.raises(InputError, match="not all of the teacher's text is here"):
        run_lm(cached, tmp_path / "missing", progress=False)


def test_a_cache_of_another_teacher_is_found_where_the_teacher_is_at_hand(settings: LmRun, tmp_path: Path) -> None:
    build_cache(settings, tmp_path / "cache", top_k=8, progress=False)
    half = LmTeacher(
        settings.teacher.model if settings.teacher else None, dtype="bfloat16", cache=str(tmp_path / "cache")
    )
    with pytest.raises(InputError, match="another teacher"):
        load_parts(replace(settings, teacher=half), tmp_path / "unused", progress=False)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_an_adapter_is_saved_merged(settings: LmRun, tmp_path: Path) -> None:
    lora = {"r": 2, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
    run = replace(settings, student=LmStudent(layers=1, lora=lora), evaluation=LmEvaluation(samples=0))
    result = run_lm(run, tmp_path / "run", progress=False)
    model = load_model(tmp_path / "run/best")
    assert not hasattr(model, "peft_config")
    parts = load_parts(run, tmp_path / "unused", progress=False)
    rows = tokenise(parts.test, parts.tokenizer, max_length=96)
    found = held_out(model, rows, parts.tokenizer)["nll"]
    assert found == pytest.approx(result.metrics["test"]["best"]["nll"], rel=1e-4)
    assert found != pytest.approx(result.metrics["test"]["start"]["nll"], rel=1e-4)


def test_a_run_without_held_out_rows(settings: LmRun, tmp_path: Path) -> None:
    data = replace(settings.data, validation=None, test=None)
    bare = replace(settings, data=data, evaluation=LmEvaluation())
    result = run_lm(bare, tmp_path / "run", progress=False)
    assert result.metrics == {}
    with pytest.raises(InputError, match="nothing would be measured"):
        run_lms(LmPlan({"kd": {1: bare}}), tmp_path / "study", progress=False)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"data": {"test": 100}}, "none is left"),
    ({"data": {"train": "everyday-tasks"}}, "without responses"),
    ({"data": {"answers": {"max_new_token": 3}}}, "max_new_token"),
    ({"data": {"pretrain": "nothing.csv"}}, "no plain text"),
    ({"student": {"layers": None}}, "give a model, or layers"),
    ({"student": {"layers": 3}}, "expected 1 to 2"),
    ({"teacher": {"cache": "nowhere"}}, "nowhere"),
    ({"teacher": {"adapter": "nowhere"}}, "no adapter"),
    ({"student": {"model": "./nowhere", "layers": None}}, "no tokenizer"),
    ({"loss": {"clip": 1}}, "has no setting"),
    ({"training": {"learning_rte": 1}}, "learning_rte"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=lambda item: str(item)[:40])
def test_bad_settings_are_named(settings: LmRun, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    for name, value in change.items():
        before = getattr(settings, name)
        now = {**before, **value} if isinstance(before, dict) else replace(before, **value)
        settings = replace(settings, **{name: now})
    with pytest.raises(InputError, match=said):
        run_lm(settings, tmp_path / "run", progress=False)


def test_settings_are_plain_data(settings: LmRun) -> None:
    assert LmRun.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(InputError, match="did you mean 'method'"):
        LmRun.from_dict({**settings.to_dict(), "methd": "kd"})
    with pytest.raises(InputError, match="'data' is missing"):
        LmRun.from_dict({"student": {}})


def test_students_are_measured_in_the_precision_they_are_saved_in(settings: LmRun, tmp_path: Path) -> None:
    training = {
        **settings.training,
        "learning_rate": 1e-12,
        "bf16": True,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
    }
    same = replace(settings, training=training, evaluation=replace(settings.evaluation, sets=()))
    test = run_lm(same, tmp_path / "run", progress=False).metrics["test"]
    assert test["best"] == pytest.approx(test["start"], rel=1e-6)


@pytest.mark.parametrize("key", ["fsdp", "deepspeed"])
def test_a_run_of_spread_models_is_refused(settings: LmRun, key: str, tmp_path: Path) -> None:
    spread = replace(settings, training={**settings.training, key: "given"})
    with pytest.raises(InputError, match=rf"training\.{key}: a run saves and measures"):
        run_lm(spread, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_not_finite_is_named_and_costs_no_finished_run(
    settings: LmRun, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    models = {"teacher": lm_toys.tiny_model(seed=2), "student": lm_toys.tiny_model(seed=3, layers=1)}
    models["teacher"].get_output_embeddings().weight.data[7] = torch.nan
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    teacher, student = LmTeacher(str(tmp_path / "teacher")), LmStudent(model=str(tmp_path / "student"))
    broken = replace(settings, teacher=teacher, student=student)
    result = run_lm(replace(broken, method="sft"), tmp_path / "sft", progress=False)
    assert result.metrics["test"]["best"]["nll"] > 0
    assert "forward_kl" not in result.metrics["test"]["best"]
    assert "the teacher's predictions are not finite" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="the teacher's predictions are not finite"):
        run_lm(broken, tmp_path / "kd", progress=False)


def test_held_out_rows_that_are_trained_on_are_said(settings: LmRun, tmp_path: Path, capsys: Any) -> None:
    settings = replace(settings, evaluation=LmEvaluation(samples=0))
    same = replace(settings, data=replace(settings.data, validation=settings.data.train))
    load_parts(same, tmp_path / "unused", progress=False)
    said = capsys.readouterr().err
    assert "22 validation rows are train rows too" in said
    assert "6 validation rows are test rows too" in said
    load_parts(settings, tmp_path / "unused", progress=False)
    assert "warning" not in capsys.readouterr().err
