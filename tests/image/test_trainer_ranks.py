"""Two processes train what one does, with one loss over both ranks, and share one run folder."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_trainer import in_double
from test_trainer_resume import KillAt, Killed
from trainer_toys import Images, same_bits, trainer

from abkd.image import DataChoice, ImageRun, ModelChoice, run_image
from abkd.image._load import load_images

FORKED = """
import os, sys, traceback
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_trainer_ranks
for rank in range(2):
    if os.fork() == 0:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
        try:
            getattr(test_trainer_ranks, sys.argv[3])(sys.argv[2])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) != 0 for _ in range(2)))
"""


def work(folder, *, batch=1, steps=2):
    folder = Path(folder)
    run = trainer(
        folder / "trainer", model=in_double(), train=Images(20), validation=Images(7, seed=9),
        per_device_train_batch_size=batch, gradient_accumulation_steps=steps, ddp_find_unused_parameters=False,
    )  # fmt: skip
    run.train()
    if run.is_world_process_zero():
        torch.save({"weights": run.model.state_dict(), "log": run.state.log_history}, folder / "outcome.pt")
    student = ModelChoice("cnn", {"widths": [2, 4], "hidden": 8})
    training = {"num_train_epochs": 1, "use_cpu": True, "per_device_train_batch_size": 8 * batch}
    settings = ImageRun(student, DataChoice("digits", {"train_size": 100}), "sft", training=training)
    run_image(settings, folder / "run", progress=False)


def best(folder):
    """Each rank keeps its weights, of the epoch that transformers calls the best, which is not the last one."""
    rising = iter([0.9, 0.1])
    run = trainer(
        Path(folder) / "run", model=in_double(), train=Images(16), validation=Images(4, seed=9),
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True,
        select_by=None, save_total_limit=1, ddp_find_unused_parameters=False, learning_rate=0.5,
    )  # fmt: skip
    evaluate = run.evaluation_loop

    def scored(*args, **options):
        found = evaluate(*args, **options)
        found.metrics["eval_score"] = next(rising)
        return found

    run.evaluation_loop = scored
    run.train()
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    torch.save(
        {"weights": weights, "path": run.state.best_model_checkpoint}, Path(folder) / f"{run.args.process_index}.pt"
    )


def resumed(folder):
    """Each rank keeps what a run logs, and a run that was killed between two logs and resumed."""
    logs = []
    for name, callbacks in (("whole", None), ("again", [KillAt(4)])):
        options = {
            "train": Images(40), "logging_strategy": "steps", "logging_steps": 3, "save_strategy": "steps",
            "save_steps": 2, "per_device_train_batch_size": 4, "ddp_find_unused_parameters": False,
        }  # fmt: skip
        run = trainer(Path(folder) / name, model=in_double(), callbacks=callbacks, **options)
        if callbacks is not None:
            with contextlib.suppress(Killed):
                run.train()
            run = trainer(Path(folder) / name, model=in_double(), **options)
        run.train(resume_from_checkpoint=callbacks is not None)
        logs.append([(line["step"], line["loss"]) for line in run.state.log_history if "loss" in line])
    (Path(folder) / f"{run.args.process_index}.json").write_text(json.dumps(logs))


def outcome(folder):
    result = json.loads((folder / "run" / "result.json").read_text())
    return torch.load(folder / "outcome.pt", weights_only=True), result


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def on_two_ranks(folder, what):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(Path(__file__).parent), str(folder), what],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


def test_two_ranks_with_accumulation_equal_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    work(tmp_path / "one", batch=4, steps=1)
    on_two_ranks(tmp_path / "two", "work")
    one, alone = outcome(tmp_path / "one")
    two, shared = outcome(tmp_path / "two")
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, rtol=1e-9, atol=1e-12)
    for key in ("eval_accuracy", "eval_nll", "eval_agreement"):
        values = [[line[key] for line in run["log"] if key in line] for run in (one, two)]
        assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert set(shared["metrics"]) == set(alone["metrics"]) == {"validation", "test"}


def test_a_resumed_run_logs_the_same_losses(tmp_path):
    on_two_ranks(tmp_path, "resumed")
    whole, again = json.loads((tmp_path / "0.json").read_text())
    assert len(whole) >= 3
    assert [step for step, _ in again] == [step for step, _ in whole]
    assert [loss for _, loss in again] == pytest.approx([loss for _, loss in whole], rel=1e-6)


def test_every_rank_loads_the_best_weights(tmp_path):
    on_two_ranks(tmp_path, "best")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["path"] == second["path"]
    assert Path(first["path"]).is_dir()
    assert same_bits(first["weights"], second["weights"])


def test_the_others_read_after_the_first_process_has_downloaded(monkeypatch):
    happened = []

    def told(given):
        happened.append("told")
        given[:] = [None, None]

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", told)
    monkeypatch.setattr("abkd.image.data.load_data", lambda *_, **__: happened.append("read"))
    load_images(DataChoice("cifar10", {"root": ".", "download": True}))
    assert happened == ["told", "read"]
