"""A language teacher's answers on disk, found by the content of each text.

Legend: B texts of a batch, S tokens, N the positions that count, K entries at most.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from abkd.divergences import Divergence
from abkd.errors import CorruptFileError, InputError
from abkd.losses import SparseTargets
from abkd.losses._sparse import degree
from abkd.teachers._live import fingerprint_of
from abkd.teachers._lm_cache_build import FORMAT, KEY, POSITIONS, build
from abkd.teachers._lm_cache_codec import Form, decode
from abkd.teachers._lm_cache_select import Rule
from abkd.teachers._lm_cache_store import CacheFolder
from abkd.teachers._token_rows import (
    Row,
    check_tokenised,
    fingerprint_of_tokenizer,
    rows_in,
    texts_of,
    vocabulary_of,
)

_BITS = (4, 5, 6, 7, 8, 16)
_REMEDY = (
    "it was built for other data, another chat template, another max_length, or texts that packing cut: build it for "
    "these rows, or train on the rows it was built for (a text that the student writes is in no cache)"
)


class LmCache:
    """A causal language model's distributions over the tokens that count in a data set, kept in Arrow.

    Each text is found by a hash of its own tokens, so shuffling, batching, accumulation, padding and packing
    change nothing, and no text is ever given another's answer. Made by `LmCache.build` (`abkd cache`), used with
    `LmCache.open`. `datasets.load_from_disk` reads the folder as well.

    Attributes:
        dataset: the data set's own rows with the teacher's columns.
        summary: rows, tokens, `bytes_per_token`, `entries_per_token`, `tail_mass` (the mean mass outside the
            entries), `largest_log_prob_error` (nats, from the rounding to `bits`).
        vocabulary: the classes that the distributions are over, 0 to `vocabulary` - 1: the tokenizer's.
        temperature: of the distributions; the loss has to use the same.
    """

    def __init__(self, folder: str | os.PathLike[str], *, verify: bool = True) -> None:
        if Path(folder).is_file():
            raise InputError(f"{folder}: expected a teacher cache, a folder, got a file; make one with `abkd cache`")
        place = CacheFolder(folder)
        self.folder = Path(folder)
        self.summary: dict[str, Any] = place.summary()
        if verify:
            place.verify()
        self.identity: dict[str, Any] = place.identity()
        if self.identity.get("format") != FORMAT:
            raise InputError(
                f"{folder}: a teacher cache of format {self.identity.get('format')}, this version reads {FORMAT}: "
                "build it anew"
            )
        self.form = Form(**self.identity["form"])
        self.vocabulary = self.form.vocabulary
        self.temperature = float(self.identity["rule"]["temperature"])
        parts = -(-int(self.identity["rows"]) // int(self.identity["rows_per_part"]))
        self.dataset: Any = place.read(parts)
        self._own: Any = self.dataset.select_columns([KEY, POSITIONS, *self.form.columns])
        self._positions: Any = self.dataset.select_columns([POSITIONS])
        self._places: dict[bytes, list[int]] = defaultdict(list)
        for index, key in enumerate(self.dataset.select_columns([KEY])[:][KEY]):
            self._places[key].append(index)

    @classmethod
    def build(
        cls,
        dataset: Any,
        teacher: nn.Module,
        tokenizer: Any,
        folder: str | os.PathLike[str],
        *,
        top_k: int | None = None,
        tail_mass: float | None = None,
        min_probability: float | None = None,
        min_entries: int | None = None,
        bits: int = 6,
        temperature: float = 1.0,
        power: float | None = None,
        batch_size: int = 8,
        rows_per_part: int = 256,
        resume: bool = True,
        progress: bool = True,
    ) -> LmCache:
        """Ask a teacher for all tokens that count in a data set, and keep its answers.

        The folder fills in parts, each whole or absent. After an interruption the same call goes on with the first
        part that is missing or damaged; when everything is there and unchanged it only opens the cache.

        Args:
            dataset: tokenised rows: `input_ids` and `labels` (-100: does not count) or TRL's masks, as in
                `abkd.lm.data.tokenise(...)` or a trainer's `train_dataset`.
            teacher: a causal language model, frozen and in eval mode; asked where and in the precision it is.
            tokenizer: the teacher's.
            folder: new, or the beginning of the same cache.
            top_k: at most so many entries a token; as large as the vocabulary it keeps everything.
            tail_mass: in (0, 1): the fewest entries that leave less than this mass.
            min_probability: in (0, 1): only entries of at least this probability. With none of these three, 0.0015.
            min_entries: at least so many, whatever `tail_mass` and `min_probability` say: 32 where none of the three
                is given, else 1. Divergences that follow the student (small alpha, reverse KL) need them.
            bits: of a log-probability, 4 to 8, or 16. Where a token's entries span 10 nats, the error at the least
                probable one is at most 0.33 nats with 6 bits, 0.08 with 8, 0.0003 with 16, and far less where the
                mass is; `summary` has the bound for the widest. 6 change nothing beside what the tail hides, until
                the student is within about 0.2 nats of its teacher: then take 8.
            temperature: softens the distributions first; a loss at another temperature needs another cache.
            power: also keep `log sum_tail p^power`, 4 bytes a token, for the loss's tail "power-bucket". Give alpha +
                beta of the loss: above 1 it is needed, below 1 it loses less.
            batch_size: texts that the teacher reads at a time.
            rows_per_part: texts between two savings.
            resume: go on with what is there; False refuses a folder that holds a cache.
            progress: show a bar.

        Raises:
            InputError: data that are not tokenised, a teacher that is not frozen, values out of range, a tokenizer
                that is not the teacher's, a folder that holds something else (another teacher, tokenizer, data set or
                setting; the message says which) or that another process is using, or logits that are NaN or infinite.
            RunExistsError: a cache is there and `resume` is False.
            NoRoomError: no room on the disk; what is done is kept.
        """
        if bits not in _BITS:
            raise InputError(f"bits: expected 4 to 8, or 16, got {bits!r}")
        for name, value in (("batch_size", batch_size), ("rows_per_part", rows_per_part)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: expected a number of at least 1, got {value!r}")
        if power is not None and not power > 0:
            raise InputError(f"power: expected a number above 0, got {power!r}")
        rule = Rule.checked(top_k, tail_mass, min_probability, min_entries, temperature)
        build(
            dataset,
            teacher,
            tokenizer,
            Path(folder),
            rule,
            bits=bits,
            power=power,
            batch_size=batch_size,
            rows_per_part=rows_per_part,
            resume=resume,
            progress=progress,
        )
        return cls(folder, verify=False)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> LmCache:
        """A cache that was built before; the teacher is not needed.

        Args:
            folder: as given to `build`.
            verify: check every file against its checksum (about a second for a gigabyte).

        Raises:
            InputError: no cache there, or one that is not finished.
            CorruptFileError: a file has changed since it was written.
        """
        return cls(folder, verify=verify)

    def __len__(self) -> int:
        return len(self._own)

    def __repr__(self) -> str:
        return f"LmCache({str(self.folder)!r}, {len(self)} rows, {self.summary['bytes_per_token']:.1f} bytes/token)"

    def targets_for(self, batch: Mapping[str, Any]) -> SparseTargets:
        """The teacher's targets for a batch: (N, K), for the positions t with `labels[:, t + 1] != -100`, row by row.

        Args:
            batch: `input_ids` and `labels` (B, S), `attention_mask` where it is padded, `position_ids` where it is
                packed, as TRL's collator makes them.

        Raises:
            InputError: a text that is not in the cache, or a token that did not count when it was built.
            CorruptFileError: the bytes do not fit together.
        """
        rows = rows_in(batch)
        device = batch["input_ids"].device
        if not rows:
            return self._empty(device)
        where = [self._find(row) for row in rows]
        found = self._own[[index for index, _ in where]]
        names = self.form.columns
        targets = decode(
            [{name: found[name][line] for name in names} for line in range(len(rows))], self.form, self.temperature
        )
        chosen: list[Any] = []
        start = 0
        for line, (row, (_, stored)) in enumerate(zip(rows, where, strict=True)):
            places = np.cumsum(stored) - 1
            chosen.append(start + places[row.counted])
            count = len(found["teacher_ranges"][line])
            if count != int(stored.sum()):
                raise CorruptFileError(f"{self.folder}: a row's columns do not fit together; build the cache anew")
            start += count
        index = torch.from_numpy(np.concatenate(chosen))
        if len(index) == start:
            return _moved(targets, slice(None), device)
        return _moved(targets, index, device)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """A tokenizer that means the same by every id as the one the cache was built with.

        Raises:
            InputError: it does not.
        """
        if fingerprint_of_tokenizer(tokenizer) != self.identity["tokenizer"]:
            raise InputError(
                f"{self.folder}: this teacher cache was built with another tokenizer (of {self.vocabulary} tokens; "
                f"this one has {vocabulary_of(tokenizer)}, or other strings for the same ids): use a student with the "
                "teacher's tokenizer, or method 'seqkd', which trains on text that the teacher writes"
            )

    def check_teacher(self, teacher: nn.Module) -> None:
        """The very teacher that the cache was built with, in the same precision.

        Raises:
            InputError: another one.
        """
        if fingerprint_of(teacher) != self.identity["teacher"]:
            raise InputError(
                f"{self.folder}: this teacher cache was built with another teacher, or with this one in another "
                "precision: build one for this teacher"
            )

    def check_divergence(self, divergence: Divergence) -> None:
        """A divergence that this cache's tail serves.

        Raises:
            InputError: it is of a degree (alpha + beta) above 1, and the cache was not built with that `power`.
        """
        s = degree(divergence)
        wanted, kept = 1.0 if s is None else float(s.max()), self.form.power
        if wanted <= 1 + 1e-6 or self.form.dense or (kept is not None and abs(wanted - kept) < 1e-6):
            return
        power = "no power" if kept is None else f"power={kept:g}"
        raise InputError(
            f"{self.folder}: {divergence.name} has alpha + beta = {wanted:g}, and above 1 what lies outside the "
            f"entries is known from a cache of that power alone; this one was built with {power}: build one with "
            f"`abkd cache RECIPE --power {wanted:g}` (LmCache.build(..., power={wanted:g})), choose alpha and beta "
            "with a sum of at most 1, or give teacher_model instead"
        )

    def check_dataset(self, dataset: Any) -> None:
        """Tokenised data of which every text is in the cache, in any order; packed rows are taken text by text.

        Raises:
            InputError: some are not; the message says how many.
        """
        check_tokenised(dataset, "rows of a teacher cache")
        missing = sorted({number for number, text in texts_of(dataset) if not self._covers(text)})
        if missing:
            shown = ", ".join(str(index) for index in missing[:5])
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(dataset)} rows are not in this teacher cache (rows {shown}"
                f"{', ...' if len(missing) > 5 else ''}); {_REMEDY}"
            )

    def _covers(self, row: Row) -> bool:
        places = self._places.get(row.key, [])
        return not row.counted.any() or any(self._stored(index, row)[row.counted].all() for index in places)

    def _find(self, row: Row) -> tuple[int, Any]:
        """The place of a text, and which of its positions are stored."""
        places = self._places.get(row.key)
        if not places:
            raise InputError(f"{self.folder}: a text of this batch is not in the teacher cache; {_REMEDY}")
        for index in places:
            stored = self._stored(index, row)
            if bool(stored[row.counted].all()):
                return index, stored
        raise InputError(
            f"{self.folder}: a text of this batch is in the teacher cache, but not all of its tokens that count now "
            "counted when it was built: build it for these labels"
        )

    def _stored(self, index: int, row: Row) -> Any:
        bits = np.frombuffer(self._positions[index][POSITIONS], np.uint8)
        return np.unpackbits(bits, count=len(row.counted)).astype(bool)

    def _empty(self, device: torch.device) -> SparseTargets:
        none = torch.zeros((0, 1), device=device)
        powered = None if self.form.power is None else none[:, 0]
        return SparseTargets(none.long(), none, none[:, 0], powered, self.form.power, self.temperature)


def _moved(targets: SparseTargets, index: Any, device: torch.device) -> SparseTargets:
    power = targets.log_power_tail
    return SparseTargets(
        targets.ids[index].to(device),
        targets.log_probs[index].to(device),
        targets.log_tail[index].to(device),
        None if power is None else power[index].to(device),
        targets.power,
        targets.temperature,
    )
