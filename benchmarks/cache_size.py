"""How large a teacher cache is, what it loses, and how fast it is read.

Teacher: SmolLM2-135M-Instruct. Student: the same with its 20 most influential layers, trained for a few steps if
asked. Texts: a file of instructions with answers, else English from Python's own help in the place of answers.

    python benchmarks/cache_size.py --data questions.jsonl --answers answers.jsonl --rows 80 --compared 24 --steps 40

For each way of choosing entries: the bytes a token (all of the teacher's columns, offsets and keys included), the
entries a token, the mass outside them, the bias of the divergence and the error of its gradient in the student's
hidden states against the live teacher, and tokens read a second (decoded, as the trainer gets them).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _report
import datasets
import torch

from abkd import AlphaBeta, Divergence, ForwardKL, ReverseKL
from abkd.lm import load_smollm2, make_student
from abkd.lm._english import english
from abkd.lm.data import load_instructions, tokenise
from abkd.lm.evaluation import cache_losses
from abkd.losses import HiddenTargets, linear_divergence_loss
from abkd.teachers import LmCache

RULES: dict[str, dict[str, Any]] = {
    "top-50, 16 bits": {"top_k": 50, "bits": 16},
    "top-50, 8 bits": {"top_k": 50, "bits": 8},
    "top-50, 5 bits": {"top_k": 50, "bits": 5},
    "tail mass < 0.05, at most 100, 6 bits": {"tail_mass": 0.05, "top_k": 100},
    "p > 0.0015, 6 bits": {"min_probability": 0.0015},
    "the default: p > 0.0015, at least 32, 6 bits": {},
    "the default's entries, 8 bits": {"bits": 8},
    "p > 0.0015, at least 44, 6 bits": {"min_probability": 0.0015, "min_entries": 44},
}
DIVERGENCES: tuple[Divergence, ...] = (ForwardKL(), AlphaBeta(0.5, 0.5), AlphaBeta(0.2, 0.7), ReverseKL())


def texts(args: argparse.Namespace, tokenizer: Any) -> Any:
    """Tokenised rows."""
    if args.data is None:
        pieces = english(args.rows, 700)
        rows = [
            {
                "prompt": [{"role": "user", "content": f"Go on with this text: {piece[:200]}"}],
                "completion": [{"role": "assistant", "content": piece[200:]}],
            }
            for piece in pieces
        ]
        data = datasets.Dataset.from_list(rows)
    else:
        data = load_instructions(
            args.data, template="chat", tokenizer=tokenizer, answers=args.answers, max_prompt_length=args.length // 2
        )
        step = max(len(data) // args.rows, 1)
        data = data.select(range(0, min(len(data), step * args.rows), step))
    return tokenise(data, tokenizer, max_length=args.length)


def train(student: Any, teacher: Any, rows: Any, steps: int) -> None:
    """A few steps of forward KL, one row each: a student at the middle of its training, not at its start."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    for step in range(steps):
        row = rows[step % len(rows)]
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        keep = labels[:, 1:] != -100
        with torch.no_grad():
            hidden = teacher.model(input_ids=ids).last_hidden_state[:, :-1][keep]
        mine = student.model(input_ids=ids).last_hidden_state[:, :-1][keep]
        targets = HiddenTargets(hidden, teacher.lm_head.weight)
        linear_divergence_loss(mine, student.lm_head.weight, targets, ForwardKL()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def read_speed(cache: LmCache, rows: Any, batch_size: int = 8) -> float:
    """Tokens a second of `targets_for`, in batches of shuffled rows; the best of three rounds."""
    shuffled = rows.shuffle(seed=0)
    batches: list[dict[str, Any]] = []
    for start in range(0, len(shuffled), batch_size):
        part = shuffled[start : start + batch_size]
        longest = max(map(len, part["input_ids"]))
        ids = torch.zeros((len(part["input_ids"]), longest), dtype=torch.long)
        batch = {"input_ids": ids, "labels": torch.full_like(ids, -100), "attention_mask": torch.zeros_like(ids)}
        for line, (tokens, labels) in enumerate(zip(part["input_ids"], part["labels"], strict=True)):
            batch["input_ids"][line, : len(tokens)] = torch.tensor(tokens)
            batch["labels"][line, : len(tokens)] = torch.tensor(labels)
            batch["attention_mask"][line, : len(tokens)] = 1
        batches.append(batch)
    best = 0.0
    for _ in range(3):
        start_time, tokens = time.perf_counter(), 0
        for batch in batches:
            tokens += len(cache.targets_for(batch).log_tail)
        best = max(best, tokens / (time.perf_counter() - start_time))
    return best


def measure(args: argparse.Namespace) -> dict[str, Any]:
    teacher, tokenizer = load_smollm2()
    teacher.requires_grad_(False)
    rows = texts(args, tokenizer)
    student = make_student(teacher, layers=args.layers, tokenizer=tokenizer)
    train(student, teacher, rows, args.steps)
    part = rows.select(range(min(args.compared, len(rows))))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, rule) in enumerate(RULES.items()):
            began = time.perf_counter()
            cache = LmCache.build(rows, teacher, tokenizer, Path(folder) / str(number), progress=False, **rule)
            seconds = time.perf_counter() - began
            results[name] = {
                **cache.summary,
                "build_seconds": seconds,
                "read_tokens_per_second": read_speed(cache, rows),
                "loss": {
                    d.name: {**asdict(found), "bias": found.bias}
                    for d, found in zip(
                        DIVERGENCES, cache_losses(cache, student, teacher, part, DIVERGENCES), strict=True
                    )
                },
            }
            print(f"{name}: {results[name]['bytes_per_token']:.1f} bytes/token", flush=True)
    return {
        "machine": _report.machine(("torch", "transformers", "datasets", "numpy")),
        "rows": len(rows),
        "layers": args.layers,
        "steps": args.steps,
        "length": args.length,
        "compared": len(part),
        "results": results,
    }


def report(found: dict[str, Any], command: str) -> None:
    """The table into the docs, and a plot of what a byte buys."""
    names = [d.name for d in DIVERGENCES]
    header = ["entries kept", "bytes/token", "entries/token", "mass outside", "read, tokens/s"]
    header += [f"{d}: bias / gradient error" for d in DIVERGENCES]
    lines: list[list[str]] = []
    for name, result in found["results"].items():
        losses = [result["loss"][key] for key in names]
        lines.append(
            [
                name,
                f"{result['bytes_per_token']:.1f}",
                f"{result['entries_per_token']:.1f}",
                f"{result['tail_mass']:.4f}",
                f"{result['read_tokens_per_second']:,.0f}",
                *(f"{100 * loss['bias']:.1f} % / {100 * loss['gradient_error']:.1f} %" for loss in losses),
            ]
        )
    tokens = next(iter(found["results"].values()))["loss"][names[0]]["tokens"]
    closing = (
        f"{found['rows']} texts of at most {found['length']} tokens, {tokens} tokens of them compared; the student has "
        f"{found['layers']} of 30 layers and {found['steps']} steps of training. "
        + _report.stamp(command, found["machine"])
    )
    _report.into_docs("language-models.md", "cache size", f"{_report.table(header, lines)}\n\n{closing}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="instructions with answers (see abkd.lm.data.load_instructions)")
    parser.add_argument("--answers", help="a file of answers, for Vicuna's layout")
    parser.add_argument("--rows", type=int, default=64, help="texts (default 64)")
    parser.add_argument("--compared", type=int, default=16, help="of these compared with the live teacher")
    parser.add_argument("--length", type=int, default=256, help="tokens of a text at most")
    parser.add_argument("--layers", type=int, default=20, help="of the student")
    parser.add_argument("--steps", type=int, default=0, help="of training, one text each")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    os.environ.setdefault("ABKD_BACKEND", "eager")  # compiling takes longer than what is measured
    results = _report.Results("cache_size", again=True)
    for key, value in measure(args).items():
        results.put(key, value)
    files = {"data": args.data, "answers": args.answers}
    words = [f"--{name} {Path(file).name}" for name, file in files.items() if file]
    words += [f"--{name} {value}" for name, value in sizes(args)]
    report(results.data, " ".join(["python benchmarks/cache_size.py", *words]))


def sizes(args: argparse.Namespace) -> list[tuple[str, int]]:
    """The numbers that a result depends on."""
    return [(name, getattr(args, name)) for name in ("rows", "compared", "length", "layers", "steps")]


if __name__ == "__main__":
    main()
