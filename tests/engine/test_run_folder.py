"""A run folder is never overwritten unasked."""

import json
import os
import socket

import pytest

from abkd.engine import RunFolder, RunResult, environment
from abkd.errors import CorruptFileError, InputError, RunExistsError

SETTINGS = {"method": "kd", "training": {"learning_rate": 0.1, "seed": 1}}


def test_a_new_run_has_settings_and_environment(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "b", SETTINGS)
    assert run.settings() == SETTINGS
    found = json.loads((run.path / "environment.json").read_text())
    assert found["packages"]["torch"]
    assert found["cpu_count"] == os.cpu_count()
    assert run.result() is None
    run.write_result({"accuracy": 0.5})
    assert run.result() == {"accuracy": 0.5}


def test_environment_names_no_machine():
    assert socket.gethostname() not in json.dumps(environment())


def test_an_existing_run_is_refused_unless_told(tmp_path):
    run = RunFolder.create(tmp_path, SETTINGS)
    run.checkpoints.mkdir()
    (run.path / "notes.txt").write_text("mine")
    run.write_result({})
    with pytest.raises(RunExistsError, match=r"--resume.*--overwrite") as caught:
        RunFolder.create(tmp_path, SETTINGS)
    assert caught.value.exit_code == 2
    RunFolder.create(tmp_path, SETTINGS, resume=True)
    assert run.result() == {}
    RunFolder.create(tmp_path, {"method": "sft"}, overwrite=True)
    assert run.settings() == {"method": "sft"}
    assert run.result() is None
    assert not run.checkpoints.exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_with_other_settings_is_refused_and_names_them(tmp_path):
    RunFolder.create(tmp_path, SETTINGS)
    with pytest.raises(InputError, match=r"training\.learning_rate was 0\.1, now 0\.2") as caught:
        RunFolder.create(tmp_path, {"method": "kd", "training": {"learning_rate": 0.2, "seed": 1}}, resume=True)
    assert "seed" not in str(caught.value)


def test_other_files_are_never_taken_for_a_run(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError, match="holds files but no run"):
            RunFolder.create(tmp_path, SETTINGS, **options)
    with pytest.raises(InputError, match="found a file"):
        RunFolder.create(tmp_path / "thesis.txt", SETTINGS)
    with pytest.raises(InputError, match="exclude each other"):
        RunFolder.create(tmp_path / "new", SETTINGS, resume=True, overwrite=True)
    assert not (tmp_path / "new").exists()


def test_a_run_killed_while_starting_can_be_started_again(tmp_path):
    (tmp_path / "environment.json").write_text("{}")
    assert RunFolder.create(tmp_path, SETTINGS).settings() == SETTINGS
    assert RunFolder(tmp_path).newest_checkpoint() is None


@pytest.mark.parametrize("name", ["best/w", "last/w", "answers/a", "evaluation/e", "checkpoints/c", "result.json"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_what_no_start_leaves_is_not_removed_unasked(tmp_path, name, options):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="holds files but no run"):
        RunFolder.create(tmp_path, SETTINGS, **options)
    assert (tmp_path / name).read_text() == "precious"


def test_what_a_start_may_leave_is_no_obstacle(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("environment.json", "data.json", ".run.json.x.tmp"):
        (tmp_path / name).write_text("{}")
    assert RunFolder.create(tmp_path, SETTINGS).data() == {}


def test_an_overwriting_that_is_killed_can_be_told_to_go_on(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path, SETTINGS)
    (tmp_path / "best").mkdir()
    run.write_result({})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("abkd.engine._run_folder.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder.create(tmp_path, {"method": "sft"}, overwrite=True)
    assert run.result() is None
    with pytest.raises(RunExistsError):
        RunFolder.create(tmp_path, {"method": "sft"})
    assert RunFolder.create(tmp_path, {"method": "sft"}, overwrite=True).settings() == {"method": "sft"}
    assert not (tmp_path / "best").exists()


def test_files_of_another_kind_are_corrupt_and_named(tmp_path):
    run = RunFolder.create(tmp_path, SETTINGS)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(CorruptFileError, match=r"run\.json"):
        RunFolder.create(tmp_path, SETTINGS, resume=True)
    for value in ({"seed": 1}, {"other": 2}):
        with pytest.raises(CorruptFileError, match=r"result\.json"):
            RunResult.from_dict(value, run.path)
