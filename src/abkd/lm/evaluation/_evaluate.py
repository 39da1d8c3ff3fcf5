"""The published instruction protocol: texts written to the prompts of test sets, scored against references."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from abkd.errors import InputError
from abkd.lm._decoding import Decoding
from abkd.lm.data import fit_prompts
from abkd.lm.evaluation._held_out import held_out as measure_held_out
from abkd.lm.evaluation._responses import Response, check_prompts, write_responses
from abkd.lm.evaluation._result import EvaluationResult, SeedResult, SetResult
from abkd.lm.evaluation._scores import RougeL, exact_match
from abkd.storage import atomic_write_json, atomic_write_text, read_json
from abkd.teachers import fingerprint_of

SEEDS = (10, 20, 30, 40, 50)
"""The published protocol's seeds, all on one trained model."""


def evaluate(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, Any],
    *,
    seeds: Sequence[int] = SEEDS,
    decoding: Decoding | None = None,
    batch_size: int = 16,
    held_out: Any = None,
    teacher: Any = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Evaluate a causal language model as in MiniLLM, DistiLLM and ABKD.

    A sampled response to each prompt and seed; ROUGE-L (`RougeL`) and exact match against the references, the length
    of responses, distinct n-grams. Prompts that are too long are shortened inside their template.

    Args:
        model: the student.
        tokenizer: its tokenizer.
        sets: by name, rows of `prompt` and `references` (`load_instructions(name, "test")`), or of `messages` of
            which the last one is the reference.
        seeds: each writes all texts once.
        decoding: None is the published one (`Decoding()`); the published *dev* evaluation has
            `no_repeat_ngram_size=0`.
        batch_size: prompts at a time; the sampled texts depend on it.
        held_out: tokenised rows (`abkd.lm.data.tokenise`) on which NLL, and with a teacher KL, are measured.
        teacher: for `held_out`.
        folder: where texts and results go: `texts/SET/seed-N.jsonl`, `results.json` of all sets and seeds there.
            After an interruption the same call goes on where it stopped.
        progress: show bars.

    Raises:
        InputError: sets without the needed columns or with prompts that are too long, no seed or one twice, a teacher
            without `held_out`, or a folder of another evaluation.
    """
    decoding = decoding or Decoding()
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds: expected different numbers, at least one, got {list(seeds)}")
    if teacher is not None and held_out is None:
        raise InputError("a teacher is compared on held-out rows: give held_out as well")
    if not sets and held_out is None:
        raise InputError("nothing to evaluate on: give sets, or held_out")
    rows = {name: rows_to_answer(name, dataset, tokenizer, decoding, model.config) for name, dataset in sets.items()}
    kept = None if folder is None else _Folder(Path(folder), _identity(model, rows, decoding, batch_size))
    found: dict[str, SetResult] = {}
    for name, (prompts, references) in rows.items():
        results: list[SeedResult] = []
        for seed in seeds:
            responses = None if kept is None else kept.read(name, seed)
            if responses is None:
                responses = write_responses(
                    model, tokenizer, prompts, decoding=decoding, seed=seed, batch_size=batch_size, progress=progress
                )
            results.append(_scored(seed, responses, references))
            if kept is not None:
                kept.write(name, results[-1], prompts, references)
        found[name] = SetResult(name, tuple(results))
    measured: dict[str, float] = {}
    if held_out is not None:
        measured = measure_held_out(model, held_out, tokenizer, teacher=teacher)
    result = EvaluationResult(found, measured)
    if kept is not None:
        kept.sum_up(measured)
    return result


def rows_to_answer(
    name: str, dataset: Any, tokenizer: Any, decoding: Decoding, config: Any = None
) -> tuple[list[Any], list[list[str]]]:
    """Prompts and references of a set; the prompts are shortened where they are too long.

    Args:
        name: of the set, for messages.
        dataset: as for `evaluate`.
        tokenizer: the model's.
        decoding: how long prompts and responses may be.
        config: of the model that is to answer; None where it is not known.

    Raises:
        InputError: other columns, a row without reference, a prompt that cannot be shortened, or one that leaves the
            model no positions to answer.
    """
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list) or len(dataset) == 0:
        raise InputError(f"{name}: expected a datasets.Dataset with at least one row")
    if "messages" in columns and "prompt" not in columns:
        dataset = from_messages(name, dataset)
    elif not {"prompt", "references"} <= set(cast("list[str]", columns)):
        raise InputError(
            f"{name}: expected the columns prompt and references (or messages), found "
            f"{', '.join(cast('list[str]', columns))}"
        )
    references = [list(texts) for texts in dataset["references"]]
    for number, texts in enumerate(references, 1):
        if not texts:
            raise InputError(f"{name}, row {number}: no reference")
    if decoding.max_prompt_length is not None:
        dataset = fit_prompts(dataset, tokenizer, decoding.max_prompt_length, name=name)
    prompts = list(dataset["prompt"])
    if config is not None:
        check_prompts(prompts, tokenizer, decoding, config, name)
    return prompts, references


def from_messages(name: str, dataset: Any) -> Any:
    """Rows of `prompt` and `references`: what is said before the assistant's last answer, and that answer.

    Raises:
        InputError: messages that end otherwise.
    """
    import datasets

    rows: list[dict[str, Any]] = []
    for number, messages in enumerate(dataset["messages"], 1):
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise InputError(f"{name}, row {number}: expected messages that end with the assistant's answer")
        rows.append({"prompt": messages[:-1], "references": [messages[-1]["content"]]})
    return datasets.Dataset.from_list(rows)


def _scored(seed: int, responses: list[Response], references: list[list[str]]) -> SeedResult:
    rouge = RougeL()
    pairs = [(response.text, texts) for response, texts in zip(responses, references, strict=True)]
    return SeedResult(
        seed,
        tuple(rouge(text, texts) for text, texts in pairs),
        tuple(exact_match(text, texts) for text, texts in pairs),
        tuple(responses),
    )


def _identity(
    model: Any, rows: Mapping[str, tuple[list[Any], list[list[str]]]], decoding: Decoding, batch_size: int
) -> dict[str, Any]:
    data = {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in rows.items()}
    return {"model": fingerprint_of(model), "data": data, "decoding": asdict(decoding), "batch_size": batch_size}


class _Folder:
    """An evaluation's files: one of texts for each set and seed, each whole or absent.

    Raises:
        InputError: the folder holds another evaluation.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        file = path / "evaluation.json"
        if not file.is_file():
            if path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
                raise InputError(f"{path} exists and holds no evaluation: name another folder")
            atomic_write_json(file, identity)
            return
        before: dict[str, Any] = read_json(file)
        differing = [name for name in identity if name != "data" and before.get(name) != identity[name]]
        differing += [name for name, value in identity["data"].items() if before["data"].get(name, value) != value]
        if differing:
            raise InputError(
                f"{path} holds an evaluation with another {' and another '.join(differing)}: name another folder, or "
                "remove this one"
            )
        atomic_write_json(file, {**identity, "data": {**before["data"], **identity["data"]}})

    def read(self, name: str, seed: int) -> list[Response] | None:
        """The responses written before, or None."""
        file = self._file(name, seed)
        return list(_seed_in(file).responses) if file.is_file() else None

    def write(self, name: str, result: SeedResult, prompts: list[Any], references: list[list[str]]) -> None:
        """Texts with their scores."""
        lines: list[str] = []
        scores = zip(prompts, result.responses, references, result.rouge_l, result.exact_match, strict=True)
        for prompt, response, texts, rouge, exact in scores:
            line = {"prompt": prompt, "response": response.text, "references": texts, "rouge_l": rouge}
            line |= {"exact_match": exact, "tokens": response.tokens, "finished": response.finished}
            lines.append(json.dumps(line, ensure_ascii=True) + "\n")
        atomic_write_text(self._file(name, result.seed), "".join(lines))

    def sum_up(self, held_out: Mapping[str, float]) -> None:
        """Write the results of everything in the folder, of this call and of those before it."""
        file = self.path / "results.json"
        before: dict[str, Any] = read_json(file) if file.is_file() else {}
        sets: dict[str, SetResult] = {}
        for place in sorted(self.path.glob("texts/*")):
            seeds = sorted((_seed_in(texts) for texts in place.glob("seed-*.jsonl")), key=lambda result: result.seed)
            if seeds:  # none where another process is about to write the first
                sets[place.name] = SetResult(place.name, tuple(seeds))
        found = EvaluationResult(sets, held_out or before.get("held_out", {}))
        atomic_write_json(file, found.as_dict())

    def _file(self, name: str, seed: int) -> Path:
        return self.path / "texts" / name / f"seed-{seed}.jsonl"


def _seed_in(file: Path) -> SeedResult:
    """The texts and scores in one file."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return SeedResult(
        int(file.stem.removeprefix("seed-")),
        tuple(line["rouge_l"] for line in lines),
        tuple(line["exact_match"] for line in lines),
        tuple(Response(line["response"], line["tokens"], line["finished"]) for line in lines),
    )
