"""Two processes (gloo) give what one gives, and agree on which batches the student writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import ranks_lm
import torch


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    lm_toys.save_tokenizer(folder / "tokenizer")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = Path(__file__).with_name("ranks_lm.py")
    done = subprocess.run(
        [*command, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def results(folder: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", ranks_lm.RUNS)
def test_ranks_end_with_the_same_weights(two: Path, name: str) -> None:
    first, second = results(two, name)
    assert lm_toys.largest_difference(first["weights"], second["weights"]) == 0
    for key in ("eval_nll", "eval_rouge_l"):
        assert first["metrics"].get(key) == second["metrics"].get(key)


def test_two_processes_give_what_one_gives(two: Path, tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    trainer, _ = ranks_lm.run("abkd", tmp_path, 4)
    found = results(two, "abkd")[0]
    assert lm_toys.largest_difference(lm_toys.weights(trainer.model), found["weights"]) < 1e-6
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert found["losses"] == pytest.approx(losses, rel=1e-5)
    for key in ("eval_loss", "eval_nll", "eval_divergence", "eval_agreement"):
        assert found["metrics"][key] == pytest.approx(trainer.final_metrics[key], rel=1e-5)


def test_ranks_agree_on_which_batches_the_student_writes(two: Path) -> None:
    first, second = results(two, "gkd")
    assert first["chosen"] == second["chosen"]
    assert set(first["chosen"]) == {True, False}
    assert 0 <= first["metrics"]["eval_rouge_l"] <= 100


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are read from /proc")
def test_no_thread_of_the_group_outlives_it(two: Path) -> None:
    """One that does may reach for the interpreter while it ends, which aborts."""
    assert results(two, "threads") == [[], []]
