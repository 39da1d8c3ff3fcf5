"""Language runs whose teacher has other tokens, a cache or text of its own beside it, or a process with many GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch

from abkd.config import load_recipe
from abkd.engine import place_of
from abkd.errors import InputError
from abkd.lm import LmData, LmEvaluation, LmRun, LmStudent, LmTeacher, lm_config, load_parts, run_lm
from abkd.lm._judge import scores
from abkd.lm.evaluation import EvaluationResult, Response, SeedResult, SetResult
from abkd.study import LmPlan, build_cache, evaluate_folder, quiet_libraries, run_lms
from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama

TRAINING = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 64, "use_cpu": True}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


@pytest.fixture(scope="module")
def bytes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that reads single bytes, whose ids mean something else to the teacher."""
    folder = tmp_path_factory.mktemp("bytes")
    byte_tokenizer().save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    known = content["model"]["vocab"]
    last = max(known.values())
    content["model"]["vocab"] = {token: n if n < 4 else last + 4 - n for token, n in known.items()}
    file.write_text(json.dumps(content))
    tiny_llama(len(known), 1).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, student_folder: Path, teacher_folder: Path) -> LmRun:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in lm_toys.instruction_rows(20)))
    return LmRun(
        student=LmStudent(str(student_folder)),
        data=LmData(str(file), validation=4, test=4, template="plain"),
        method="kd",
        teacher=LmTeacher(str(teacher_folder)),
        evaluation=LmEvaluation(samples=0),
        training=TRAINING,
        seed=5,
    )


@pytest.fixture
def apart(settings: LmRun, bytes_folder: Path) -> LmRun:
    return replace(settings, student=LmStudent(str(bytes_folder)))


def test_a_teacher_with_other_tokens_is_compared_with_nothing(
    apart: LmRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {"max_new_tokens": 4}
    plan = {
        "sft": {1: replace(apart, method="sft")},
        "seqkd": {1: replace(apart, method="seqkd", teacher_text=text)},
    }
    comparison = run_lms(LmPlan(plan), tmp_path / "study", progress=False)
    assert not comparison.failures
    assert [column.title for column in comparison.columns] == ["NLL", "NLL at start"]
    said = capsys.readouterr().err
    assert said.count("different tokenizers: held-out rows give NLL alone") == 1
    again = evaluate_folder(tmp_path / "study")
    for record in comparison.records:
        best = record.metrics["test"]["best"]
        assert "forward_kl" not in best
        assert again[f"runs/{record.method}/seed-1"] == pytest.approx(best, rel=1e-4)
    with pytest.raises(InputError, match="different tokenizers"):
        run_lm(apart, tmp_path / "kd", progress=False)
    with pytest.raises(InputError, match="different tokenizers"):
        build_cache(apart, tmp_path / "cache", top_k=4, progress=False)


def test_the_teacher_answers_in_its_own_tokens(apart: LmRun, settings: LmRun, tmp_path: Path) -> None:
    answers = {"max_new_tokens": 5, "generation_temperature": 0.01}
    found: list[list[str]] = []
    for run in (apart, settings):
        run = replace(run, data=replace(run.data, answers=answers), method="sft")
        parts = load_parts(run, tmp_path / run.student.model[-3:] / "answers", progress=False)  # type: ignore[index]
        found.append(list(parts.train["completion"]))
    assert found[0] == found[1]


def test_the_teachers_text_is_written_once_for_all_seeds(
    settings: LmRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abkd.lm import _teacher_text

    run = replace(settings, method="seqkd", teacher_text={"max_new_tokens": 3})
    runs = {seed: replace(run, seed=seed) for seed in (1, 2)}
    calls: list[int] = []
    write = _teacher_text.write_texts
    monkeypatch.setattr(_teacher_text, "write_texts", lambda *a, **k: calls.append(1) or write(*a, **k))
    run_lms(LmPlan({"seqkd": runs}), tmp_path / "study", progress=False)
    parts = list((tmp_path / "study/teacher_text/seqkd").glob("part-*"))
    assert len(calls) == len(parts) > 0
    run_lm(runs[1], tmp_path / "alone", progress=False)
    assert (tmp_path / "alone/teacher_text/seqkd/part-000000.json").is_file()


def test_prompts_alone_are_refused_before_the_first_run_of_a_study(settings: LmRun, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"Say {n}."}) for n in range(8)))
    texts = LmEvaluation(sets=(settings.data.train,), size=2, seeds=(1,), max_new_tokens=3, samples=0)
    prompts = replace(settings, data=LmData(str(file), template="plain"), evaluation=texts)
    seqkd = replace(prompts, method="seqkd", teacher_text={"max_new_tokens": 3})
    alone = run_lms(LmPlan({"seqkd": {1: seqkd}}), tmp_path / "alone", progress=False)
    assert not alone.failures
    both = LmPlan({"seqkd": {1: seqkd}, "kd": {1: prompts}})
    with pytest.raises(InputError, match="prompts without responses"):
        run_lms(both, tmp_path / "both", progress=False)
    assert not list((tmp_path / "both").rglob("result.json"))


def test_the_start_is_measured_for_each_length_of_rows(settings: LmRun, tmp_path: Path) -> None:
    short = replace(settings, training={**TRAINING, "max_length": 40})
    plan = {"kd": {1: settings}, "rkd": {1: replace(short, method="rkd")}, "sft": {1: replace(settings, method="sft")}}
    starts = [
        record.metrics["test"]["start"] for record in run_lms(LmPlan(plan), tmp_path / "study", progress=False).records
    ]
    assert starts[0]["tokens"] == starts[2]["tokens"] > starts[1]["tokens"]


def test_a_cache_beside_a_teacher_is_of_that_teacher(
    settings: LmRun, bytes_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    build_cache(settings, tmp_path / "cache", top_k=8, progress=False)
    model = settings.teacher.model if settings.teacher else None
    beside = replace(settings, teacher=LmTeacher(model, cache=str(tmp_path / "cache")))
    parts = load_parts(beside, tmp_path / "unused", progress=False)
    assert parts.teacher is None
    assert parts.cache is not None
    other = replace(settings, teacher=LmTeacher(str(student_folder), cache=str(tmp_path / "cache")))
    with pytest.raises(InputError, match="another teacher"):
        load_parts(other, tmp_path / "unused", progress=False)


def test_one_process_with_several_gpus_is_refused(
    settings: LmRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abkd.lm import DistillationConfig

    monkeypatch.setattr(DistillationConfig, "n_gpu", property(lambda _: 4))
    with pytest.raises(InputError, match=r"sees 4 GPUs.*--nproc_per_node 4.*CUDA_VISIBLE_DEVICES"):
        run_lm(settings, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_model_that_only_reads_goes_to_the_accelerator_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    for found, wanted in ((torch.device("cuda"), torch.device("cuda", 1)), (None, torch.device("cpu"))):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda found=found, **_: found)
        assert place_of({}) == wanted
        assert place_of({"use_cpu": True}) == torch.device("cpu")


def test_scores_of_texts_keep_their_errors() -> None:
    def one(*rouge: float) -> SetResult:
        answer = (Response("a", 1, True),)
        return SetResult("a", tuple(SeedResult(n, (value,), (100.0,), answer) for n, value in enumerate(rouge)))

    found = scores(EvaluationResult({"a": one(10.0, 14.0), "b": one(20.0, 20.0)}))
    assert found["rouge_l"] == 16
    assert found["rouge_l_error"] == 1
    assert found["rouge_l_a"] == 12
    assert found["rouge_l_a_error"] == 2
    assert found["exact_match_b"] == 100
    assert "rouge_l_a_error" not in scores(EvaluationResult({"a": one(10.0)}))


def test_a_published_recipe_takes_its_settings_of_another_method() -> None:
    recipe: Any = load_recipe("lm/gpt2-0.1b", ["method=minillm"])
    run = recipe.run("minillm", 10)
    assert run.divergence is None
    assert run.training["learning_rate"] == 5e-6
    assert lm_config(run, "unused").policy() is not None
