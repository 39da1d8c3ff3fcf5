"""The log is standard JSON, the progress bar is quiet, the library says what it lacks."""

import importlib
import importlib.util
import json
import sys

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

import abkd.engine
from abkd.engine import BestWeights, MetricsLog, ProgressBar, ProgressCallback
from abkd.errors import InputError, MissingPackageError


@pytest.fixture
def told(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    return args, TrainerState(max_steps=4), TrainerControl()


def test_each_line_is_standard_json_and_the_past_is_kept(tmp_path, told):
    args, state, control = told
    log = MetricsLog(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text('{"loss": 1.0, "step": 1}\n{"loss": 0.9, "step": 2}\n{"half')
    state.log_history = [{"loss": 1.0, "step": 1}]
    log.on_train_begin(args, state, control)
    state.log_history.append({"loss": float("nan"), "grad_norm": float("inf"), "step": 2})
    log.on_log(args, state, control, logs={})

    def refuse(value):
        raise AssertionError(value)

    lines = [json.loads(line, parse_constant=refuse) for line in log.path.read_text().splitlines()]
    assert lines == [{"loss": 1.0, "step": 1}, {"loss": "nan", "grad_norm": "inf", "step": 2}]


def test_progress_reports_each_step_with_the_last_numbers(told):
    args, state, control = told
    seen = []
    callback = ProgressCallback(lambda done, text: seen.append((done, text)), "nll")
    state.global_step, state.epoch = 1, 0.5
    callback.on_step_end(args, state, control)
    state.log_history = [{"loss": 0.25, "step": 1}, {"eval_accuracy": 0.25, "eval_nll": 0.5, "step": 1}]
    callback.on_log(args, state, control, logs={})
    state.global_step = 2
    callback.on_step_end(args, state, control)
    assert seen == [(0.25, ""), (0.5, "epoch 0.5, loss 0.25, validation nll 0.5")]


def test_a_bar_in_a_terminal_is_drawn_in_place(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar("kd, seed 1") as report:
        for step in range(50):
            report(step / 49, f"epoch {step}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "kd, seed 1" in captured.err


def test_a_bar_elsewhere_is_at_most_eleven_lines(capsys):
    with ProgressBar("kd") as report:
        for step in range(1001):
            report(step / 1000, "")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[5] == "kd:  50%"


def test_the_direction_of_a_metric_of_ones_own_is_needed():
    known = {"nll": False}
    assert BestWeights.by("nll", known).larger_is_better is False
    assert BestWeights.by("nll", known, True).larger_is_better is False  # transformers sets it on its own
    assert BestWeights.by("mine", known, True).larger_is_better is True
    with pytest.raises(InputError, match=r"no such metric as 'mine'.* set greater_is_better"):
        BestWeights.by("mine", known)


def test_nan_is_never_the_best():
    for direction, later in ((True, 0.1), (False, 9.0)):
        best, model = BestWeights("mine", direction), torch.nn.Linear(1, 1)
        assert not best.offer({"eval_mine": float("nan")}, model, 1.0, 1)
        assert (best.value, best.weights) == (None, {})
        assert best.offer({"eval_mine": later}, model, 2.0, 2)
        assert not best.offer({"eval_mine": float("nan")}, model, 3.0, 3)
        assert (best.value, best.step) == (later, 2)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    with pytest.raises(MissingPackageError, match=r'accelerate: pip install "abkd\[image\]"'):
        importlib.reload(abkd.engine)
    monkeypatch.undo()
    importlib.reload(abkd.engine)
