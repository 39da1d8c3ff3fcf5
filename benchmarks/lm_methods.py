r"""Which method distils SmolLM2-135M best into 20 (and into 10) of its own layers, everything else equal?

The teacher answers given prompts once, by sampling at temperature 1; prompts of training, validation and test are
different ones. All methods start from the same weights, see the same rows in the same order for one epoch, and have
the learning rate that led to the least validation NLL at the end of a short run, of the same candidates. Gradients are
not clipped and the optimiser is AdamW, so the scale of a loss does not matter and needs no tuning. Since the rows are
the teacher's own text, `sft` here is what the literature calls sequence-level distillation (seqkd).

One run takes minutes to a quarter of an hour, all of them many hours: finished runs are kept in
benchmarks/results/lm_methods.json, the rows beside it, and the command goes on with what is missing. Several processes
may work on it side by side. The texts of Self-Instruct's 252 tasks and Vicuna's 80 questions are given as files:

    python benchmarks/lm_methods.py run --prompts seed_tasks.jsonl --self-instruct user_oriented.jsonl \
        --vicuna questions.jsonl --vicuna-answers answers.jsonl
    python benchmarks/lm_methods.py report
    python benchmarks/lm_methods.py run --tiny             # checks the script: tiny random models, carried prompts
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import json
import random
import shutil
import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import _report
import datasets
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.logging import disable_progress_bar

from abkd.lm import LmData, LmEvaluation, LmParts, LmRun, LmStudent, LmTeacher, layer_influence, load_smollm2, run_lm
from abkd.lm._student_settings import Sampling
from abkd.lm._teacher_text import TeacherText
from abkd.lm.data import load_instructions, tokenise
from abkd.lm.evaluation import held_out

RESULTS = _report.RESULTS / "lm_methods.json"
COMMAND = (
    "python benchmarks/lm_methods.py run --prompts seed_tasks.jsonl --self-instruct user_oriented.jsonl "
    "--vicuna questions.jsonl --vicuna-answers answers.jsonl"
)
ROWS = _report.RESULTS / "lm_methods_rows.json.gz"
TOWARDS = {
    "name": "alpha_beta",
    "alpha": {"from": 1.0, "to": 0.2, "shape": "cosine"},
    "beta": {"from": 0.0, "to": 0.7, "shape": "cosine"},
}
# Each line of the table: a method, and what it is given beside its own settings.
CONTENDERS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "kd": {"method": "kd"},
    "rkd": {"method": "rkd"},
    "jsd": {"method": "jsd"},
    "tvd": {"method": "tvd"},
    "akl": {"method": "akl"},
    "bdkd": {"method": "bdkd"},
    "abkd": {"method": "abkd"},
    "abkd, from forward KL": {"method": "abkd", "divergence": TOWARDS},
    "imitkd": {"method": "imitkd", "student_text": {}},
    "gkd": {"method": "gkd", "student_text": {}},
    "minillm": {"method": "minillm", "student_text": {}},
    "distillm": {"method": "distillm", "student_text": {}},
    "abkd, own text": {"method": "abkd", "student_text": {"share": 0.5, "replay": 1000}},
}
RATES = {20: (8e-5, 2e-4, 5e-4), 10: (2e-4, 5e-4, 1e-3)}  # a student far from its teacher takes larger steps
STARTS: dict[int, dict[str, Any]] = {}  # what each size measured before training, once a process
KEPT: dict[int, tuple[int, ...]] = {}  # the most influential layers, found once a process
BATCH, NEW_TOKENS, LENGTH, PROMPT_TOKENS = 8, 32, 128, 48
TEST_PROMPT_TOKENS = 256
# The model's own template without its default system message, which would be half of every row.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLUMNS = (
    ("forward_kl", "KL", 3),
    ("nll", "NLL", 3),
    ("reverse_kl", "reverse KL", 3),
    ("agreement", "agreement %", 1),
    ("rouge_l_self-instruct", "Self-Instruct", 2),
    ("rouge_l_vicuna", "Vicuna", 2),
)


# The data.


def prompts(files: list[str]) -> list[str]:
    """The project's own prompts and those of the files, each once, in a fixed shuffled order."""
    found: dict[str, None] = {}
    for name in ("everyday-tasks", *files):
        found.update(dict.fromkeys(row["prompt"][-1]["content"] for row in load_instructions(name, template="chat")))
    order = list(found)
    random.Random(0).shuffle(order)
    return order


def answered(options: argparse.Namespace, teacher: Any, tokenizer: Any, texts: list[str], name: str) -> Any:
    """Tokenised rows of these prompts with the teacher's answers; where one was cut short, no end is a target."""
    asked = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])
    writer = TeacherText(
        teacher, tokenizer, Sampling(max_new_tokens=options.new_tokens), options.output / "answers" / name, batch=64
    )
    rows = writer.of(asked, report=lambda done, _: print(f"\r{name}: {done:.0%}", end="", flush=True))
    rows = rows.filter(lambda row: bool(row["completion"][-1]["content"].strip()))
    return tokenise(rows, tokenizer, max_length=LENGTH).select_columns(["input_ids", "labels"])


def rows_of(options: argparse.Namespace, teacher: Any, tokenizer: Any) -> dict[str, Any]:
    """Train, validation and test rows: from the file of all runs, which the first process writes."""
    file = options.output / "rows.json.gz" if options.tiny else ROWS
    with lock(options.output / "rows.lock", wait=True):
        if not file.is_file():
            asked = prompts(options.prompts)[: 24 if options.tiny else None]
            fitting = [text for text in asked if len(tokenizer(text)["input_ids"]) <= PROMPT_TOKENS or options.tiny]
            held = len(asked) // 3
            again = -(-options.rows // len(fitting[held:]))
            training = [text for text in fitting[held:] for _ in range(again)]
            random.Random(1).shuffle(training)
            parts = {
                "test": fitting[: 2 * held // 3],
                "validation": fitting[2 * held // 3 : held],
                "train": training[: options.rows],
            }
            found = {name: answered(options, teacher, tokenizer, texts, name) for name, texts in parts.items()}
            write_rows(file, found)
    kept = json.loads(gzip.decompress(file.read_bytes()))
    return {name: datasets.Dataset.from_dict(columns) for name, columns in kept.items()}


def write_rows(file: Path, found: dict[str, Any]) -> None:
    """Token ids and labels of each split, the same bytes for the same rows."""
    text = json.dumps({name: {key: rows[key][:] for key in ("input_ids", "labels")} for name, rows in found.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def load(options: argparse.Namespace) -> LmParts:
    """Teacher, rows and test sets."""
    if options.tiny:
        from abkd.study._dry_run_lm import byte_tokenizer, tiny_llama

        tokenizer = byte_tokenizer()
        teacher = tiny_llama(len(tokenizer), 4)
    else:
        teacher, tokenizer = load_smollm2()
        tokenizer.chat_template = TEMPLATE
    teacher = teacher.to(torch.float32 if options.tiny else torch.bfloat16).eval().requires_grad_(False)
    most = {"tokenizer": tokenizer, "max_prompt_length": TEST_PROMPT_TOKENS, "template": "chat"}
    sets = {}
    if options.self_instruct:
        sets["self-instruct"] = load_instructions(options.self_instruct, "test", **most)
    if options.vicuna:
        sets["vicuna"] = load_instructions(options.vicuna, "test", answers=options.vicuna_answers, **most)
    rows = rows_of(options, teacher, tokenizer)
    influence = layer_influence(teacher, tokenizer)
    for layers in options.layers:
        KEPT[layers] = tuple(sorted(sorted(range(len(influence)), key=lambda index: -influence[index])[:layers]))
    Remembered(teacher.base_model, rows["train"])
    return LmParts(tokenizer, rows["train"], rows["validation"], rows["test"], sets, teacher=teacher, origin=teacher)


class Remembered:
    """The teacher's layers, which read each training row once: its hidden states are kept and given again.

    Its head is not left out, so every loss has the same targets as from the live teacher. Text that a student wrote is
    read anew.
    """

    def __init__(self, layers: Any, rows: Any) -> None:
        self.read = layers.forward
        self.wanted = {tuple(ids) for ids in rows["input_ids"]}
        self.states: dict[tuple[int, ...], torch.Tensor] = {}
        layers.forward = self

    def __call__(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        if input_ids is None or attention_mask is None or rest.get("past_key_values") is not None:
            return self.read(input_ids=input_ids, attention_mask=attention_mask, **rest)
        lengths = attention_mask.sum(1).tolist()
        texts = [tuple(ids[:length]) for ids, length in zip(input_ids.tolist(), lengths, strict=True)]
        if attention_mask.int().diff(dim=1).gt(0).any() or not self.wanted.issuperset(texts):
            return self.read(input_ids=input_ids, attention_mask=attention_mask, **rest)
        if not self.states.keys() >= {*texts}:
            found = self.read(input_ids=input_ids, attention_mask=attention_mask, **rest)
            for text, states in zip(texts, found.last_hidden_state, strict=True):
                self.states[text] = states[: len(text)].clone()
            return found
        states = pad_sequence([self.states[text] for text in texts], batch_first=True)
        short = input_ids.shape[1] - states.shape[1]
        return BaseModelOutputWithPast(last_hidden_state=functional.pad(states, (0, 0, 0, short)))


# The runs.


def settings(options: argparse.Namespace, name: str, layers: int, rate: float, seed: int, steps: int) -> LmRun:
    """One run."""
    own = dict(CONTENDERS[name])
    if "student_text" in own:
        own["student_text"] = {**own["student_text"], "max_new_tokens": options.new_tokens}
    return LmRun(
        student=LmStudent(layers=KEPT[layers]),
        data=LmData("the teacher's answers", validation="likewise", template="chat"),
        teacher=LmTeacher("smollm2-135m", dtype="bfloat16"),
        evaluation=LmEvaluation(
            sets=("self-instruct", "vicuna"), seeds=(10,), max_new_tokens=options.text_tokens, batch_size=64, samples=0
        ),
        training={
            "max_steps": steps,
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": 16,
            "learning_rate": rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": steps // 20,
            "max_length": LENGTH,
            "max_grad_norm": 0.0,
            "eval_strategy": "steps",
            "eval_steps": max(steps // 4, 1) if name == "distillm" else steps,  # its share follows the evaluations
            "save_strategy": "no",
            "logging_steps": 10,
            "gradient_checkpointing": False,
            "train_sampling_strategy": "group_by_length",
            "use_cpu": True,
            "bf16": not options.tiny,
        },
        seed=seed,
        **own,
    )


def tuned(options: argparse.Namespace, parts: LmParts, name: str, layers: int) -> dict[str, float]:
    """Validation NLL at the end of a short run, by learning rate."""
    found: dict[str, float] = {}
    for rate in options.rates or RATES.get(layers, RATES[20]):
        run = settings(options, name, layers, rate, 1, options.tuning_steps)
        short = LmParts(
            parts.tokenizer, parts.train, parts.validation, None, {}, teacher=parts.teacher, origin=parts.origin
        )
        place = options.output / f"{layers}" / "tuning" / name / f"{rate:g}"
        result = run_lm(run, place, resume=True, progress=False, parts=short)
        shutil.rmtree(place / "best", ignore_errors=True)
        shutil.rmtree(place / "last", ignore_errors=True)
        found[f"{rate:g}"] = result.metrics["validation"]["last"]["nll"]
    return found


def work(options: argparse.Namespace) -> None:
    """Make what is missing, run by run."""
    datasets.disable_progress_bars()
    disable_progress_bar()
    parts = load(options)
    measured_start(options, parts)
    lines = [(layers, name) for layers in options.layers for name in options.methods]
    for seed, again in product(options.seeds, (False, True)):  # new lines first, then those that lack a test set
        for layers, name in lines:
            with lock(options.output / f"{layers}-{name}.lock") as mine:
                if mine and again == (f"{layers}/{name}/{seed}" in read(options)):
                    make(options, parts, name, layers, seed)


def make(options: argparse.Namespace, parts: LmParts, name: str, layers: int, seed: int) -> None:
    """One run, after the search for its learning rate, unless both are known."""
    key, rates = f"{layers}/{name}/{seed}", f"{layers}/{name}/rates"
    known = read(options)
    if key in known and all(f"rouge_l_{title}" in known[key] for title in parts.sets):
        return
    started = time.monotonic()
    if rates not in known:
        keep(options, rates, tuned(options, parts, name, layers))
    found = read(options)[rates]
    rate = float(min(found, key=lambda each: found[each]))
    place = options.output / f"{layers}" / name / f"{seed}"
    shutil.rmtree(place, ignore_errors=True)  # of a process that was stopped, or without a test set
    run = settings(options, name, layers, rate, seed, options.rows // BATCH)
    run = replace(run, training={**run.training, "select_by": None})  # the last step's weights, for all alike
    fresh = replace(parts, start=STARTS.setdefault(layers, {}))
    result = run_lm(run, place, progress=False, parts=fresh)
    shutil.rmtree(place / "best", ignore_errors=True)
    shutil.rmtree(place / "last", ignore_errors=True)
    measures = result.metrics["test"]["best"]
    keep(options, key, {"rate": rate, **{name: round(value, 5) for name, value in measures.items()}})
    print(f"{key}: KL {measures['forward_kl']:.3f}, {time.monotonic() - started:.0f} s", flush=True)


def measured_start(options: argparse.Namespace, parts: LmParts) -> None:
    """What the students are worth before any training, and the numbers of rows."""
    for layers in options.layers:
        if f"{layers}/start" not in read(options):
            student = parts.student(settings(options, "kd", layers, 1e-4, 1, 1))
            found = held_out(student, parts.test, parts.tokenizer, teacher=parts.teacher, batch_size=16)
            keep(options, f"{layers}/start", {name: round(value, 5) for name, value in found.items()})
    sizes = {name: len(getattr(parts, name)) for name in ("train", "validation", "test")}
    facts = _report.machine(("torch", "transformers", "trl"))
    keep(options, "about", {"rows": sizes, "steps": options.rows // BATCH, "machine": facts})


# What is kept.


@contextmanager
def lock(file: Path, wait: bool = False) -> Generator[bool]:
    """Whether this process alone holds the file; let go when the process ends, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def read(options: argparse.Namespace) -> dict[str, Any]:
    """All results so far."""
    file = results(options)
    return json.loads(file.read_text()) if file.is_file() else {}


def keep(options: argparse.Namespace, key: str, value: Any) -> None:
    """Add one result, one process at a time."""
    with lock(options.output / "results.lock", wait=True):
        file = results(options)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({**read(options), key: value}, indent=1, sort_keys=True) + "\n")
        fresh.replace(file)


def results(options: argparse.Namespace) -> Path:
    """The file of results: the repository's, and a tiny run's own."""
    return options.output / "results.json" if options.tiny else options.results


# The report.


def report(options: argparse.Namespace) -> None:
    """Tables and a picture into the docs, of what is there."""
    found = read(options)
    texts = [text for layers in options.layers if (text := one_table(found, layers))]
    if not texts:
        raise SystemExit(f"{results(options)}: no finished run; make some with `lm_methods.py run`")
    about = found["about"]
    rows = about["rows"]
    closing = (
        f"{rows['train']} rows, {about['steps']} steps of {BATCH}; measured on {rows['test']} rows of other prompts. "
        "KL and NLL in nats a token; ROUGE-L x 100 of one sampled response a prompt, of at most 64 tokens (the answers "
        f"trained on have at most {NEW_TOKENS}), so it compares the lines with each other, not with published figures. "
        "Mean ± standard deviation over seeds where there are several. " + _report.stamp(COMMAND, about["machine"])
    )
    _report.into_docs("language-models.md", "lm methods", "\n\n".join([*texts, closing]))
    draw(found, options.layers)


def runs_of(found: dict[str, Any], layers: int, name: str) -> list[dict[str, float]]:
    """The finished runs of one line."""
    return [found[key] for seed in (1, 2, 3) if (key := f"{layers}/{name}/{seed}") in found]


def one_table(found: dict[str, Any], layers: int) -> str | None:
    """The table of one size of student, best KL first."""
    known = {name: runs for name in CONTENDERS if (runs := runs_of(found, layers, name))}
    if not known:
        return None
    order = sorted(known, key=lambda name: statistics.mean(run["forward_kl"] for run in known[name]))
    lines = [["before training", "", "", *(_cell([found[f"{layers}/start"]], *column) for column in COLUMNS)]]
    for name in order:
        runs = known[name]
        title = f"{name} (= seqkd)" if name == "sft" else name
        lines.append([title, str(len(runs)), f"{runs[0]['rate']:g}", *(_cell(runs, *column) for column in COLUMNS)])
    header = ["method", "seeds", "rate", *(title for _, title, _ in COLUMNS)]
    return f"{layers} of 30 layers:\n\n{_report.table(header, lines)}"


def _cell(runs: list[dict[str, float]], key: str, _: str, digits: int) -> str:
    values = [run[key] * (100 if key == "agreement" else 1) for run in runs if key in run]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def draw(found: dict[str, Any], sizes: list[int]) -> None:
    """Held-out KL beside ROUGE-L of each method, a line of panels for each size of student."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    sizes = [layers for layers in sizes if any(runs_of(found, layers, name) for name in CONTENDERS)]
    titles = {"forward_kl": "held-out forward KL, nats"}
    titles |= {
        f"rouge_l_{name}": f"ROUGE-L, {title}"
        for name, title in (("self-instruct", "Self-Instruct"), ("vicuna", "Vicuna"))
    }
    figure, grid = plt.subplots(len(sizes), len(titles), figsize=(12, 0.5 + 3.4 * len(sizes)), squeeze=False)
    for axes, layers in zip(grid, sizes, strict=True):
        known = {name: runs for name in CONTENDERS if (runs := runs_of(found, layers, name))}
        order = sorted(known, key=lambda name: statistics.mean(run["forward_kl"] for run in known[name]))
        for axis, (key, title) in zip(axes, titles.items(), strict=True):
            for place, name in enumerate(order):
                values = [run[key] for run in known[name] if key in run]
                colour = "#1f6f8b" if name.startswith("abkd") else "#8a9099"
                axis.plot(values, [place] * len(values), "o", color=colour, markersize=6)
            axis.set_title(f"{title} ({layers} layers)", fontsize=9)
            axis.set_yticks(range(len(order)), order if axis is axes[0] else [""] * len(order), fontsize=9)
            axis.set_ylim(len(order) - 0.5, -0.5)
            axis.grid(axis="x", color="#e6e6e6")
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _report.PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(_report.PICTURES / "lm_methods.png", dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--prompts", nargs="*", default=[], help="files of prompts beside the project's own")
    parser.add_argument("--self-instruct", help="file of Self-Instruct's 252 tasks, for ROUGE-L")
    parser.add_argument("--vicuna", help="file of Vicuna's 80 questions, for ROUGE-L")
    parser.add_argument("--vicuna-answers", help="file of their reference answers")
    parser.add_argument("--output", type=Path, default=Path("runs/lm-methods"), help="runs, locks and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of finished runs")
    parser.add_argument("--methods", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--layers", nargs="*", type=int, default=[20, 10])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--rates", nargs="*", type=float, help="candidates, in place of those of the size")
    parser.add_argument("--rows", type=int, default=1504)
    parser.add_argument("--tuning-steps", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, help="of an answer in training")
    parser.add_argument("--text-tokens", type=int, default=64, help="of a response for ROUGE-L")
    parser.add_argument("--threads", type=int, help="of torch; one a process is best where several work")
    parser.add_argument("--tiny", action="store_true", help="tiny random models and 2 steps, to check the script")
    options = parser.parse_args()
    if options.tiny:
        options.layers, options.rows, options.tuning_steps, options.new_tokens = [1], 16, 1, 4
        options.seeds, options.text_tokens = options.seeds[:1], 4
    if options.threads:
        torch.set_num_threads(options.threads)
    {"run": work, "report": report}[options.what](options)


if __name__ == "__main__":
    main()
