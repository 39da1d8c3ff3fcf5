"""Building a teacher cache: part by part, each whole before the next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from abkd.errors import InputError, needed
from abkd.storage import locked
from abkd.teachers._live import check_frozen, fingerprint_of
from abkd.teachers._lm_cache_codec import RANGE_STEP, Form, encode, tallied
from abkd.teachers._lm_cache_select import Asker, Rule
from abkd.teachers._lm_cache_store import CacheFolder
from abkd.teachers._token_rows import (
    Row,
    check_tokenised,
    fingerprint_of_rows,
    fingerprint_of_tokenizer,
    row_columns,
    row_of,
    vocabulary_of,
)

FORMAT = 1
KEY, POSITIONS = "teacher_key", "teacher_positions"
_OWN = "teacher_"
_GUESS = 110.0  # bytes a token, before the first part is there to measure
_ARROW = 4 * 8 + 16  # bytes a row for the columns' offsets and the key


def build(
    dataset: Any,
    teacher: nn.Module,
    tokenizer: Any,
    folder: str | Path,
    rule: Rule,
    *,
    bits: int,
    power: float | None,
    batch_size: int,
    rows_per_part: int,
    resume: bool,
    progress: bool,
) -> None:
    """Fill `folder`, kept from other processes meanwhile; see `LmCache.build`."""
    check_tokenised(dataset, "rows to cache a teacher for")
    check_frozen(teacher)
    clash = [name for name in dataset.column_names if name.startswith(_OWN)]
    if clash:
        raise InputError(f"the data set has columns of a teacher cache already: {', '.join(clash)}; remove them")
    rows = [row_of(example) for example in dataset.select_columns(row_columns(dataset))]
    tokens = sum(int(row.counted.sum()) for row in rows)
    if tokens == 0:
        raise InputError("no token of this data set counts (all labels are -100), so there is nothing to cache")
    form = rule.form(_vocabulary(teacher, tokenizer), bits, power)
    place = CacheFolder(folder)
    identity = _identity(rows, teacher, tokenizer, rule, form)
    with locked(folder):
        place.start({**identity, "rows_per_part": rows_per_part}, resume=resume)
        size = int(place.identity()["rows_per_part"])
        if place.whole():
            return
        builder = _Builder(dataset, rows, Asker(teacher, rule, form), form, place, size, batch_size)
        whole = _guess(rule, form) * tokens + _own_bytes(dataset)
        place.check_room(whole * builder.rows_missing() / len(rows), len(rows) - builder.rows_missing())
        place.reopen()
        builder.run(progress)


class _Builder:
    """Builds the parts that are missing, and measures while it does."""

    def __init__(
        self, dataset: Any, rows: list[Row], asker: Asker, form: Form, place: CacheFolder, size: int, batch: int
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.asker = asker
        self.form = form
        self.place = place
        self.size = size
        self.batch = batch
        self.features = _features(dataset, form)
        self.parts = -(-len(rows) // size)
        self.missing = [number for number in range(self.parts) if not place.has_part(number)]

    def rows_missing(self, first: int = 0) -> int:
        """The rows of the parts that are missing, from part number `first` on."""
        return sum(len(self._span(number)) for number in self.missing if number >= first)

    def run(self, progress: bool) -> None:
        """Build what is missing, and finish the folder."""
        from tqdm.auto import tqdm

        began, asked = time.monotonic(), 0
        with tqdm(total=len(self.rows), unit="row", desc="teacher cache", disable=not progress) as bar:
            for number in range(self.parts):
                span = self._span(number)
                if number in self.missing:
                    columns = self._columns(span)
                    self.place.check_room(self._left(columns, span, self.rows_missing(number)), span.start)
                    self.place.write_part(number, columns, self.features)
                    asked += sum(int(self.rows[index].counted.sum()) for index in span)
                bar.update(len(span))
        self._finish(time.monotonic() - began, asked)

    def _span(self, number: int) -> range:
        return range(number * self.size, min((number + 1) * self.size, len(self.rows)))

    def _columns(self, span: range) -> dict[str, list[Any]]:
        """The columns of a part: the data set's own, and the teacher's."""
        columns: dict[str, list[Any]] = {
            name: list(values) for name, values in self.dataset[span.start : span.stop].items()
        }
        packed = self._ask([self.rows[index] for index in span], span.start)
        columns[KEY] = [self.rows[index].key for index in span]
        columns[POSITIONS] = [np.packbits(self.rows[index].counted).tobytes() for index in span]
        for name in self.form.columns:
            columns[name] = [row[name] for row in packed]
        return columns

    def _ask(self, rows: Sequence[Row], first: int) -> list[dict[str, bytes]]:
        """The teacher's columns for the rows from number `first` on, asked for in batches of rows of like length."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        packed: list[dict[str, bytes]] = [{} for _ in rows]
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            for index, targets in zip(chosen, self.asker.ask([rows[index] for index in chosen]), strict=True):
                if bool(targets.log_probs.isnan().any()):
                    kind = str(next(self.asker.model.parameters()).dtype).removeprefix("torch.")
                    raise InputError(
                        f"row {first + index}: the teacher's logits are NaN or infinite in {kind}, which is no "
                        "distribution: load the teacher in bfloat16 or float32, or check its weights"
                    )
                packed[index] = encode(targets, self.form)
        return packed

    def _left(self, columns: dict[str, list[Any]], span: range, rows: int) -> float:
        """Bytes that `rows` rows, this part's among them, take at this part's rate."""
        own = sum(len(value) for name in (KEY, POSITIONS, *self.form.columns) for value in columns[name])
        share = rows / len(span)
        return share * (own + _ARROW * len(span) + _own_bytes(self.dataset) * len(span) / len(self.rows))

    def _finish(self, seconds: float, asked: int) -> None:
        data = self.place.read(self.parts)
        summary = measured(data, self.form)
        summary["teacher_tokens_per_second"] = asked / seconds if asked and seconds > 0 else None
        self.place.finish(data, summary, self.parts)


def measured(data: Any, form: Form) -> dict[str, Any]:
    """What a cache holds: tokens, bytes a token (everything but the data set's own columns), entries, tail mass."""
    names = [KEY, POSITIONS, *form.columns]
    own = data.select_columns(names)
    tokens = entries = size = 0
    tail, widest = 0.0, 0
    for start in range(0, len(own), 256):
        part = own[start : start + 256]
        size += sum(len(value) + 4 for name in names for value in part[name])  # and 4 bytes of offset each
        found = tallied(part["teacher_counts"], part["teacher_tails"], form)
        tokens, entries, tail = tokens + found[0], entries + found[1], tail + found[2]
        for value in part["teacher_ranges"]:
            widest = max(widest, max(value, default=0))
    return {
        "rows": len(own),
        "tokens": tokens,
        "bytes_per_token": size / tokens,
        "entries_per_token": entries / tokens,
        "tail_mass": tail / tokens,
        "largest_log_prob_error": form.largest_error((widest - 1) * RANGE_STEP) if widest else 0.0,
    }


def _own_bytes(dataset: Any) -> float:
    """The bytes of a data set's own columns; a selection's are its share of the whole table's."""
    return float(dataset.data.nbytes * len(dataset) / max(dataset.data.num_rows, 1))


def _identity(rows: Sequence[Row], teacher: nn.Module, tokenizer: Any, rule: Rule, form: Form) -> dict[str, Any]:
    from hashlib import sha256

    template = getattr(tokenizer, "chat_template", None)
    return {
        "format": FORMAT,
        "teacher": fingerprint_of(teacher),
        "tokenizer": fingerprint_of_tokenizer(tokenizer),
        "template": sha256(repr(template).encode()).hexdigest(),
        "data": fingerprint_of_rows(rows),
        "rule": rule.as_dict(),
        "form": asdict(form),
        "rows": len(rows),
        "vocabulary": form.vocabulary,
    }


def _vocabulary(teacher: Any, tokenizer: Any) -> int:
    """The real classes: the tokenizer's, which the teacher's head may be padded beyond."""
    size = vocabulary_of(tokenizer)
    head: Any = teacher.get_output_embeddings() if hasattr(teacher, "get_output_embeddings") else None
    classes = getattr(getattr(head, "weight", None), "shape", (getattr(teacher.config, "vocab_size", size),))[0]
    if classes < size:
        raise InputError(
            f"the tokenizer has {size} tokens and the teacher's head only {classes} classes: this is not its tokenizer"
        )
    return size


def _guess(rule: Rule, form: Form) -> float:
    """Bytes a token, before anything is measured."""
    if rule.tail_mass is not None or rule.min_probability is not None:
        return min(_GUESS, form.most * 4.0)
    return form.most * (form.bits / 8 + (0 if form.dense else 1.5)) + 4


def _features(dataset: Any, form: Form) -> Any:
    with needed("datasets", "lm"):
        import datasets

    binary = {name: datasets.Value("binary") for name in (KEY, POSITIONS, *form.columns)}
    return datasets.Features({**dataset.features, **binary})
