"""Every shipped language recipe: all its methods take two steps on tiny models, and write texts of the same length."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="the language-model room needs trl")

from abkd.config import LmJob, load_recipe, recipes_folder, shipped_recipes
from abkd.lm import lm_config, run_lm
from abkd.study._dry_run_lm import _short, dry_run_lms, made_up_parts
from abkd.study._lm import quiet_libraries

RECIPES = [name for name in shipped_recipes() if name.startswith("lm/")]


def job_of(name: str, *overrides: str) -> LmJob:
    job = load_recipe(name, overrides)
    assert isinstance(job, LmJob)
    return job


@pytest.mark.parametrize("name", RECIPES)
def test_all_methods_of_a_recipe_write_equally_long_texts(name: str) -> None:
    job, lengths = job_of(name), dict[str, int]()
    for method in job.compared_methods:
        config = lm_config(job.run(method, 0), "unused")
        for text in (config.student_sampling(), config.teacher_sampling()):
            if text is not None:
                lengths[method] = text.max_new_tokens
    comments = re.findall("^#.*", (recipes_folder() / f"{name}.yaml").read_text(), re.MULTILINE)
    assert len(set(lengths.values())) <= 1 or "max_new_tokens" in " ".join(comments), lengths


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_every_method_of_every_recipe_dry_runs(tmp_path: Path) -> None:
    quiet_libraries()
    done: set[str] = set()
    for name in RECIPES:
        plan = job_of(name).plan(job_of(name).compared_methods, [1])
        for run in [plan.teacher, *(plan.runs[method][1] for method in plan.methods)]:
            if run is None:
                continue
            short = _short(run)
            written = short.to_dict()
            written["training"].pop("learning_rate")  # all else equal, the same run
            key = json.dumps(written, sort_keys=True)
            if key not in done:
                run_lm(short, tmp_path / str(len(done)), progress=False, parts=made_up_parts(run))
                done.add(key)
    assert len(done) > 20


@pytest.mark.parametrize(
    "overrides",
    [
        ("student.layers=null", "student.heads=9", "student.intermediate_size=100"),
        ("student_text={share: 0.5, vllm: {mode: server}}",),
        ("training.select_by=rouge_l", "training.validation_texts={size: 1, max_new_tokens: 256}"),
    ],
)
def test_a_sound_recipe_is_no_failure(overrides: tuple[str, ...], tmp_path: Path) -> None:
    job = job_of("lm/qwen3-4b-24-layers", *overrides)
    passed: list[str] = []
    dry_run_lms(job.plan([job.spec.method], [1]), tmp_path, report=passed.append)
    assert passed == [job.spec.method]


@pytest.mark.parametrize(
    ("method", "training"),
    [("gkd", {"max_new_tokens": 512}), ("abkd", {"lmbda": 0.5}), ("abkd", {"seq_kd": True}), ("gkd", {"lmbda": 0.0})],
)
def test_texts_asked_for_by_training_are_short_too(method: str, training: dict[str, Any]) -> None:
    run = job_of("lm/gpt2-0.1b").run(method, 1)
    short = _short(replace(run, student_text=None, training={**run.training, **training}))
    config = lm_config(short, "unused")
    texts = (config.student_sampling(), config.teacher_sampling())
    assert [text.max_new_tokens for text in texts if text is not None] == ([] if training == {"lmbda": 0.0} else [4])
