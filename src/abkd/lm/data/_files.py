"""Reading rows of JSON from files, with the place of a fault in the message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from abkd.errors import CorruptFileError, InputError, needed

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The objects in a .jsonl file (one a line; empty lines are passed over) in a .json file (a list), or
    the rows of a .parquet file.

    Raises:
        InputError: no such file, another ending, or rows that are not objects.
        CorruptFileError: a line that is not JSON; the message has its number.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a file of instructions, found none")
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix not in (".jsonl", ".json"):
        raise InputError(f"{path}: expected a .jsonl, .json or .parquet file, got {path.suffix or 'no ending'}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # with a byte order mark or without
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path}: expected text in UTF-8 ({error})") from error
    values = _lines(path, text) if path.suffix == ".jsonl" else _whole(path, text)
    for number, value in values:
        if not isinstance(value, dict):
            raise InputError(f"{path}, row {number}: expected an object with named fields, got {type(value).__name__}")
    if not values:
        raise InputError(f"{path}: no rows in this file")
    if "\\ud" in text.lower():
        _check_characters(path, values)
    return [cast("Record", value) for _, value in values]


def _check_characters(path: Path, values: list[tuple[int, Any]]) -> None:
    """Every text can be written as UTF-8: JSON can spell half of a pair of surrogates, which is no character."""
    for number, value in values:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # noqa: PERF203 - of the few files that spell one
            code = ord(error.object[error.start])
            raise InputError(
                f"{path}, row {number}: \\u{code:04x} is half of a character (a lone surrogate): write the other half "
                "beside it, or take it out"
            ) from error


def _parquet(path: Path) -> list[Record]:
    with needed("pyarrow", "lm"):
        import pyarrow
        from pyarrow import parquet

    try:
        return cast("list[Record]", parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(f"{path}: expected a parquet file ({error})") from error


def _lines(path: Path, text: str) -> list[tuple[int, Any]]:
    values: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            raise CorruptFileError(f"{path}, line {number}: expected one JSON object a line ({error})") from error
    return values


def _whole(path: Path, text: str) -> list[tuple[int, Any]]:
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorruptFileError(f"{path}: expected JSON ({error})") from error
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of objects, got {type(value).__name__}")
    return list(enumerate(cast("list[Any]", value), 1))
