"""What whole language runs promise: best weights, answers, checkpoints, seeds and plain text are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_toys
import pytest
from safetensors.torch import load_file

from abkd.engine import RunResult
from abkd.lm import LmData, LmEvaluation, LmParts, LmRun, LmStudent, LmTeacher, load_model, load_parts, run_lm
from abkd.lm._run import lm_config
from abkd.lm.data import tokenise
from abkd.lm.evaluation import Decoding, evaluate, held_out, write_responses
from abkd.study import quiet_libraries

TRAINING = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "max_length": 96,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


@pytest.fixture
def settings(tmp_path: Path, teacher_folder: Path) -> LmRun:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in lm_toys.instruction_rows(28)))
    return LmRun(
        student=LmStudent(layers=1, keep="even"),
        data=LmData(str(file), validation=6, test=6, template="plain"),
        method="sft",
        teacher=LmTeacher(str(teacher_folder)),
        evaluation=LmEvaluation(samples=0),
        training=TRAINING,
        seed=5,
    )


def saved(run: Path, which: str = "best") -> dict[str, Any]:
    return load_file(run / which / "model.safetensors")


def difference(first: Path, second: Path) -> float:
    return lm_toys.largest_difference(saved(first), saved(second))


@pytest.fixture
def worsened(settings: LmRun, tmp_path: Path) -> tuple[LmRun, LmParts, RunResult]:
    """A run whose last epoch is worse than the one before, by a rate that grows."""
    evaluation = LmEvaluation(
        sets=(settings.data.train,), seeds=(1, 2), max_new_tokens=8, size=8, samples=2, sample_tokens=8
    )
    rates = {"learning_rate": 0.1, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 12}
    run = replace(settings, evaluation=evaluation, training={**TRAINING, **rates})
    parts = load_parts(run, tmp_path / "unused", progress=False)
    return run, parts, run_lm(run, tmp_path / "run", progress=False, parts=parts)


def test_best_holds_the_weights_of_the_best_epoch(worsened: tuple[LmRun, LmParts, RunResult]) -> None:
    _, parts, result = worsened
    losses = [line["validation_nll"] for line in result.history if "validation_nll" in line]
    assert result.best_epoch == losses.index(min(losses)) + 1 < len(losses)
    assert losses[-1] > min(losses) + 0.1
    assert lm_toys.largest_difference(saved(result.folder, "best"), saved(result.folder, "last")) > 1e-3
    for which in ("best", "last"):
        model = load_model(result.folder / which)
        for split, rows in (("validation", parts.validation), ("test", parts.test)):
            found = held_out(model, tokenise(rows, parts.tokenizer, max_length=96), parts.tokenizer)["nll"]
            assert found == pytest.approx(result.metrics[split][which]["nll"], rel=1e-5)


def test_texts_and_answers_are_those_of_the_best_epoch(
    worsened: tuple[LmRun, LmParts, RunResult], tmp_path: Path
) -> None:
    run, parts, result = worsened
    written: dict[str, dict[str, str]] = {}
    for which in ("best", "last"):
        folder, model = tmp_path / f"texts of {which}", load_model(result.folder / which)
        found = evaluate(
            model,
            parts.tokenizer,
            parts.sets,
            seeds=run.evaluation.seeds,
            decoding=run.decoding(),
            folder=folder,
            progress=False,
        ).average()
        assert found is not None
        if which == "best":
            assert found["mean"] == pytest.approx(result.metrics["test"]["best"]["rouge_l"])
        written[which] = texts_in(folder)
    assert texts_in(result.folder / "evaluation") == written["best"] != written["last"]

    prompts = parts.test["prompt"][:2]
    decoding = Decoding(temperature=0.0, max_new_tokens=8, no_repeat_ngram_size=0)
    start, best, last = (
        [answer.text for answer in write_responses(model, parts.tokenizer, prompts, decoding=decoding)]
        for model in (parts.student(run), load_model(result.folder / "best"), load_model(result.folder / "last"))
    )
    samples = json.loads((result.folder / "samples.json").read_text())
    assert [sample["prompt"] for sample in samples] == list(prompts)
    assert [sample["response"] for sample in samples] == list(parts.test["completion"][:2])
    assert [sample["before"] for sample in samples] == start
    assert [sample["after"] for sample in samples] == best
    assert best not in (start, last)


def texts_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in (folder / "texts").rglob("*.jsonl")}


def test_a_run_keeps_a_checkpoint_of_each_epoch_and_goes_on_from_the_last(settings: LmRun, tmp_path: Path) -> None:
    """16 rows in batches of 4: 4 steps an epoch, 12 in all."""

    def stop(share: float, text: str) -> None:
        if share > 9 / 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lm(settings, tmp_path / "run", progress=stop)
    kept = {path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-4", "checkpoint-8"}
    done: list[float] = []
    run_lm(settings, tmp_path / "run", resume=True, progress=lambda share, text: done.append(share))
    assert done[0] > 8 / 12
    run_lm(settings, tmp_path / "whole", progress=False)
    assert difference(tmp_path / "run", tmp_path / "whole") == 0


def test_seeds_are_different_runs(settings: LmRun, tmp_path: Path) -> None:
    parts = load_parts(settings, tmp_path / "unused", progress=False)
    for number, seed in enumerate((0, 0, 1)):
        run = replace(settings, seed=seed, training={**TRAINING, "num_train_epochs": 1})
        run_lm(run, tmp_path / str(number), progress=False, parts=parts)
        config = lm_config(run, tmp_path / "unused")
        assert (config.seed, config.data_seed) == (seed, seed)
    assert difference(tmp_path / "0", tmp_path / "1") == 0
    assert difference(tmp_path / "0", tmp_path / "2") > 1e-4


def test_plain_text_is_trained_on_as_much_as_it_weighs(settings: LmRun, tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("\n".join(lm_toys.sentences()[100:140]))
    short = replace(settings, method="kd", training={**TRAINING, "num_train_epochs": 1})
    beside = replace(short, data=replace(short.data, pretrain=str(plain)))
    runs = {"without": short, "0": beside, "5": beside}
    for name, run in runs.items():
        loss = {} if name == "without" else {"pretrain_weight": float(name)}
        run_lm(replace(run, loss=loss), tmp_path / name, progress=False)
    assert difference(tmp_path / "without", tmp_path / "0") == 0
    assert difference(tmp_path / "0", tmp_path / "5") > 1e-4
