"""The subcommands from end to end, their exit codes, and that nothing is lost or overwritten."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from abkd.cli._console import plain
from abkd.image.objectives import METHODS

REPORTS = {"table.csv", "table.md", "table.png", "curves.png", "results.json", "recipe.yaml", "environment.json"}


def test_compare_from_end_to_end_and_again(run: Any, recipe: Path) -> None:
    code, out, err = run("compare", "r.yaml")
    assert code == 0, err
    assert "sft" in out
    assert "times as many" in out
    assert "[4/4] abkd, seed 2" in err
    assert {path.name for path in Path("out").iterdir()} >= REPORTS
    results = json.loads(Path("out/results.json").read_text())
    assert [row["n"] for row in results["rows"]] == [2, 2]
    assert Path("out/runs/abkd/seed-2/result.json").is_file()

    code, _, err = run("compare", "r.yaml")
    assert code == 2
    assert "--resume" in err
    before = Path("out/runs/sft/seed-1/result.json").stat().st_mtime_ns
    written = Path("out/recipe.yaml").read_text()
    code, _, err = run("compare", "r.yaml", "--resume", "--methods", "sft,ttm", "--seeds", "1", "-q")
    assert code == 2
    assert "--methods sft,ttm,abkd --seeds 1,2" in err
    assert Path("out/recipe.yaml").read_text() == written
    code, _, err = run("compare", "r.yaml", "--resume", "--methods", "sft,ttm,abkd", "-q")
    assert code == 0, err
    assert "recipe.yaml, environment.json" in err
    assert Path("out/runs/sft/seed-1/result.json").stat().st_mtime_ns == before
    assert Path("out/runs/ttm/seed-1/result.json").is_file()

    code, out, err = run("eval", "out/runs/abkd/seed-1", "--json")
    assert code == 0, err
    measured = json.loads(out)["seed-1"]
    stored = json.loads(Path("out/runs/abkd/seed-1/result.json").read_text())["metrics"]["test"]["best"]
    assert measured["accuracy"] == pytest.approx(stored["accuracy"])
    assert measured["nll"] == pytest.approx(stored["nll"], rel=1e-5)
    code, out, err = run("eval", "r.yaml", "--which", "last")
    assert code == 0, err
    assert "runs/sft/seed-1" in out
    assert err.splitlines()[0].startswith("out:   0%  runs/abkd/seed-1")
    assert "100%" in err.splitlines()[-1]


def test_train_says_the_special_case_and_takes_overrides(run: Any, recipe: Path) -> None:
    words = ["divergence={name: alpha_beta, alpha: 1.0, beta: 0.0}", "training.num_train_epochs=1"]
    code, out, err = run("train", "r.yaml", *words, "--output", "other")
    assert code == 0, err
    assert "forward KL" in err
    assert "kd" in out
    written = Path("other/recipe.yaml").read_text()
    assert "num_train_epochs: 1" in written
    assert not Path("out").exists()
    code, _, err = run("train", "r.yaml", *words, "--output", "other", "--resume", "training.learning_rate=0.3")
    assert code == 2
    assert "learning_rate" in err


def test_an_interruption_says_how_to_go_on(run: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import abkd.image
    import abkd.image._run as home

    whole = home.run_image

    def interrupted(settings: object, folder: Path, **options: object) -> object:
        if "abkd" in str(folder):
            raise KeyboardInterrupt
        return whole(settings, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(home, "run_image", interrupted)
    assert abkd.image.run_image is interrupted
    code, _, err = run("compare", "r.yaml", "-q")
    assert code == 130
    assert "abkd compare r.yaml -q --resume" in err
    monkeypatch.setattr(home, "run_image", whole)
    code, _, err = run("compare", "r.yaml", "-q", "--resume")
    assert code == 0, err


def test_a_failing_run_gives_exit_code_1(run: Any, recipe: Path) -> None:
    code, out, err = run("train", "r.yaml", "training.learning_rate=1e30", "method=sft", "-q")
    assert code == 1
    assert "failed" in err
    assert "sft" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "r.yaml"], "train"),
        (["train"], "RECIPE"),
        (["train", "r.yaml", "--outputs", "x"], "--output"),
        (["train", "nowhere.yaml"], "no such file"),
        (["train", "r.yaml", "method=kdd"], "did you mean 'kd'"),
        (["train", "r.yaml", "learning_rate=1"], "learning_rate: no such key"),
        (["train", "r.yaml", "--resume", "--overwrite"], "one of the two"),
        (["compare", "r.yaml", "--methods", "kd,abdk"], "compare.methods.1"),
        (["compare", "r.yaml", "--seeds", "1,x"], "compare.seeds"),
        (["validate", "nowhere"], "no such file"),
        (["validate", "method=kd"], "expected at least one recipe"),
        (["validate", "r.yaml", "method=kdd"], "did you mean 'kd'"),
        (["eval", "."], "no finished run"),
        (["eval", "r.yaml", "--which", "first"], "first"),
        (["demo", "imag"], "'image'"),
    ],
)
def test_bad_usage_is_exit_code_2_and_says_why(run: Any, recipe: Path, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert said in err
    assert out == ""
    assert not Path("out").exists()


def test_validate_prints_ok_or_every_fault(run: Any, recipe: Path) -> None:
    code, out, err = run("validate", "r.yaml", "quickstart/image")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["r.yaml: ok", "quickstart/image: ok"]
    Path("bad.yaml").write_text(recipe.read_text().replace("method: kd", "method: kdd\nsede: 1"))
    code, out, err = run("validate", "bad.yaml", "r.yaml")
    assert code == 2
    assert out == "r.yaml: ok\n"
    assert len(err.splitlines()) == 2
    assert all(line.startswith("bad.yaml: ") for line in err.splitlines())


def test_validate_sets_values_in_every_recipe(run: Any, recipe: Path) -> None:
    Path("a=b.yaml").write_text(recipe.read_text())
    code, out, err = run("validate", "r.yaml", "seeds=[1,2]", "a=b.yaml")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["r.yaml: ok", "a=b.yaml: ok"]
    code, out, err = run("validate", "r.yaml", "training.epochs=-1", "a=b.yaml")
    assert (code, out) == (2, "")
    assert [line.partition(": ")[2].partition(":")[0] for line in err.splitlines()] == ["training.epochs"] * 2


def test_methods_as_table_and_as_json(run: Any) -> None:
    code, out, _ = run("methods", "--json")
    assert code == 0
    entries = json.loads(out)
    assert [entry["name"] for entry in entries] == list(METHODS)
    assert all(entry["description"] and entry["defaults"] for entry in entries)
    code, out, _ = run("methods")
    assert code == 0
    assert all(name in out for name in METHODS)


@pytest.mark.parametrize("task", ["image", "lm"])
def test_methods_are_readable_at_80_columns(run: Any, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("methods", task)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    written = set(out.split())
    for entry in json.loads(run("methods", task, "--json")[1]):
        assert {entry["name"], *entry["description"].split(), *entry["source"].split()} <= written


def test_dry_run_keeps_nothing(run: Any, recipe: Path) -> None:
    code, out, err = run("compare", "r.yaml", "--dry-run")
    assert code == 0, err
    assert out.splitlines() == ["r.yaml: sft: ok", "r.yaml: abkd: ok"]
    assert [path.name for path in recipe.parent.iterdir()] == ["r.yaml"]


def test_as_a_module_in_a_process_of_its_own(recipe: Path) -> None:
    command = [sys.executable, "-m", "abkd", "validate", "r.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=recipe.parent)
    assert (done.returncode, done.stdout) == (0, "r.yaml: ok\n"), done.stderr


def test_a_refused_resume_changes_nothing_and_a_moved_study_goes_on(run: Any, recipe: Path) -> None:
    code, _, err = run("train", "r.yaml", "-q")
    assert code == 0, err
    before = {name: Path("out", name).read_text() for name in ("recipe.yaml", "comparison.json")}
    code, _, err = run("train", "r.yaml", "-q", "--resume", "training.learning_rate=0.3")
    assert code == 2
    assert {name: Path("out", name).read_text() for name in before} == before
    Path("out").rename("moved")
    result = Path("moved/runs/kd/seed-1/result.json")
    stamp = result.stat().st_mtime_ns
    for spelling in ("moved", str(Path("moved").resolve()), "moved/../moved"):
        code, _, err = run("train", "r.yaml", "-q", "--resume", "--output", spelling)
        assert code == 0, err
    assert result.stat().st_mtime_ns == stamp


def test_overwrite_gives_back_what_a_study_that_never_begins_would_replace(
    run: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import abkd.image._run as home

    code, _, err = run("train", "r.yaml", "-q")
    assert code == 0, err
    result = Path("out/runs/kd/seed-1/result.json")
    before = result.stat().st_ino

    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    whole = home.run_image
    monkeypatch.setattr(home, "run_image", interrupted)
    code, _, err = run("train", "r.yaml", "-q", "--overwrite")
    assert (code, result.stat().st_ino) == (130, before)
    assert "--resume" not in err
    assert "Nothing had begun" in err
    monkeypatch.setattr(home, "run_image", whole)
    words = ("teacher={path: out/teacher}", "--overwrite", "-q")
    code, _, err = run("train", "r.yaml", *words)
    assert code == 2
    assert "out/teacher, which this study reads" in err
    assert result.is_file()
    code, _, err = run("train", "r.yaml", "-q", "--overwrite", "training.num_train_epochs=1")
    assert code == 0, err
    assert result.stat().st_ino != before
    assert sorted(path.name for path in Path().iterdir()) == ["out", "r.yaml"]


def test_an_overwrite_that_was_killed_is_undone_or_finished(run: Any, recipe: Path) -> None:
    code, _, err = run("train", "r.yaml", "-q")
    assert code == 0, err
    before = Path("out/runs/kd/seed-1/result.json").stat().st_ino
    Path("out").rename(".out.replaced")
    Path("out").mkdir()
    Path("out/comparison.json").write_text("{}")
    code, _, err = run("train", "r.yaml", "-q")
    assert code == 2
    assert "--resume" in err
    assert Path("out/runs/kd/seed-1/result.json").stat().st_ino == before
    code, _, err = run("train", "r.yaml", "-q", "--overwrite", "training.learning_rate=1e30")
    assert code == 1
    assert ".out.replaced until a run is finished" in err
    assert Path(".out.replaced/runs/kd/seed-1/result.json").stat().st_ino == before
    code, _, err = run("train", "r.yaml", "-q", "--overwrite")
    assert code == 0, err
    assert sorted(path.name for path in Path().iterdir()) == ["out", "r.yaml"]


def test_no_memory_left_fails_one_run_and_not_the_others(
    run: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import abkd.image._run as home

    whole = home.run_image

    def short(settings: Any, folder: Path, **options: Any) -> object:
        if settings.method == "sft" and settings.teacher is not None:
            raise RuntimeError("out of memory")
        return whole(settings, folder, **options)

    monkeypatch.setattr(home, "run_image", short)
    code, out, err = run("compare", "r.yaml", "-q", "--seeds", "1")
    assert code == 1
    assert "RuntimeError: out of memory" in err
    assert "abkd" in out


def test_the_version(run: Any) -> None:
    import abkd

    assert run("--version") == (0, f"abkd {abkd.__version__}\n", "")


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    plain("runs/a:bug:b")
    assert capsys.readouterr().out == "runs/a:bug:b\n"


def test_finished_students_do_not_go_with_another_teacher(run: Any, recipe: Path) -> None:
    code, _, err = run("train", "r.yaml", "-q")
    assert code == 0, err
    shutil.rmtree("out/teacher")
    words = ("--methods", "kd", "--seeds", "1,2", "--resume", "-q", "teacher.seed=5")
    code, _, err = run("compare", "r.yaml", *words)
    assert code == 2
    assert "out/runs/kd/seed-1: is finished, and the teacher has changed since" in err
    assert not Path("out/runs/kd/seed-2").exists()


def test_eval_leaves_out_what_was_set_aside(run: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("train", "r.yaml", "-q", "method=sft", "teacher=null", "compare={}")
    assert code == 0, err
    shutil.copytree("out", ".out.replaced")
    asked: list[Any] = []
    monkeypatch.setattr("abkd.engine.place_of", lambda training: asked.append(training) or torch.device("cpu"))
    assert list(json.loads(run("eval", ".", "--json")[1])) == ["out/runs/sft/seed-1"]
    assert [training["num_train_epochs"] for training in asked] == [2]
    monkeypatch.chdir("out/runs/sft/seed-1")
    assert list(json.loads(run("eval", ".", "--json")[1])) == ["seed-1"]
