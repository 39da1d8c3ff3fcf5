"""Tokens a second and peak memory of one training step: ours live, ours from a cache, and TRL's trainers.

SmolLM2-135M-Instruct teaches 10 (and 20) of its own layers in float32; 8 rows a step, each with 16 tokens asked.
Off-policy the 72 tokens of the answer are given; ours live, ours from a cache of the top 50, and TRL's GKDTrainer
(lmbda 0), all with forward KL. On-policy the student writes 32 tokens first; ours (imitkd), GKDTrainer (lmbda 1) and
TRL's DistillationTrainer, all with forward KL. Every case runs in a process of its own, in turns; a step's time is
the median over its steps after the first two, which compile and warm up. Peak memory is the largest resident set of
the process, models and data included; the cached case loads its student and the cache, which a process before made.

    python benchmarks/lm_step.py
    python benchmarks/lm_step.py --tiny            # checks the script: tiny random models, nothing written
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import _report

OFF_POLICY = ("abkd, live teacher", "abkd, cached teacher", "TRL GKDTrainer")
ON_POLICY = ("abkd, own text", "TRL GKDTrainer, own text", "TRL DistillationTrainer, own text")
CASES = (*OFF_POLICY, *ON_POLICY)
BATCH, LENGTH, ASKED, ANSWERED, WRITTEN, TOP = 8, 128, 16, 72, 32, 50


def models(layers: int, tiny: bool) -> tuple[Any, Any, Any]:
    """Student, teacher and tokenizer."""
    from abkd.lm import load_smollm2, make_student

    if tiny:
        from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama

        tokenizer = byte_tokenizer()
        teacher = tiny_llama(len(tokenizer), 2)
    else:
        teacher, tokenizer = load_smollm2()
    teacher.requires_grad_(False)
    return make_student(teacher, layers=1 if tiny else layers, keep="even"), teacher.eval(), tokenizer


def rows(steps: int, tokenizer: Any, *, prompts: bool) -> Any:
    """Dialogues of one turn, so that a row with its template stays within LENGTH; or the questions alone."""
    import datasets

    from abkd.lm._english import english

    found: list[dict[str, Any]] = []
    for text in english(steps * BATCH, 600):
        ids = tokenizer(text)["input_ids"]
        user = {"role": "user", "content": tokenizer.decode(ids[:ASKED])}
        answer = {"role": "assistant", "content": tokenizer.decode(ids[ASKED : ASKED + ANSWERED])}
        found.append({"prompt": [user]} if prompts else {"messages": [user, answer]})
    return datasets.Dataset.from_list(found)


def make_cache(layers: int, steps: int, tiny: bool, folder: str) -> None:
    """The cache and the student of the cached case, which never sees the teacher."""
    from abkd.lm.data import tokenise
    from abkd.teachers import LmCache

    student, teacher, tokenizer = models(layers, tiny)
    student.save_pretrained(f"{folder}-student")
    tokenizer.save_pretrained(f"{folder}-student")
    tokenised = tokenise(rows(steps, tokenizer, prompts=False), tokenizer, max_length=LENGTH)
    LmCache.build(tokenised, teacher, tokenizer, folder, top_k=TOP, progress=False)


def saved(cache: str) -> tuple[Any, None, Any]:
    """The student beside a cache, no teacher, and the tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = f"{cache}-student"
    return AutoModelForCausalLM.from_pretrained(folder), None, AutoTokenizer.from_pretrained(folder)


def trainer_of(case: str, layers: int, steps: int, tiny: bool, cache: str, folder: str) -> Any:
    """The trainer of a case."""
    student, teacher, tokenizer = saved(cache) if case == OFF_POLICY[1] else models(layers, tiny)
    data = rows(steps, tokenizer, prompts=case == ON_POLICY[2])
    common: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "learning_rate": 1e-4,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    given = {"train_dataset": data, "processing_class": tokenizer}
    if case.startswith("TRL GKD"):
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        own = case == ON_POLICY[1]
        text = {"max_new_tokens": WRITTEN, "max_length": LENGTH}
        args: Any = GKDConfig(**common, lmbda=float(own), beta=0.0, temperature=1.0, **text)
        return GKDTrainer(student, teacher, args, **given)
    if case == ON_POLICY[2]:
        from trl import DistillationConfig, DistillationTrainer

        args = DistillationConfig(**common, beta=0.0, max_completion_length=WRITTEN)
        return DistillationTrainer(student, teacher, args, **given)
    return ours(case, student, teacher, {**common, "max_length": LENGTH}, given, cache)


def ours(case: str, student: Any, teacher: Any, common: dict[str, Any], given: dict[str, Any], cache: str) -> Any:
    """The trainer of abkd.lm."""
    from abkd.lm import DistillationConfig, DistillationTrainer
    from abkd.teachers import LmCache

    if case == ON_POLICY[0]:
        args = DistillationConfig(**common, method="imitkd", max_new_tokens=WRITTEN)
        return DistillationTrainer(student, teacher, args, **given)
    args = DistillationConfig(**common, method="kd")
    if case == OFF_POLICY[1]:
        return DistillationTrainer(student, None, args, teacher_cache=LmCache.open(cache), **given)
    return DistillationTrainer(student, teacher, args, **given)


def measure(case: str, layers: int, steps: int, tiny: bool, cache: str) -> dict[str, float]:
    """Seconds of a step and the process's peak memory."""
    import datasets

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(case, layers, steps, tiny, cache, folder)
        seconds = timed(trainer)
    return {
        "seconds": statistics.median(seconds[min(2, len(seconds) - 1) :]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def timed(trainer: Any) -> list[float]:
    """Seconds of each step, with the making of its batch."""
    from transformers import TrainerCallback

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    return [after - before for before, after in itertools.pairwise(marks)]


def report(results: _report.Results, command: str) -> None:
    """The table, ratios beside seconds, into the docs."""
    texts: list[str] = []
    for layers in sorted({key.split("/")[0] for key in results.data if "/" in key}, key=int):
        found = {case: results.data[key] for case in CASES if (key := f"{layers}/{case}") in results.data}
        lines: list[list[str]] = []
        for group, base, tokens in ((OFF_POLICY, OFF_POLICY[0], ANSWERED), (ON_POLICY, ON_POLICY[0], WRITTEN)):
            for case in group:
                if case not in found:
                    continue
                if "error" in found[case]:
                    lines.append([case, found[case]["error"], "", "", ""])
                    continue
                turns = found[case]["seconds"]
                middle, first = statistics.median(turns), statistics.median(found[base]["seconds"])
                lines.append(
                    [
                        case,
                        f"{middle:.2f} ({min(turns):.2f} to {max(turns):.2f})",
                        f"{middle / first:.2f}",
                        f"{BATCH * tokens / middle:.0f}",
                        f"{statistics.median(found[case]['peak_gb']):.2f}",
                    ]
                )
        header = ["", "s a step", "time / abkd's of the same text", "answer tokens a second", "peak GB"]
        texts.append(f"A student of {layers} layers:\n\n{_report.table(header, lines)}")
    closing = "Medians over turns, with the range. " + _report.stamp(command, results.data["machine"])
    _report.into_docs("language-models.md", "lm step", "\n\n".join([*texts, closing]))
    print("\n\n".join(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="*", type=int, default=[10, 20])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--tiny", action="store_true", help="tiny random models, nothing written")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--cache", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        if options.case == "cache":
            make_cache(options.layers[0], options.steps, options.tiny, options.cache)
            print("{}")
            return
        print(json.dumps(measure(options.case, options.layers[0], options.steps, options.tiny, options.cache)))
        return
    name = "lm_step_tiny" if options.tiny else "lm_step"
    results = _report.Results(name, options.again or options.tiny)
    results.put("machine", _report.machine(("torch", "transformers", "trl")))
    extra = ["--tiny"] if options.tiny else []
    for layers in [1] if options.tiny else options.layers:
        if all(not results.missing(f"{layers}/{case}") for case in CASES):
            continue
        words = ["--layers", str(layers), "--steps", str(options.steps), *extra]
        with tempfile.TemporaryDirectory() as folder:
            cache = str(Path(folder) / "cache")
            made = _report.in_subprocess("lm_step.py", "--case", "cache", "--cache", cache, *words)
            if "error" in made:
                raise SystemExit(f"the cache could not be made: {made['error']}")
            turns: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
            for turn in range(1 if options.tiny else options.turns):
                for case in CASES:
                    print(f"{layers} layers, turn {turn + 1}: {case} ...", file=sys.stderr, flush=True)
                    turns[case].append(_report.in_subprocess("lm_step.py", "--case", case, "--cache", cache, *words))
        for case, found in turns.items():
            failed = next((each for each in found if "error" in each), None)
            measured = failed if failed else {key: [each[key] for each in found] for key in ("seconds", "peak_gb")}
            results.put(f"{layers}/{case}", measured)
    if options.tiny:
        print(json.dumps(results.data, indent=1))
        results.path.unlink()
        return
    report(results, "python benchmarks/lm_step.py")


if __name__ == "__main__":
    main()
