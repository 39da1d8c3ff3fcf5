"""What a language run is told before it trains: rows that are tested on, and texts without room."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import pytest
import torch
from transformers import AutoTokenizer

from abkd.engine import RunFolder
from abkd.errors import CorruptFileError, InputError
from abkd.lm import (
    LmData,
    LmEvaluation,
    LmParts,
    LmRun,
    LmStudent,
    LmTeacher,
    load_model,
    load_parts,
    load_rows,
    run_lm,
)
from abkd.lm._adapters import config_of
from abkd.lm._rows import tell_rows
from abkd.lm.data import load_instructions, tokenise
from abkd.lm.evaluation import SEEDS, Decoding, evaluate, held_out
from abkd.storage import staged_folder
from abkd.study import build_cache, evaluate_folder, evaluate_texts
from abkd.study._evaluate_lm import asked_as

SHORT = {"num_train_epochs": 1, "per_device_train_batch_size": 2, "use_cpu": True, "gradient_checkpointing": False}
LONG = " ".join(lm_toys.sentences()[:6])


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tasks(what: str, count: int) -> list[dict[str, str]]:
    return [{"instruction": f"{what} {i}", "context": "", "response": f"Answer {i}"} for i in range(count)]


@pytest.fixture
def settings(tmp_path: Path, student_folder: Path, teacher_folder: Path) -> LmRun:
    return LmRun(
        student=LmStudent(str(student_folder)),
        data=LmData(write(tmp_path / "rows.jsonl", tasks("Train", 8)), validation=2, max_prompt_length=300),
        teacher=LmTeacher(str(teacher_folder)),
        evaluation=LmEvaluation(sets=(write(tmp_path / "tested.jsonl", tasks("Tested", 4)),), max_new_tokens=8),
    )


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That a run is refused for a reason, before any model is loaded."""
    monkeypatch.setattr("abkd.lm._parts.load_model", lambda *a, **k: pytest.fail("a model was loaded"))

    def check(settings: LmRun, match: str) -> None:
        with pytest.raises(InputError, match=match):
            load_parts(settings, tmp_path / "unused", progress=False)

    return check


def test_the_epoch_is_not_chosen_by_what_is_tested(settings: LmRun, tmp_path: Path, refused: Any) -> None:
    file = write(tmp_path / "folder" / "valid.jsonl", tasks("Held out", 5))
    evaluation = replace(settings.evaluation, sets=(str(tmp_path / "folder"),))
    for validation in (file, str(tmp_path / "folder")):
        run = replace(settings, data=replace(settings.data, validation=validation), evaluation=evaluation)
        refused(run, r"data\.validation: its rows are those of the test set 'folder'")
        refused(replace(run, evaluation=replace(evaluation, size=2)), "its rows are those of the test set")
    write(tmp_path / "chat.jsonl", lm_toys.dialogues(4).to_list())
    chat = str(tmp_path / "chat.jsonl")
    run = replace(settings, data=replace(settings.data, validation=chat), evaluation=replace(evaluation, sets=(chat,)))
    refused(run, "its rows are those of the test set 'chat'")


def test_the_published_data_pass(settings: LmRun, tmp_path: Path) -> None:
    write(tmp_path / "root" / "dolly" / "raw.jsonl", tasks("Raw", 1003))
    write(tmp_path / "root" / "dolly" / "valid.jsonl", tasks("Tested", 500))
    data = replace(settings.data, train="dolly", validation="dolly", root=str(tmp_path / "root"))
    run = replace(settings, data=data, evaluation=replace(settings.evaluation, sets=("dolly",)))
    parts = load_parts(run, tmp_path / "unused", progress=False)
    assert (len(parts.train), len(parts.validation), len(parts.sets["dolly"])) == (3, 1000, 500)


def test_the_folder_of_minillms_data_is_for_its_own_names(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path / "root" / "dolly" / "raw.jsonl", tasks("Raw", 1003))
    mine, root = write(tmp_path / "mine.jsonl", tasks("Mine", 4)), str(tmp_path / "root")
    rows = load_rows(LmData("dolly", validation=mine, root=root, max_prompt_length=None), tokenizer)
    assert (len(rows["train"]), rows["validation"]["instruction"][0]) == (3, "Mine 0")
    rows = load_rows(LmData(mine, validation="dolly", root=root, max_prompt_length=None), tokenizer)
    assert (len(rows["train"]), len(rows["validation"])) == (4, 1000)


def test_prompts_of_test_sets_are_as_long_as_the_recipe_says(settings: LmRun, tmp_path: Path, refused: Any) -> None:
    own = write(tmp_path / "own.jsonl", [{"prompt": "x", "output": "y"}, {"prompt": LONG, "output": "y"}])
    run = replace(settings, evaluation=replace(settings.evaluation, sets=(own,)))
    short = replace(run, data=replace(run.data, max_prompt_length=200))
    refused(short, r"evaluation\.sets: own, row 2: its prompt has more than 200 tokens.*max_prompt_length")
    longer = replace(run, data=replace(run.data, max_prompt_length=490))
    refused(
        replace(longer, evaluation=replace(longer.evaluation, max_new_tokens=400)),
        r"evaluation\.sets: own, prompt 2 has \d+ tokens, and with max_new_tokens=400 outgrows the model's 512",
    )
    assert longer.decoding() == Decoding(max_new_tokens=8, max_prompt_length=490)


def test_a_sound_set_of_long_prompts_passes(settings: LmRun, tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", [{"prompt": LONG, "output": "y"}])
    for most in (490, None):
        data = replace(settings.data, max_prompt_length=most)
        run = replace(settings, data=data, evaluation=replace(settings.evaluation, sets=(own,)))
        parts = load_parts(run, tmp_path / "unused", progress=False)
        assert list(parts.sets["own"]["prompt"]) == [LONG]


@pytest.mark.parametrize("asked", [{"select_by": "rouge_l"}, {"validation_texts": {"max_new_tokens": 400}}])
def test_validation_texts_have_room(settings: LmRun, asked: dict[str, Any], tmp_path: Path, refused: Any) -> None:
    own = write(tmp_path / "own.jsonl", [{"prompt": LONG, "output": "y"}])
    data = replace(settings.data, validation=own, max_prompt_length=None)
    fault = r"validation_texts, prompt 1 has .* outgrows the model's 512"
    refused(replace(settings, data=data, training=asked), fault)
    unanswered = write(tmp_path / "prompts.jsonl", [{"prompt": LONG}, {"prompt": LONG + "!"}])
    data = replace(data, train=unanswered, validation=1, answers={"max_new_tokens": 4})
    refused(replace(settings, data=data, training=asked), fault)


def test_a_trainer_tells_it_before_the_first_step(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    rows = datasets.Dataset.from_list([{"prompt": LONG, "completion": "y"}])
    options: dict[str, Any] = {"eval_dataset": rows, "max_length": 500, "validation_texts": {"max_new_tokens": 300}}
    options["eval_strategy"] = "steps"
    with pytest.raises(InputError, match="validation_texts, prompt 1 has"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **options)


def test_an_evaluation_tells_it_before_the_first_text(student: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": text, "references": ["y"]} for text in ("x", LONG)]
    sets = {name: datasets.Dataset.from_list(part) for name, part in (("short", rows[:1]), ("long", rows[1:]))}
    decoding = Decoding(max_new_tokens=400, max_prompt_length=None)
    with pytest.raises(InputError, match="long, prompt 1 has"):
        evaluate(student, tokenizer, sets, seeds=(1,), decoding=decoding, folder=tmp_path / "e", progress=False)
    assert not (tmp_path / "e").exists()


def test_a_saved_model_answers_longer_prompts_if_told(student_folder: Path, tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", [{"prompt": LONG, "output": "y"}])
    options: dict[str, Any] = {"seeds": (1,), "max_new_tokens": 4, "progress": False}
    with pytest.raises(InputError, match="raise max_prompt_length"):
        evaluate_texts(str(student_folder), (own,), max_prompt_length=100, **options)
    result = evaluate_texts(str(student_folder), (own,), max_prompt_length=490, **options)
    assert len(result.sets["own"].seeds[0].responses) == 1


def test_dialogues_are_taken_whole(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "chat.jsonl", lm_toys.dialogues(4).to_list())
    assert len(load_instructions(file, tokenizer=tokenizer, max_prompt_length=3)) == 4


def test_a_config_without_weights(student_folder: Path, tmp_path: Path) -> None:
    assert config_of(student_folder).max_position_embeddings == 512
    assert config_of(tmp_path) is None


def test_rows_are_told_once_and_prompts_alone_serve_seqkd(
    tmp_path: Path, settings: LmRun, tokenizer: Any, capfd: Any
) -> None:
    rows = [{"prompt": f"{LONG} {i}", "references": ["a", "b"]} for i in range(4)]
    data = LmData(write(tmp_path / "more.jsonl", rows), validation=1, template="chat", max_prompt_length=None)
    tell_rows(load_rows(data, tokenizer), data)
    said = capfd.readouterr().err
    assert "rows: 3 train, 1 validation" in said
    assert "3 training rows have several references: the first of each is trained on" in said
    tasks_long = [{"instruction": LONG, "response": "a"}, {"instruction": "b", "response": "a"}]
    load_rows(LmData(write(tmp_path / "long.jsonl", tasks_long), template="plain", max_prompt_length=20), tokenizer)
    assert "1 of 2 prompts shortened to max_prompt_length=20" in capfd.readouterr().err
    alone = LmData(write(tmp_path / "alone.jsonl", [{"prompt": "a"}, {"prompt": "b"}]))
    assert load_rows(alone, tokenizer, prompts=True)["train"].column_names[0] == "prompt"
    with pytest.raises(InputError, match="prompts without responses; let the teacher"):
        load_rows(alone, tokenizer)
    with pytest.raises(InputError, match=r"which data\.validation would be measured by"):
        load_rows(replace(alone, validation=1), tokenizer, prompts=True)


def test_a_run_is_asked_as_its_recipe_asks(tmp_path: Path, settings: LmRun) -> None:
    data = replace(settings.data, template="chat", max_prompt_length=None)
    run = replace(settings, data=data, evaluation=replace(settings.evaluation, max_new_tokens=7, seeds=(3,)))
    RunFolder.create(tmp_path / "run", run.to_dict())
    found, published = asked_as(tmp_path / "run"), asked_as(tmp_path)
    assert (found.data.template, found.evaluation.seeds) == ("chat", (3,))
    assert found.decoding() == Decoding(max_new_tokens=7, max_prompt_length=None)
    assert (published.data.template, published.evaluation.seeds) == ("alpaca", SEEDS)
    assert published.decoding() == Decoding()


def test_a_run_answers_other_sets_as_its_recipe_asks(settings: LmRun, student_folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", tasks("Asked", 3))
    data = replace(settings.data, template="plain", max_prompt_length=5)
    run = replace(settings, data=data, evaluation=replace(settings.evaluation, max_new_tokens=5, seeds=(3,)))
    folder = RunFolder.create(tmp_path / "run", run.to_dict()).path
    shutil.copytree(student_folder, folder / "best")
    result = evaluate_texts(str(folder), (file,), output=tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out" / "texts" / "asked").iterdir()] == ["seed-3.jsonl"]
    lines = (tmp_path / "out" / "texts" / "asked" / "seed-3.jsonl").read_text().splitlines()
    prompts, tokenizer = [json.loads(line)["prompt"] for line in lines], AutoTokenizer.from_pretrained(student_folder)
    assert len(prompts) == 3
    for number, prompt in enumerate(prompts):
        assert f"Asked {number}".startswith(prompt)
        assert 1 <= len(tokenizer(prompt)["input_ids"]) <= 5
    (seed,) = result.sets["asked"].seeds
    assert seed.seed == 3
    assert max(response.tokens for response in seed.responses) <= 5


def test_best_and_last_are_measured_apart(
    settings: LmRun, student_folder: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    run = replace(settings, data=replace(settings.data, test=3), teacher=None, method="sft")
    folder = RunFolder.create(tmp_path / "run", run.to_dict())
    kept = {"best": student_folder, "last": teacher_folder}
    for which, model in kept.items():
        shutil.copytree(model, folder.path / which)
    folder.write_result({})
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    rows = tokenise(load_rows(run.data, tokenizer)["test"], tokenizer, max_length=None)
    measured = {which: evaluate_folder(folder.path, which=which)["run"]["nll"] for which in kept}
    for which, model in kept.items():
        assert measured[which] == pytest.approx(held_out(load_model(model), rows, tokenizer)["nll"], rel=1e-5)
    assert abs(measured["best"] - measured["last"]) > 1e-2


def test_rows_are_held_out_by_share_and_split_seed(tmp_path: Path, tokenizer: Any) -> None:
    data = LmData(write(tmp_path / "twenty.jsonl", tasks("Task", 20)), validation=0.25, test=0.1)
    found: list[dict[str, set[str]]] = []
    for seed in (0, 1, 0):
        rows = load_rows(replace(data, split_seed=seed), tokenizer)
        found.append({name: set(part["prompt"]) for name, part in rows.items()})
        assert {name: len(part) for name, part in rows.items()} == {"train": 13, "validation": 5, "test": 2}
        assert len(set.union(*found[-1].values())) == 20
    assert found[0] == found[2]
    for name in ("validation", "test"):
        assert found[0][name] != found[1][name]


def test_a_student_has_the_type_that_the_recipe_says(
    settings: LmRun, tokenizer: Any, teacher: Any, student_folder: Path
) -> None:
    for chosen, origin in ((LmStudent(str(student_folder)), None), (LmStudent(layers=1), teacher)):
        for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            run = replace(settings, student=replace(chosen, dtype=name))
            made = LmParts(tokenizer, None, origin=origin).student(run)
            assert {parameter.dtype for parameter in made.parameters()} == {kind}
        as_saved = replace(settings, student=replace(chosen, dtype="auto"))
        assert LmParts(tokenizer, None, origin=origin).student(as_saved).dtype == torch.float32
        with pytest.raises(InputError, match=r"no such precision as 'bf16'; did you mean 'bfloat16'"):
            LmParts(tokenizer, None, origin=origin).student(replace(settings, student=replace(chosen, dtype="bf16")))
    assert teacher.dtype == torch.float32


def test_a_cache_is_as_warm_as_the_loss(settings: LmRun, tmp_path: Path) -> None:
    run = replace(settings, method="kd", loss={"temperature": 2.0})
    cache = build_cache(run, tmp_path / "cache", top_k=4, progress=False)
    assert cache.temperature == 2.0
    assert len(cache) == 8
    assert build_cache(replace(run, loss={}), tmp_path / "cold", top_k=4, progress=False).temperature == 1.0


def test_a_model_that_this_library_wrote_is_checked_when_it_is_loaded(student_folder: Path, tmp_path: Path) -> None:
    with staged_folder(tmp_path / "best") as folder:
        shutil.copytree(student_folder, folder, dirs_exist_ok=True)
    load_model(tmp_path / "best")
    file = tmp_path / "best" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"best/model\.safetensors: its content has changed"):
        load_model(tmp_path / "best")
    (tmp_path / "best" / "manifest.json").write_text('{"name": "of another program"}')
    load_model(tmp_path / "best")


def test_the_teacher_answers_dialogues(settings: LmRun, tmp_path: Path) -> None:
    file = write(tmp_path / "chat.jsonl", lm_toys.dialogues(8).to_list())
    data = LmData(file, validation=2, test=2, template="chat", answers={"max_new_tokens": 4})
    run = replace(settings, data=data, evaluation=LmEvaluation(samples=1, sample_tokens=2), training=SHORT)
    result = run_lm(run, tmp_path / "run", progress=False)
    assert result.metrics["test"]["best"]["forward_kl"] > 0
    rows = load_parts(run, tmp_path / "run" / "answers", progress=False).train
    assert [turn["role"] for turn in rows[0]["prompt"]] == ["user", "assistant", "user"]
    assert rows[0]["completion"][0]["role"] == "assistant"
