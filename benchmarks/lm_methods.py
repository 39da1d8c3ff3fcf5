"""Which method distils SmolLM2-135M best into 20 (and 10) of its own layers, everything else equal?

All methods start from the same weights, see the same rows in the same order and take the same number of steps. Each
has the learning rate that served it best on the validation rows, of the same few candidates, with seed 1 alone; then
it runs with every seed. Rows are answers of the teacher to given prompts (a file with a column `instruction`, as
Self-Instruct's or Alpaca's), written once. Nothing finished is run again, so the command can be stopped and repeated:

    python benchmarks/lm_methods.py --prompts FILE --output runs/lm-methods --sets self-instruct vicuna
    python benchmarks/lm_methods.py --tiny --output /tmp/tiny        # checks the script on tiny random models
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from abkd.lm import METHODS, LmData, LmEvaluation, LmRun, LmStudent, LmTeacher
from abkd.storage import atomic_write_json, atomic_write_text
from abkd.study import LmPlan, run_lms, to_markdown
from abkd.study._dry_run_lm import made_up_parts

WRITTEN = {"imitkd", "gkd", "minillm", "distillm"}


def settings(options: argparse.Namespace, method: str, layers: int, rate: float, seed: int) -> LmRun:
    """One run."""
    text = {"max_new_tokens": options.new_tokens} if method in WRITTEN else None
    return LmRun(
        student=LmStudent(layers=layers, keep="even" if options.tiny else "influence"),
        data=LmData(
            options.prompts,
            validation=options.held_out,
            test=options.held_out,
            train_size=options.rows,
            template="chat",
            answers={"generation_temperature": 0.7, "max_new_tokens": options.new_tokens},
        ),
        method=method,
        student_text=text,
        teacher_text={"max_new_tokens": options.new_tokens} if method == "seqkd" else None,
        teacher=LmTeacher("smollm2-135m", dtype="float32"),
        evaluation=LmEvaluation(sets=tuple(options.sets), seeds=(10, 20, 30), max_new_tokens=128, samples=0),
        training={
            "max_steps": options.steps,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 16,
            "learning_rate": rate,
            "lr_scheduler_type": "cosine",
            "max_length": 256,
            "max_grad_norm": 1.0,
            "eval_strategy": "steps",
            "eval_steps": max(options.steps // 4, 1),
            "save_strategy": "steps",
            "save_steps": max(options.steps // 4, 1),
            "gradient_checkpointing": False,
            "use_cpu": options.tiny,
        },
        seed=seed,
    )


def best_rate(options: argparse.Namespace, method: str, layers: int, place: Path, parts: Any) -> float:
    """The candidate with the least validation NLL, one run each; kept in tuned.json."""
    file = place / "tuned.json"
    known: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    if method not in known:
        found: dict[float, float] = {}
        for rate in options.rates:
            plan = LmPlan({method: {1: replace(settings(options, method, layers, rate, 1), evaluation=NO_TEXTS)}})
            folder = place / "tuning" / method / f"{rate:g}"
            result = run_lms(plan, folder, resume=True, progress=False, parts=parts)
            if result.records:
                found[rate] = result.records[0].metrics["validation"]["best"]["nll"]
        if not found:
            raise SystemExit(f"{method}: every candidate learning rate failed; see {place / 'tuning' / method}")
        known[method] = min(found, key=lambda rate: found[rate])
        atomic_write_json(file, known)
    return known[method]


NO_TEXTS = LmEvaluation(samples=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="everyday-tasks", help="a name or file for load_instructions")
    parser.add_argument("--output", type=Path, default=Path("runs/lm-methods"))
    parser.add_argument("--sets", nargs="*", default=[], help="test sets for ROUGE-L")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--layers", nargs="*", type=int, default=[20, 10])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--rates", nargs="*", type=float, default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--tiny", action="store_true", help="tiny random models and 2 steps, to check the script")
    options = parser.parse_args()
    if options.tiny:
        options.steps, options.layers, options.new_tokens = 2, [1], 4
    for layers in options.layers:
        place = options.output / f"{layers}-layers"
        parts = made_up_parts(settings(options, "kd", layers, 1e-4, 1)) if options.tiny else None
        runs = {
            method: {
                seed: settings(options, method, layers, best_rate(options, method, layers, place, parts), seed)
                for seed in options.seeds
            }
            for method in options.methods
        }
        comparison = run_lms(LmPlan(runs), place / "study", resume=True, parts=parts)
        rates = ", ".join(
            f"{method} {next(iter(each.values())).training['learning_rate']:g}" for method, each in runs.items()
        )
        text = (
            f"{to_markdown(comparison)}\n{layers} layers, {options.steps} steps of 8 rows. Learning rates: {rates}.\n"
        )
        atomic_write_text(place / "table.md", text)
        print(text)


if __name__ == "__main__":
    main()
