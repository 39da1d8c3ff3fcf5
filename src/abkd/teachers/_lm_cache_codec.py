"""The compact form of a teacher's targets on disk, and back.

Of each token position are stored: how many entries it has, their ids in rising order, the log-probability of each
below the largest one, the range of these, and the log-odds of all other tokens together. Entries and tail make up
1, so their own scale need not be stored. Legend: n positions of one row, K entries at most, E entries in all.

Log-probabilities are stored in steps that are even in the square root of the distance from the largest one: small
where there is much mass, wide where there is little. Ids are split (Elias 1974, Fano 1971): the low bits as they are,
the high bits as gaps in unary. For 30 of 49152 ids that is 12 bits each, where two bytes would be 16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from abkd.errors import CorruptFileError
from abkd.losses import SparseTargets

Array = NDArray[Any]

RANGE_STEP = 0.25
"""Nats a unit of a position's range; it is one byte, so entries end 63.75 nats below the largest."""
_ODDS_LIMIT = 32.0
_ODDS_LEVELS = 65534
_NO_TAIL = 65535
_WHOLE = {8: np.uint8, 16: np.uint16}
COLUMNS = ("teacher_counts", "teacher_ids", "teacher_log_probs", "teacher_ranges", "teacher_tails")
POWER_COLUMN = "teacher_power_tails"


@dataclass(frozen=True)
class Form:
    """What a cache's bytes mean.

    Attributes:
        vocabulary: V, the number of classes.
        most: the most entries that a position may have, at most V.
        bits: of a log-probability, 4 to 8, or 16.
        power: of the extra tail sum, or None.
        dense: every position has all V classes, so that no ids are stored.
    """

    vocabulary: int
    most: int
    bits: int
    power: float | None = None
    dense: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return COLUMNS if self.power is None else (*COLUMNS, POWER_COLUMN)

    @property
    def levels(self) -> int:
        """Steps between the largest entry and the smallest; one value more stands for a ruled-out class."""
        return (1 << self.bits) - 2

    @property
    def count(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.most < 1 << 8 else np.uint16 if self.most < 1 << 16 else np.uint32

    def largest_error(self, span: float) -> float:
        """A bound on the error of a log-probability, in nats, where a position's entries span `span` nats.

        The widest step, at the least probable entry: half of it from rounding, and at most as much from making
        entries and tail add up to 1 again.
        """
        return 2 * (span + RANGE_STEP) / self.levels


def encode(targets: SparseTargets, form: Form) -> dict[str, bytes]:
    """The columns of one row of data: targets of n positions, with entries left out marked by id -1."""
    ids = targets.ids.cpu().numpy()
    logs = targets.log_probs.double().cpu().numpy()
    tail = targets.log_tail.double().cpu().numpy()
    kept = ids >= 0
    order = np.argsort(np.where(kept, ids, form.vocabulary), axis=1, kind="stable")
    ids, logs, kept = (np.take_along_axis(part, order, axis=1) for part in (ids, logs, kept))
    counts = kept.sum(1)
    below = np.where(kept, logs, -np.inf)
    below = below - below.max(1, keepdims=True)
    units = np.ceil(-np.where(np.isneginf(below), 0.0, below).min(1) / RANGE_STEP).clip(0, 255)
    span = np.maximum(units * RANGE_STEP, RANGE_STEP)[:, None]
    codes = np.where(np.isneginf(below), form.levels + 1, np.rint(np.sqrt((-below / span).clip(0, 1)) * form.levels))
    columns = {
        "teacher_counts": counts.astype(form.count).tobytes(),
        "teacher_ids": b"" if form.dense else _pack_ids(ids[kept].astype(np.int64), counts, form.vocabulary),
        "teacher_log_probs": _pack_bits(codes[kept].astype(np.int32), form.bits),
        "teacher_ranges": units.astype(np.uint8).tobytes(),
        "teacher_tails": _pack_tails(np.where(kept, logs, -np.inf), tail),
    }
    if targets.log_power_tail is not None:
        columns[POWER_COLUMN] = targets.log_power_tail.float().cpu().numpy().tobytes()
    return columns


def decode(rows: Sequence[Mapping[str, bytes]], form: Form, temperature: float) -> SparseTargets:
    """Targets of all positions of some rows, one after the other; entries left out have id -1.

    Raises:
        CorruptFileError: the bytes do not fit together.
    """
    try:
        return _decode(rows, form, temperature)
    except (ValueError, IndexError) as error:
        raise CorruptFileError(f"a row of the teacher cache cannot be read ({error}); build the cache anew") from error


def tallied(counts: Sequence[bytes], tails: Sequence[bytes], form: Form) -> tuple[int, int, float]:
    """Positions, entries, and the sum of the masses outside them, of some rows' `teacher_counts` and `teacher_tails`.

    The entries themselves are left packed: unpacked they are a rectangle as wide as the widest position.
    """
    held = np.frombuffer(b"".join(counts), form.count)
    odds = _unpack_odds(np.frombuffer(b"".join(tails), np.uint16))
    return len(held), int(held.sum(dtype=np.int64)), float(odds.double().sigmoid().sum())


def _decode(rows: Sequence[Mapping[str, bytes]], form: Form, temperature: float) -> SparseTargets:
    counts_of = [np.frombuffer(row["teacher_counts"], form.count).astype(np.int64) for row in rows]
    counts = np.concatenate(counts_of)
    entries = zip(rows, counts_of, strict=True)
    packed = [_unpack_bits(row["teacher_log_probs"], int(one.sum()), form.bits) for row, one in entries]
    codes = np.concatenate(packed).astype(np.float32)
    span = np.maximum(_joined(rows, "teacher_ranges", np.uint8).astype(np.float32) * RANGE_STEP, RANGE_STEP)
    kept = np.arange(counts.max(initial=1)) < counts[:, None]
    below = np.full(kept.shape, -np.inf, dtype=np.float32)
    flat = -np.repeat(span, counts) * (codes / form.levels) ** 2
    flat[codes > form.levels] = -np.inf
    below[kept] = flat
    ids = np.full(kept.shape, -1, dtype=np.int64)
    if form.dense:
        ids[:] = np.arange(form.vocabulary)
    else:
        entries = zip(rows, counts_of, strict=True)
        ids[kept] = np.concatenate([_unpack_ids(row["teacher_ids"], one, form.vocabulary) for row, one in entries])
    odds = _unpack_odds(_joined(rows, "teacher_tails", np.uint16))
    values = torch.from_numpy(below)
    log_head = torch.nn.functional.logsigmoid(-odds)
    power = None
    if form.power is not None:
        power = torch.from_numpy(_joined(rows, POWER_COLUMN, np.float32).copy())
    return SparseTargets(
        torch.from_numpy(ids),
        values - (values.logsumexp(-1) - log_head)[:, None],
        torch.nn.functional.logsigmoid(odds),
        power,
        form.power,
        temperature,
    )


def _joined(rows: Sequence[Mapping[str, bytes]], column: str, kind: type[np.generic]) -> Array:
    return np.concatenate([np.frombuffer(row[column], kind) for row in rows])


def _pack_tails(logs: Array, tail: Array) -> bytes:
    """Log-odds of the tail against the entries in 65535 steps from -32 to 32; the last value is no tail at all."""
    log_head = np.logaddexp.reduce(logs, axis=1)
    odds = (np.where(np.isneginf(tail), 0.0, tail) - log_head).clip(-_ODDS_LIMIT, _ODDS_LIMIT)
    codes = np.rint((odds + _ODDS_LIMIT) * (_ODDS_LEVELS / (2 * _ODDS_LIMIT)))
    return np.where(np.isneginf(tail), _NO_TAIL, codes).astype(np.uint16).tobytes()


def _unpack_odds(codes: Array) -> torch.Tensor:
    odds = codes.astype(np.float32) * np.float32(2 * _ODDS_LIMIT / _ODDS_LEVELS) - np.float32(_ODDS_LIMIT)
    odds[codes == _NO_TAIL] = -np.inf
    return torch.from_numpy(odds)


def _low_bits(entries: int, positions: int, vocabulary: int) -> int:
    """How many bits of an id are stored as they are: those below the mean gap between the ids of a position."""
    return max(math.floor(math.log2(vocabulary * positions / entries)), 0) if entries else 0


def _pack_ids(ids: Array, counts: Array, vocabulary: int) -> bytes:
    """Ids (E,), rising within each position: the low bits, then the gaps of the high bits in unary."""
    low = _low_bits(len(ids), len(counts), vocabulary)
    high = ids >> low
    first = np.cumsum(counts) - counts
    gaps = np.diff(high, prepend=0)
    gaps[first] = high[first]
    ends = np.cumsum(gaps + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, dtype=np.uint8)
    unary[ends] = 1
    return _pack_bits(ids & ((1 << low) - 1), low) + np.packbits(unary).tobytes()


def _unpack_ids(data: bytes, counts: Array, vocabulary: int) -> Array:
    entries = int(counts.sum())
    low = _low_bits(entries, len(counts), vocabulary)
    split = (entries * low + 7) // 8
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(data[split:], np.uint8)))
    if len(ends) != entries:
        raise ValueError(f"expected {entries} ids, found {len(ends)}")
    run = ends - np.arange(entries)
    last = np.cumsum(counts) - 1
    before = np.concatenate([[0], run[last[:-1]]]) if len(counts) else run[:0]
    high = run - np.repeat(before, counts)
    return (high << low) + _unpack_bits(data[:split], entries, low)


def _pack_bits(values: Array, bits: int) -> bytes:
    """Whole numbers below 2^bits, of that many bits each."""
    if bits in _WHOLE:
        return values.astype(_WHOLE[bits]).tobytes()
    return np.packbits(((values[:, None] >> np.arange(bits)) & 1).astype(np.uint8)).tobytes()


def _unpack_bits(data: bytes, count: int, bits: int) -> Array:
    if len(data) != (count * bits + 7) // 8:
        raise ValueError(f"expected {count} values of {bits} bits, found {len(data)} bytes")
    if bits in _WHOLE:
        return np.frombuffer(data, _WHOLE[bits]).astype(np.int32)
    raw = np.frombuffer(data, np.uint8)
    found = np.zeros(count, dtype=np.int32)
    lines = np.unpackbits(raw, count=count * bits).reshape(count, bits)
    for place in range(bits):
        found |= lines[:, place].astype(np.int32) << place
    return found
