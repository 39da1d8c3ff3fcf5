"""Tokens a second and peak memory of one training step: ours live, ours from a cache, and TRL's GKDTrainer.

Each case runs in a process of its own, the same models and rows in each: SmolLM2-135M-Instruct teaches 10 of its own
layers, 8 rows of 16 + 72 tokens and the template a step, float32, off-policy forward KL (TRL: lmbda 0, beta 0).
Medians over the steps after the first two. Peak memory is the process's largest resident set, loading included.

    python benchmarks/lm_step.py --output runs/lm-step.json
    python benchmarks/lm_step.py --tiny                              # checks the script on tiny random models
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

CASES = ("ours live", "ours cached", "TRL GKDTrainer")
BATCH, LENGTH = 8, 128


def models(tiny: bool) -> tuple[Any, Any, Any]:
    """Student, teacher and tokenizer."""
    from abkd.lm import load_smollm2, make_student

    if tiny:
        from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama

        tokenizer = byte_tokenizer()
        teacher = tiny_llama(len(tokenizer), 2)
    else:
        teacher, tokenizer = load_smollm2()
    teacher.requires_grad_(False)
    count = 1 if tiny else 10
    return make_student(teacher, layers=count, keep="even"), teacher, tokenizer


def rows(steps: int, tokenizer: Any) -> Any:
    """Dialogues of one turn: 16 tokens asked, 72 answered, so that a row with its template stays within LENGTH."""
    import datasets

    from abkd.lm._plain_text import english

    found: list[dict[str, Any]] = []
    for text in english(steps * BATCH, 600):
        ids = tokenizer(text)["input_ids"]
        asked, answered = tokenizer.decode(ids[:16]), tokenizer.decode(ids[16:88])
        found.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]})
    return datasets.Dataset.from_list(found)


def timed(trainer: Any) -> list[float]:
    """Seconds of each step."""
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    trainer.add_callback(Clock())
    trainer.train()
    return seconds


def measure(case: str, steps: int, tiny: bool) -> dict[str, float]:
    """One case, in this process."""
    import datasets

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    student, teacher, tokenizer = models(tiny)
    data = rows(steps, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": BATCH,
            "max_steps": steps,
            "max_length": LENGTH,
            "learning_rate": 1e-4,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
        }
        if case == "TRL GKDTrainer":
            from trl.experimental.gkd import GKDConfig, GKDTrainer

            args = GKDConfig(**common, lmbda=0.0, beta=0.0, temperature=1.0)
            trainer: Any = GKDTrainer(student, teacher, args, train_dataset=data, processing_class=tokenizer)
        else:
            trainer = ours(case, student, teacher, tokenizer, data, common, folder)
        seconds = timed(trainer)
    return {
        "seconds_per_step": statistics.median(seconds[min(2, len(seconds) - 1) :]),
        "answered_tokens_per_second": BATCH * 72 / statistics.median(seconds[min(2, len(seconds) - 1) :]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def ours(case: str, student: Any, teacher: Any, tokenizer: Any, data: Any, common: dict[str, Any], folder: str) -> Any:
    """The trainer of abkd.lm, with the live teacher or with a cache of it."""
    from abkd.lm import DistillationConfig, DistillationTrainer
    from abkd.lm.data import tokenise
    from abkd.teachers import LmCache

    args = DistillationConfig(**common, method="kd")
    cache = None
    if case == "ours cached":
        tokenised = tokenise(data, tokenizer, max_length=LENGTH)
        cache = LmCache.build(tokenised, teacher.eval(), tokenizer, f"{folder}/cache", top_k=50, progress=False)
        teacher = None
    return DistillationTrainer(
        student, teacher, args, train_dataset=data, processing_class=tokenizer, teacher_cache=cache
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--tiny", action="store_true", help="tiny random models, to check the script")
    parser.add_argument("--case", choices=CASES, help="only this one, in this process; prints JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.steps, options.tiny)))
        return
    found: dict[str, Any] = {}
    for case in CASES:
        words = [sys.executable, __file__, "--case", case, "--steps", str(options.steps)]
        done = subprocess.run([*words, *(["--tiny"] if options.tiny else [])], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{case} failed")
        found[case] = json.loads(done.stdout.splitlines()[-1])
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in found[case].items())
        print(f"{case}: {numbers}", flush=True)
    machine = {"processor": platform.processor() or platform.machine()}
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**machine, **versions, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
