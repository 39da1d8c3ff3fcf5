"""The rows of a language run: to train on, held out, test sets, and plain text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from abkd.engine import say
from abkd.errors import InputError, needed
from abkd.lm._settings import LmData, LmRun
from abkd.lm.data import load_instructions


def load_rows(data: LmData, tokenizer: Any, *, prompts: bool = False) -> dict[str, Any]:
    """The rows of `train`, and of `validation` and `test` where they are asked for.

    Args:
        data: which rows.
        tokenizer: the student's.
        prompts: rows to train on may lack responses, since the teacher writes them for the method.

    Raises:
        InputError: rows without responses, or too few.
    """
    whole = load_instructions(data.train, "train", **_reading(data, data.train, tokenizer))
    if data.answers is None and not {"completion", "messages"} & set(whole.column_names):
        held_out = [name for name in ("validation", "test") if isinstance(getattr(data, name), int | float)]
        if not prompts or held_out:
            asked = f", which data.{held_out[0]} would be measured by" if prompts else ""
            raise InputError(
                f"{data.train}: holds prompts without responses{asked}; let the teacher write them: data.answers"
            )
    order = list(range(len(whole)))
    random.Random(data.split_seed).shuffle(order)
    found: dict[str, Any] = {}
    for name, wanted in (("test", data.test), ("validation", data.validation)):
        if wanted is None:
            continue
        if isinstance(wanted, str):
            found[name] = load_instructions(wanted, "validation", **_reading(data, wanted, tokenizer))
            continue
        count = wanted if isinstance(wanted, int) else max(round(wanted * len(whole)), 1)
        found[name] = whole.select(sorted(order[:count]))
        order = order[count:]
    if not order:
        raise InputError(f"{data.train}: of its {len(whole)} rows none is left to train on; hold out fewer")
    return {"train": whole.select(order[: data.train_size]), **found}


def tell_rows(rows: dict[str, Any], data: LmData) -> None:
    """Say how many rows a run has of each kind, and that one of several references is trained on."""
    say("rows: " + ", ".join(f"{len(rows[name])} {name}" for name in ("train", "validation", "test") if name in rows))
    _tell_shared(rows)
    if data.answers is None and "references" in rows["train"].column_names:
        several = sum(len(references) > 1 for references in rows["train"]["references"])
        if several:
            say(f"{several} training rows have several references: the first of each is trained on")


def _tell_shared(rows: dict[str, Any]) -> None:
    """Say which held-out rows are trained on too, or would both choose the epoch and measure it."""
    known = {name: {_content(row) for row in part} for name, part in rows.items()}
    for name, others in (("validation", ("train", "test")), ("test", ("train",))):
        for other in others:
            shared = len(known.get(name, set()) & known.get(other, set()))
            if shared:
                say(f"warning: {shared} {name} rows are {other} rows too, so what is measured there is not held out")


def _content(row: dict[str, Any]) -> str:
    """What a model reads of a row."""
    return json.dumps([row.get(name) for name in ("prompt", "completion", "messages")], sort_keys=True, default=str)


def load_sets(settings: LmRun, tokenizer: Any) -> dict[str, Any]:
    """The test sets of a run, by name (of a file or folder, its own name without ending)."""
    data, wanted = settings.data, settings.evaluation
    found: dict[str, Any] = {}
    for name in wanted.sets:
        title = Path(name).stem if Path(name).exists() else name.replace("/", "-")
        if title in found:
            raise InputError(f"evaluation.sets: two sets of the name {title!r}; name them differently")
        reading: dict[str, Any] = {"template": data.template, "drop_empty": data.drop_empty, "root": _root(data, name)}
        found[title] = load_instructions(name, "test", tokenizer=tokenizer, size=wanted.size, **reading)
        if "references" not in found[title].column_names and "messages" not in found[title].column_names:
            raise InputError(f"{name}: has no references to compare with")
    return found


def load_plain_text(name: str) -> Any:
    """Rows with a column `text`, from a file or the hub.

    Raises:
        InputError: none could be read.
    """
    with needed("datasets", "lm"):
        import datasets
        from datasets.exceptions import DatasetsError

    path = Path(name)
    kinds = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
    try:
        if path.is_file():
            kind = kinds.get(path.suffix)
            if kind is None:
                raise InputError(f"{name}: expected a .txt, .json, .jsonl or .parquet file")
            return datasets.load_dataset(kind, data_files=str(path), split="train")
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: no plain text could be read from there ({error})") from error


def _reading(data: LmData, name: str, tokenizer: Any) -> dict[str, Any]:
    return {
        "template": data.template,
        "tokenizer": tokenizer,
        "max_prompt_length": data.max_prompt_length,
        "drop_empty": data.drop_empty,
        "root": _root(data, name),
    }


def _root(data: LmData, name: str) -> str | None:
    """The folder of MiniLLM's data, for the names that are found there."""
    from abkd.lm.data import TEST_SETS

    return data.root if name in TEST_SETS else None
