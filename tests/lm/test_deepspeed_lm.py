"""Whole runs under DeepSpeed's ZeRO-2 and ZeRO-3 are the data-parallel ones. Skipped where DeepSpeed is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import deepspeed_lm
import lm_toys
import pytest
import torch
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs DeepSpeed and a C++ compiler: pip install deepspeed",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed")
    lm_toys.save_tokenizer(folder / "tokenizer")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("deepspeed_lm.py")
    for stage in ("none", "2", "3"):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "DS_ACCELERATOR": "cpu",
            "ACCELERATE_USE_DEEPSPEED": "false" if stage == "none" else "true",
        }
        done = subprocess.run(
            [*command, str(script), str(folder), stage], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return folder


RUNS = [(name, stage) for name in (*deepspeed_lm.RUNS, "resumed") for stage in ("2", "3")]


@pytest.mark.parametrize(("name", "stage"), [run for run in RUNS if run != ("mixed", "3")])  # that is refused
def test_sharded_runs_are_the_data_parallel_ones(two: Path, name: str, stage: str) -> None:
    wanted = torch.load(two / "none-0.pt", weights_only=True)[name]
    for rank in (0, 1):
        found = torch.load(two / f"{stage}-{rank}.pt", weights_only=True)[name]
        assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
        assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-5)
    saved, plain = (_weights(two / f"{name}-{kind}" / "saved") for kind in (stage, "none"))
    assert lm_toys.largest_difference(saved, plain) < 1e-5


def _weights(folder: Path) -> dict[str, Any]:
    return lm_toys.weights(AutoModelForCausalLM.from_pretrained(folder))
