"""Files that are whole or absent, and that say when they have changed.

`atomic_write_bytes`, `atomic_write_text`, `atomic_write_json` replace a file in one step. `write_manifest`
records size and SHA-256 of everything in a folder; `verify_manifest` says which file no longer matches;
`newest_complete` picks the last numbered folder that is whole. `staged_folder` fills a folder under a
temporary name and renames it once it is complete. `visible` lists a folder without what a kill may leave.
`writable` says of a folder that cannot be made what to do, and `room_in` of a full disk. `locked` keeps other
processes out of a folder.
"""

from abkd.storage._atomic import (
    STAGED_PREFIX,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    read_json,
    replace_folder,
    staged_folder,
    visible,
    writable,
)
from abkd.storage._lock import locked
from abkd.storage._manifest import (
    MANIFEST_NAME,
    has_manifest,
    newest_complete,
    sha256_of,
    verify_manifest,
    write_manifest,
)
from abkd.storage._room import NoRoomError, is_full, room_in

__all__ = [
    "MANIFEST_NAME",
    "STAGED_PREFIX",
    "NoRoomError",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "has_manifest",
    "is_full",
    "locked",
    "newest_complete",
    "read_json",
    "replace_folder",
    "room_in",
    "sha256_of",
    "staged_folder",
    "verify_manifest",
    "visible",
    "writable",
    "write_manifest",
]
