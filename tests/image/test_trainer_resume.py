"""A run that is killed and resumed ends with the same bits as one that was not."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from trainer_toys import Images, same_bits, student, trainer
from transformers import TrainerCallback

from abkd.engine import MetricsLog
from abkd.errors import CorruptFileError, InputError
from abkd.storage import MANIFEST_NAME, NoRoomError, newest_complete, verify_manifest


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Ends the training at the very end of a step, as a signal would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def run_in(folder, *callbacks, **options):
    """20 steps in 4 epochs, with dropout, batch norm, augmentation by epoch, and AdamW's state."""
    defaults = {
        "train": Images(40, augment=True),
        "validation": Images(24, seed=9),
        "callbacks": [MetricsLog(folder.with_suffix(".jsonl")), *callbacks],
        "num_train_epochs": 4,
        "optim": "adamw_torch",
        "learning_rate": 3e-3,
        "logging_strategy": "steps",
        "logging_steps": 3,
        "save_total_limit": None,
    }
    return trainer(folder, **(defaults | options))


def outcome(run):
    lines = [
        {key: value for key, value in line.items() if not key.endswith(("runtime", "per_second", "train_loss"))}
        for line in run.state.log_history
    ]
    return run.model.state_dict(), run.best.weights, lines, (run.best.value, run.best.epoch)


def assert_same(one, two):
    assert same_bits(one[0], two[0])
    assert same_bits(one[1], two[1])
    assert one[2:] == two[2:]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    run = run_in(tmp_path_factory.mktemp("straight") / "run", save_strategy="no")
    run.train()
    assert run.state.global_step == 20
    return outcome(run)


def test_a_resumed_run_is_not_evaluated_at_its_start_again(tmp_path):
    options = {"eval_on_start": True, "save_strategy": "steps", "save_steps": 3}
    whole = run_in(tmp_path / "whole", **options)
    whole.train()
    with contextlib.suppress(Killed):
        run_in(tmp_path / "again", KillAt(7), **options).train()
    again = run_in(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=True)
    assert_same(outcome(again), outcome(whole))


@pytest.mark.parametrize("save", [{"save_strategy": "epoch"}, {"save_strategy": "steps", "save_steps": 1}])
@pytest.mark.parametrize("step", [6, 10, 13, 20])
def test_killed_and_resumed_is_bit_equal(tmp_path, straight, step, save):
    folder = tmp_path / "run"
    if step < 20:
        with pytest.raises(Killed):
            run_in(folder, KillAt(step), **save).train()
    else:
        run_in(folder, **save).train()
    resumed = run_in(folder, model=student(seed=99), **save)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), straight)
    logged = [json.loads(line) for line in folder.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [line["step"] for line in resumed.state.log_history]


@pytest.mark.parametrize("end", [{"max_steps": 7}, {"num_train_epochs": 1.4}])
def test_a_run_that_ended_inside_an_epoch_takes_no_further_step(tmp_path, end):
    whole = run_in(tmp_path / "run", **end)
    whole.train()
    again = run_in(tmp_path / "run", model=student(seed=99), **end)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 7
    assert_same(outcome(again), outcome(whole))


def test_accumulation_and_a_second_kill(tmp_path):
    options = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "save_strategy": "steps"}
    whole = run_in(tmp_path / "whole", save_steps=2, **options)
    whole.train()
    for step in (5, 17):
        with pytest.raises(Killed):
            run_in(tmp_path / "run", KillAt(step), save_steps=2, **options).train(
                resume_from_checkpoint=newest_complete(tmp_path / "run") is not None
            )
    resumed = run_in(tmp_path / "run", save_steps=2, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), outcome(whole))


def damage_half_written(folder):
    (folder / MANIFEST_NAME).unlink()
    (folder / "optimizer.pt").write_bytes((folder / "optimizer.pt").read_bytes()[:100])


def damage_flipped_byte(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def damage_missing(folder):
    (folder / "rng_state.pth").unlink()


@pytest.mark.parametrize("damage", [damage_half_written, damage_flipped_byte, damage_missing])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, straight, damage):
    folder = tmp_path / "run"
    save = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(Killed):
        run_in(folder, KillAt(13), **save).train()
    damage(folder / "checkpoint-12")
    assert newest_complete(folder).name == "checkpoint-10"
    resumed = run_in(folder, model=student(seed=99), **save)
    with pytest.raises(CorruptFileError, match="checkpoint-12"):
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-12"))
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), straight)
    verify_manifest(folder / "checkpoint-12")


def test_killed_while_writing_a_checkpoint(tmp_path, straight, monkeypatch):
    folder = tmp_path / "run"
    save = {"save_strategy": "steps", "save_steps": 2}
    run = run_in(folder, **save)
    original, calls = torch.save, []

    def interrupted(value, path, *args, **kwargs):
        calls.append(path)
        if "checkpoint-8" in str(path):
            Path(path).write_bytes(b"half")
            raise Killed
        return original(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(Killed):
        run.train()
    monkeypatch.undo()
    assert calls
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 4, 6)]
    resumed = run_in(folder, model=student(seed=99), **save)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), straight)
    assert not list(folder.glob(".staged-*"))


def test_only_the_newest_checkpoints_are_kept_and_hold_no_pickled_settings(tmp_path):
    run_in(tmp_path / "run", save_strategy="epoch", save_total_limit=2).train()
    found = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert found == ["checkpoint-15", "checkpoint-20"]
    names = {path.name for path in (tmp_path / "run" / "checkpoint-20").iterdir()}
    assert "training_args.bin" not in names
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", MANIFEST_NAME} <= names


def test_the_checkpoint_just_written_outlives_older_ones_of_higher_numbers(tmp_path):
    run_in(tmp_path / "run", save_strategy="epoch", save_total_limit=2).train()
    again = run_in(tmp_path / "run", save_strategy="steps", save_steps=2, save_total_limit=2, max_steps=5)
    again.train()
    found = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert found == {"checkpoint-4", "checkpoint-5"}


def full_torch(value, path, *_, **__):
    with Path("/dev/full").open("wb") as file:
        return torch.serialization.save(value, file)


def full_safetensors(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("name", "full"), [("torch.save", full_torch), ("safetensors.torch.save_file", full_safetensors)]
)
def test_a_full_disk_is_said_and_nothing_half_written_is_left(tmp_path, monkeypatch, name, full):
    run = run_in(tmp_path / "run", save_strategy="steps", save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(name, full)
        with pytest.raises(NoRoomError, match=r"checkpoint-2: could not be written.*no room left.*--resume"):
            run.train()
    assert not list((tmp_path / "run").iterdir())


def test_transformers_own_best_checkpoint_is_kept_and_loaded(tmp_path):
    run = run_in(
        tmp_path / "run", save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True,
        metric_for_best_model="accuracy", greater_is_better=True, logging_strategy="epoch",
    )  # fmt: skip
    run.train()
    assert same_bits(run.model.state_dict(), run.best.weights)
    assert Path(run.state.best_model_checkpoint).is_dir()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run_in(tmp_path / "run", save_strategy="epoch").train()
    other = trainer(tmp_path / "run", model=student(classes=5), taught=False, method="sft")
    with pytest.raises(InputError, match=r"another model: '5\.bias' has shape \(4,\) there and \(5,\)"):
        other.train(resume_from_checkpoint=True)


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(InputError, match="no complete checkpoint"):
        trainer(tmp_path / "run").train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match="expected a checkpoint folder"):
        trainer(tmp_path / "run").train(resume_from_checkpoint=str(tmp_path / "nowhere"))


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from test_trainer_resume import newest_complete, run_in
folder = Path(sys.argv[2])
save = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}
def train(where):
    run = run_in(where, **save)
    run.train(resume_from_checkpoint=newest_complete(where) is not None)
    return run
random_ = random.Random(int(sys.argv[3]))
kills = 0
for _ in range(8):
    child = os.fork()
    if child == 0:
        train(folder)
        os._exit(0)
    time.sleep(random_.uniform(0.05, 0.6))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
torch.save(train(folder).model.state_dict(), folder / "final.pt")
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_by_a_signal_at_random_moments(tmp_path, straight):
    """SIGKILL between and within the writing of checkpoints, several times over one run."""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", KILLS, here, str(tmp_path / "run"), "5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2
    final = torch.load(tmp_path / "run" / "final.pt", weights_only=True)
    assert same_bits(final, straight[0])
    shutil.rmtree(tmp_path / "run")
