"""Finding the records of instruction data: on the disk, in this package, or on the hub."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from abkd.engine import is_main, say
from abkd.errors import InputError, nearest, needed
from abkd.lm.data._files import Record, read_records
from abkd.lm.data._layouts import is_question
from abkd.lm.data._sets import DOLLY_DEV, RAW_FILE, TEST_FILE, TEST_SETS, InstructionSet

SPLITS = ("train", "validation", "test")
_FILES = {
    "train": ("train",),
    "validation": ("dev", "validation", "valid"),
    "test": ("test", "valid", "validation"),
}
_HUB_SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev"),
    "test": ("test", "validation", "valid"),
}
_HUB_NAMES = {known.hub: name for name, known in TEST_SETS.items()}
_CARRIED = "carried"
_ENDINGS = (".jsonl", ".json")


@dataclass(frozen=True)
class Found:
    """Records and what is known of them.

    Attributes:
        records: rows as they are in the file.
        where: for messages.
        answers: Vicuna's, where they are apart.
        known: the published test set that this is.
    """

    records: Sequence[Record]
    where: str
    answers: Sequence[Record] | None = None
    known: InstructionSet | None = None


def carried_names() -> tuple[str, ...]:
    """The data sets that this package carries."""
    folder = importlib.resources.files("abkd.lm.data") / _CARRIED
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir())) if folder.is_dir() else ()


def find(name: str, split: str, *, answers: tuple[Path, ...], root: Path | None) -> Found:
    """The records of `load_instructions`; see there."""
    if split not in SPLITS:
        raise InputError(f"split: unknown split {split!r}; {nearest(str(split), SPLITS)}")
    if root is not None and name not in TEST_SETS:
        raise InputError(f"root is for the five test sets ({', '.join(TEST_SETS)}), and {name!r} is none of them")
    path = Path(name).expanduser()
    if not path.exists():
        name = _HUB_NAMES.get(name, name)
    if name in TEST_SETS:
        found = _test_set(name, split, root)
    elif path.exists():
        found = _local(path, split)
    elif name in carried_names():
        found = _carried(name, split)
    elif "/" in name and not name.startswith((".", "/", "~")) and path.suffix not in _ENDINGS:
        found = Found(_hub(name, split), f"{name}, {split} split")
    else:
        known = (*TEST_SETS, *carried_names())
        raise InputError(f"{name}: no such file, folder or data set; {nearest(name, known)}")
    if not answers:
        return found
    return Found(found.records, found.where, [record for file in answers for record in read_records(file)])


def _test_set(name: str, split: str, root: Path | None) -> Found:
    known = TEST_SETS[name]
    if split != "test":
        if name != "dolly":
            raise InputError(f"{name} is a test set: it has no {split!r} split")
        return _raw_dolly(known, split, root)
    if root is None:
        records, where = _hub_file(known, TEST_FILE)
        return Found(records, where, known=known)
    folder = root / known.folder
    if not folder.is_dir():
        raise InputError(f"{root}: expected MiniLLM's data, with a folder {known.folder} for {name}; found none")
    found = _local(folder, split)
    return Found(found.records, found.where, found.answers, known)


def _raw_dolly(known: InstructionSet, split: str, root: Path | None) -> Found:
    """What MiniLLM trains on and chooses by: never the file of test rows."""
    if root is None:
        records, where = _hub_file(known, RAW_FILE)
    else:
        file = root / known.folder / RAW_FILE
        records, where = read_records(file), str(file)
    return Found(_part_of_raw(records, split, where), where)


def _part_of_raw(records: Sequence[Record], split: str, where: str) -> Sequence[Record]:
    kept = records[:DOLLY_DEV] if split == "validation" else records[DOLLY_DEV:]
    if not kept:
        raise InputError(
            f"{where}: {len(records)} rows, of which the first {DOLLY_DEV} are the validation split, so none is left "
            f"for {split!r}: give the file itself to take all its rows"
        )
    return kept


def _carried(name: str, split: str) -> Found:
    if split != "train":
        raise InputError(f"{name} is one set of prompts, without a {split!r} split: take it as 'train' and split it")
    file = importlib.resources.files("abkd.lm.data") / _CARRIED / f"{name}.jsonl"
    with importlib.resources.as_file(file) as path:
        return Found(read_records(path), name)


def _local(path: Path, split: str) -> Found:
    if path.is_file():
        return Found(read_records(path), str(path))
    if not path.is_dir():
        raise InputError(f"{path}: expected a file or folder of instructions, found none")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return Found(_saved(path, split), f"{path}, {split} split")
    raw = path / RAW_FILE
    found = _file_of(path, _FILES[split])
    if split != "test" and raw.is_file() and (found is None or found.name == TEST_FILE):
        return Found(_part_of_raw(read_records(raw), split, str(raw)), str(raw))
    return _vicuna(path, split) if found is None else Found(read_records(found), str(found))


def _file_of(folder: Path, stems: Sequence[str]) -> Path | None:
    files = (folder / f"{stem}{ending}" for stem in stems for ending in _ENDINGS)
    return next((file for file in files if file.is_file()), None)


def _vicuna(folder: Path, split: str) -> Found:
    """A folder with a file of Vicuna's questions, and files of answers beside it or in a folder `*answer*`."""
    files = sorted(file for ending in _ENDINGS for file in folder.rglob(f"*{ending}"))
    questions = [file for file in files if "question" in file.name]
    answers = [file for file in files if "answer" in file.relative_to(folder).as_posix()]
    if len(questions) == 1 and answers:
        records = read_records(questions[0])
        if is_question(records[0]):
            return Found(records, str(folder), [record for file in answers for record in read_records(file)])
    expected = ", ".join(f"{stem}.jsonl" for stem in (*_FILES[split], "raw"))
    raise InputError(
        f"{folder}: no file for the split {split!r} (expected one of {expected}, or Vicuna's questions and answers); "
        f"found {', '.join(file.name for file in files[:5]) or 'no .jsonl or .json file'}"
    )


def _saved(path: Path, split: str) -> list[Record]:
    with needed("datasets", "lm"):
        import datasets

    try:
        loaded: Any = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a folder written by save_to_disk ({error})") from error
    return _split_of(loaded, str(path), split)


def _hub_file(known: InstructionSet, name: str) -> tuple[list[Record], str]:
    """The records of one file of a published set, and where they are from.

    The repositories hold other files beside it (.txt, and other splits), which must not be mixed in.
    """
    file = str(PurePosixPath(*PurePosixPath(known.folder).parts[1:], name))
    return list(_loaded(known.hub, data_files={"rows": file}, split="rows")), f"{known.hub}, {file}"


def _hub(name: str, split: str) -> list[Record]:
    return _split_of(_loaded(name), name, split)


def _loaded(name: str, **which: Any) -> Any:
    with needed("datasets", "lm"):
        import datasets

    try:
        return datasets.load_dataset(name, **which)
    except Exception as error:  # the hub client raises many kinds
        raise InputError(
            f"{name}: cannot be loaded from the hub ({error}); check the name and the connection, or give a local file "
            "or folder"
        ) from error


def _split_of(loaded: Any, name: str, split: str) -> list[Record]:
    if not isinstance(loaded, dict):
        return list(loaded)
    for wanted in _HUB_SPLITS[split]:
        if wanted in loaded:
            return list(loaded[wanted])
    if len(loaded) == 1 and split == "test":
        ((only, rows),) = loaded.items()
        if is_main():
            say(f"{name}: has only the split {only}, which is taken as test rows: were they trained on?")
        return list(rows)
    raise InputError(f"{name}: no split for {split!r}; it has {', '.join(map(str, loaded))}")
