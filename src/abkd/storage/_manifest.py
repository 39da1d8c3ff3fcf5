"""A folder's manifest: size and SHA-256 of each file, and a checksum over the list itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, cast

from abkd.errors import CorruptFileError, InputError

MANIFEST_NAME = "manifest.json"
_FORMAT = 1
_BLOCK = 1 << 20


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits; the file is read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: str | os.PathLike[str]) -> Path:
    """Record every file under `folder`, at any depth, in `folder/manifest.json`; all are flushed to the disk.

    Raises:
        InputError: `folder` is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder to write a manifest for")
    files: dict[str, Any] = {}
    for path in _files_under(root):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(root).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    text = json.dumps({"format": _FORMAT, "checksum": _checksum(files), "files": files}, indent=1)
    target = root / MANIFEST_NAME
    temporary = root / f".{MANIFEST_NAME}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return target


def verify_manifest(folder: str | os.PathLike[str]) -> None:
    """Check that every file the manifest of `folder` names is there and unchanged; other files are ignored.

    Raises:
        CorruptFileError: there is no manifest, it is damaged, or a file is missing, of another size or has
            another SHA-256; the message names the file.
    """
    root = Path(folder)
    for name, entry in _read_manifest(root).items():
        path = root / name
        if not path.is_file():
            raise CorruptFileError(f"{path}: named in {MANIFEST_NAME}, but missing")
        size = path.stat().st_size
        if size != entry["size"]:
            raise CorruptFileError(f"{path}: expected {entry['size']} bytes, found {size}; it is not whole")
        found = sha256_of(path)
        if found != entry["sha256"]:
            raise CorruptFileError(
                f"{path}: its content has changed since it was written "
                f"(SHA-256 {found[:12]}..., expected {entry['sha256'][:12]}...); use another copy"
            )


def has_manifest(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has a manifest of `write_manifest`, and not another program's file of that name."""
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        return False
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return True  # damaged: `verify_manifest` says so
    return isinstance(found, dict) and {"format", "checksum", "files"} <= {*cast("dict[str, Any]", found)}


def newest_complete(folder: str | os.PathLike[str], prefix: str = "checkpoint-") -> Path | None:
    """The sub-folder `prefix` + number of the highest number whose manifest holds; None if there is none.

    Folders that are half-written or damaged are passed over, so that a run resumes from the last whole state.
    """
    root = Path(folder)
    if not root.is_dir():
        return None
    pattern = re.compile(re.escape(prefix) + r"(\d+)")
    numbered = [
        (int(match.group(1)), path)
        for path in root.iterdir()
        if path.is_dir() and (match := pattern.fullmatch(path.name)) is not None
    ]
    for _, path in sorted(numbered, reverse=True):
        try:
            verify_manifest(path)
        except CorruptFileError:
            continue
        return path
    return None


def _files_under(root: Path) -> list[Path]:
    manifest = root / MANIFEST_NAME
    return sorted(path for path in root.rglob("*") if path.is_file() and path != manifest)


def _checksum(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode("utf-8")).hexdigest()


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST_NAME
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CorruptFileError(f"{root}: no {MANIFEST_NAME}, so it was never completed") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path}: expected JSON, but it cannot be read as such ({error})") from error
    if not isinstance(manifest, dict):
        raise CorruptFileError(f"{path}: expected an object, found {type(manifest).__name__}")
    fields = cast("dict[str, Any]", manifest)
    files: Any = fields.get("files")
    if not isinstance(files, dict) or fields.get("checksum") != _checksum(cast("dict[str, Any]", files)):
        raise CorruptFileError(f"{path}: the manifest itself has changed since it was written")
    return cast("dict[str, Any]", files)
