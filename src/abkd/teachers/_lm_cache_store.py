"""A cache's folder: parts that are whole or absent, what they were made for, and the room they need.

cache.json                  what the cache was made for and with
parts/part-00000/data.arrow the data set's rows with the teacher's columns, with a manifest of its own
summary.json                written last, as are dataset_info.json, state.json (for `datasets.load_from_disk`)
manifest.json               and the checksums of everything
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from abkd.errors import CorruptFileError, InputError, RunExistsError, needed
from abkd.storage import (
    MANIFEST_NAME,
    NoRoomError,
    atomic_write_json,
    is_full,
    read_json,
    staged_folder,
    verify_manifest,
    visible,
    writable,
    write_manifest,
)

IDENTITY = "cache.json"
SUMMARY = "summary.json"
_PARTS = "parts"
_DATA = "data.arrow"
_SPARE = 1.05
_MENDED = "the `abkd cache` command that made this folder makes the damaged part anew"
_WORDS = {
    "teacher": "another teacher (its weights or precision differ)",
    "tokenizer": "another tokenizer",
    "template": "another chat template",
    "data": "other data (other rows, another order, or other tokens that count)",
    "rule": "another choice of entries (top_k, tail_mass, min_probability, min_entries, temperature)",
    "form": "another number of bits, vocabulary or power",
    "format": "another version of this library",
}


class CacheFolder:
    """Reads and writes a cache's folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def complete(self) -> bool:
        """Whether the last file was written."""
        return (self.path / MANIFEST_NAME).is_file()

    def identity(self) -> dict[str, Any]:
        """What the cache was made for.

        Raises:
            InputError: no cache here.
            CorruptFileError: the file cannot be read.
        """
        try:
            return cast("dict[str, Any]", read_json(self.path / IDENTITY))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path}: expected a teacher cache, found no {IDENTITY}; make one with `abkd cache`"
            ) from error

    def start(self, identity: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or check that it is the beginning of the same cache.

        Raises:
            InputError: it holds something else, or a cache made for something else.
            RunExistsError: it holds this cache and `resume` is False.
        """
        if self.path.is_file():
            raise InputError(f"{self.path}: expected a folder, found a file; choose another with --output")
        if not visible(self.path):
            with self._room(), writable(self.path):
                atomic_write_json(self.path / IDENTITY, dict(identity))
            return
        if not (self.path / IDENTITY).is_file():
            raise InputError(f"{self.path} exists and is no teacher cache: name another folder")
        if not resume:
            raise RunExistsError(f"{self.path} holds a teacher cache already: resume it, or name another folder")
        found = self.identity()
        differing = [_WORDS[name] for name in _WORDS if found.get(name) != identity.get(name)]
        if differing:
            raise InputError(
                f"{self.path} holds a cache made for {' and '.join(differing)}: name another folder, or remove this one"
            )

    def has_part(self, number: int) -> bool:
        """Whether a part is there and unchanged; a damaged one is written anew."""
        try:
            verify_manifest(self._part(number))
        except CorruptFileError:
            return False
        return True

    def write_part(self, number: int, columns: Mapping[str, Any], features: Any) -> None:
        """Write one part, whole or not at all.

        Raises:
            NoRoomError: there is no room left.
        """
        with needed("datasets", "lm"):
            from datasets.arrow_writer import ArrowWriter

        with (
            self._room(),
            staged_folder(self._part(number)) as temporary,
            ArrowWriter(path=str(temporary / _DATA), features=features) as writer,
        ):
            writer.write_batch(dict(columns))
            writer.finalize()

    def read(self, parts: int) -> Any:
        """All parts as one data set, mapped from the disk.

        Raises:
            CorruptFileError: a part is missing, or cannot be read.
        """
        with needed("datasets", "lm"):
            import datasets

        files = [self._part(number) / _DATA for number in range(parts)]
        for file in files:
            if not file.is_file():
                raise CorruptFileError(f"{file}: a part of the teacher cache is missing; {_MENDED}")
        return datasets.concatenate_datasets([_rows_of(file) for file in files])

    def finish(self, dataset: Any, summary: Mapping[str, Any], parts: int) -> None:
        """Write what tells that the cache is whole, the checksums last.

        Raises:
            NoRoomError: there is no room left.
        """
        with self._room():
            self._finish(dataset, summary, parts)

    def _finish(self, dataset: Any, summary: Mapping[str, Any], parts: int) -> None:
        dataset.info.write_to_directory(str(self.path))
        state = {
            "_data_files": [{"filename": f"{_PARTS}/{self._part(number).name}/{_DATA}"} for number in range(parts)],
            "_fingerprint": self.identity()["data"][:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        atomic_write_json(self.path / "state.json", state)
        atomic_write_json(self.path / SUMMARY, dict(summary))
        for left in (self.path / _PARTS).glob(".staged-*"):  # of a process that was killed
            shutil.rmtree(left)
        write_manifest(self.path)

    def summary(self) -> dict[str, Any]:
        """What was measured while the cache was built.

        Raises:
            InputError: it is not finished.
        """
        self.identity()
        if not self.complete:
            raise InputError(f"{self.path}: this teacher cache is not finished; build it again to resume")
        return cast("dict[str, Any]", read_json(self.path / SUMMARY))

    def verify(self) -> None:
        """Check every file against its checksum.

        Raises:
            CorruptFileError: one has changed.
        """
        try:
            verify_manifest(self.path)
        except CorruptFileError as error:
            raise CorruptFileError(f"{error}; {_MENDED}") from error

    def reopen(self) -> None:
        """Take back that the cache is whole, so that building it makes anew what is missing or damaged."""
        (self.path / MANIFEST_NAME).unlink(missing_ok=True)

    def whole(self) -> bool:
        """Whether the last file was written, and nothing has changed since."""
        if not self.complete:
            return False
        try:
            verify_manifest(self.path)
        except CorruptFileError:
            return False
        return True

    def check_room(self, need: float, done: int) -> None:
        """There is room for `need` bytes more.

        Raises:
            NoRoomError: there is not; `done` rows are kept.
        """
        place = self.path
        while not place.exists():
            place = place.parent
        if shutil.disk_usage(place).free < need * _SPARE:
            raise no_room(self.path, need * _SPARE, done)

    @contextmanager
    def _room(self) -> Generator[None]:
        """Say of a full disk what to do about it."""
        try:
            yield
        except Exception as error:
            if is_full(error):
                raise no_room(self.path, None, 0) from error
            raise

    def _part(self, number: int) -> Path:
        return self.path / _PARTS / f"part-{number:05d}"


def _rows_of(file: Path) -> Any:
    import datasets
    import pyarrow

    try:
        return datasets.Dataset.from_file(str(file))
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(f"{file}: this part of the teacher cache is damaged ({error}); {_MENDED}") from error


def no_room(folder: Path, need: float | None, done: int) -> NoRoomError:
    """The error for a full disk."""
    wanted = "" if need is None else f": about {need / 1e6:.0f} MB more are needed"
    kept = f" The {done} rows done are kept." if done else ""
    return NoRoomError(
        f"{folder}: no room on this disk for the teacher cache{wanted}.{kept} Free some, or build elsewhere with a "
        "smaller top_k or a larger min_probability; the same command resumes"
    )
