"""Whole studies launched as two processes (gloo): one folder, one report, one voice, and an error ends both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the language-model room needs trl")

from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama

IMAGE = """
data: {name: digits, validation: 100, train_size: 40, augment: none}
teacher: {model: cnn, options: {widths: [4], hidden: 8}, training: {num_train_epochs: 1, use_cpu: true}}
student: {model: cnn, options: {widths: [2], hidden: 0}}
method: kd
training: {num_train_epochs: 1, per_device_train_batch_size: 10, use_cpu: true}
output: out
"""
LANGUAGE = """
task: lm
data: {train: rows.jsonl, validation: 4, test: 4, template: plain, answers: {max_new_tokens: 6}}
teacher: {model: ./teacher}
student: {model: ./student}
method: seqkd
teacher_text: {max_new_tokens: 4}
training: {num_train_epochs: 1, per_device_train_batch_size: 2, max_length: 64, use_cpu: true}
evaluation: {sets: [rows.jsonl], seeds: [1, 2, 3], max_new_tokens: 3, size: 4, samples: 1, sample_tokens: 3}
seeds: [1, 2]
output: out
"""

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


@pytest.fixture
def two(tmp_path: Path) -> Any:
    def launch(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "COLUMNS": "150",
        }
        return subprocess.run(
            [*command, "-m", "abkd", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return launch


def test_an_image_study(two: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(IMAGE)
    done = two("train", "r.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("last epoch %") == 1
    assert "parallel_mode" not in done.stderr
    assert done.stderr.count("[1/1] kd, seed 1") == 1
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["records"][0]["metrics"]) == {"validation", "test"}
    done = two("train", "r.yaml")
    assert done.returncode != 0
    assert done.stderr.count("holds a comparison already") == 1
    assert (tmp_path / "out/results.json").is_file()
    done = two("train", "r.yaml", "--overwrite", "-q")
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (tmp_path / ".out.replaced").exists()


def test_a_language_study(two: Any, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    for name, layers in (("teacher", 2), ("student", 1)):
        tiny_llama(len(tokenizer), layers).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"prompt": f"say {number}", "completion": f"it is {number} and more"} for number in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "r.yaml").write_text(LANGUAGE)
    done = two("compare", "r.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("NLL at start") == 1
    assert done.stderr.count("[2/2] seqkd, seed 2: KL") == 1
    assert done.stderr.count("the teacher's answers: 100%") == 1
    for record in json.loads((tmp_path / "out/results.json").read_text())["records"]:
        assert {"start", "best", "last"} == set(record["metrics"]["test"])
        assert {"rouge_l", "rouge_l_rows_error", "exact_match_rows", "nll"} <= set(record["metrics"]["test"]["best"])
    assert len(list((tmp_path / "out/answers").glob("part-*"))) == 2
    assert (tmp_path / "out/teacher_text/seqkd/part-000000.json").is_file()
    texts = tmp_path / "out/runs/seqkd/seed-1/evaluation/texts/rows"
    assert {file.name for file in texts.iterdir()} == {"seed-1.jsonl", "seed-2.jsonl", "seed-3.jsonl"}
