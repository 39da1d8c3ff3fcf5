"""Student and teacher spread over two processes by FSDP2 give the loss and the gradients of whole ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_lm
import torch


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = Path(__file__).with_name("sharded_lm.py")
    done = subprocess.run(
        [*command, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("heads", sharded_lm.HEADS)
def test_shards_give_what_whole_models_give(two: Path, heads: str) -> None:
    student, model = sharded_lm.models(heads)
    teacher = sharded_lm.teacher_of(model, sharded=False)
    losses = [sharded_lm.loss_of(student, teacher, sharded_lm.batch(rank)) for rank in (0, 1)]
    torch.stack(losses).mean().backward()
    for rank in (0, 1):
        found = torch.load(two / f"{heads}-{rank}.pt", weights_only=True)
        assert found["spread"] == {"student": True, "teacher": True}
        assert found["loss"] == pytest.approx(float(losses[rank].detach()), rel=1e-6)
        for name, parameter in student.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(found["gradients"][name], parameter.grad, rtol=1e-5, atol=1e-7)
