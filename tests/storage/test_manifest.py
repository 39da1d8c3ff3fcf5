"""A changed byte, a missing file and a half-written folder are noticed."""

import hashlib
import random

import pytest

from abkd.errors import CorruptFileError, InputError
from abkd.storage import MANIFEST_NAME, has_manifest, newest_complete, sha256_of, verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "checkpoint-3"
    (root / "sub").mkdir(parents=True)
    (root / "a.bin").write_bytes(bytes(range(256)) * 20)
    (root / "sub" / "b.txt").write_text("b")
    (root / "empty").write_bytes(b"")
    write_manifest(root)
    return root


def test_sha256_is_the_standard_one(tmp_path):
    data = random.Random(0).randbytes(3_000_001)
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_an_untouched_folder_passes_and_new_files_do_not_matter(folder):
    verify_manifest(folder)
    (folder / "note").write_text("added later")
    verify_manifest(folder)


@pytest.mark.parametrize("seed", range(20))
def test_any_flipped_bit_in_any_file_is_found_and_named(folder, seed):
    random_ = random.Random(seed)
    path = random_.choice([folder / "a.bin", folder / "sub" / "b.txt"])
    data = bytearray(path.read_bytes())
    data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=path.name):
        verify_manifest(folder)


@pytest.mark.parametrize("seed", range(20))
def test_any_flipped_bit_in_the_manifest_itself_is_found(folder, seed):
    path = folder / MANIFEST_NAME
    data = bytearray(path.read_bytes())
    spots = [place for place, byte in enumerate(data) if chr(byte).isalnum()]
    place = random.Random(seed).choice(spots)
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError):
        verify_manifest(folder)


def test_truncated_missing_and_never_completed(folder):
    (folder / "a.bin").write_bytes(b"short")
    with pytest.raises(CorruptFileError, match="expected 5120 bytes, found 5"):
        verify_manifest(folder)
    (folder / "a.bin").unlink()
    with pytest.raises(CorruptFileError, match="missing"):
        verify_manifest(folder)
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(CorruptFileError, match="never completed"):
        verify_manifest(folder)
    (folder / MANIFEST_NAME).write_text("[]")
    with pytest.raises(CorruptFileError, match="expected an object"):
        verify_manifest(folder)


def test_a_manifest_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="expected a folder"):
        write_manifest(tmp_path / "none")


def test_newest_complete_goes_by_number_and_passes_over_the_damaged(tmp_path):
    assert newest_complete(tmp_path / "none") is None
    assert newest_complete(tmp_path) is None
    for step in (2, 9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "w").write_bytes(b"weights")
        if step != 11:
            write_manifest(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-99x").mkdir()
    (tmp_path / "checkpoint-100").write_text("a file")
    assert newest_complete(tmp_path).name == "checkpoint-10"
    (tmp_path / "checkpoint-10" / "w").write_bytes(b"Weights")
    assert newest_complete(tmp_path).name == "checkpoint-9"
    assert newest_complete(tmp_path, prefix="other-") is None


def test_another_programs_file_of_that_name_is_no_manifest(tmp_path):
    assert not has_manifest(tmp_path)
    for text in ("[]", '{"name": "an app", "files": []}'):
        (tmp_path / "manifest.json").write_text(text)
        assert not has_manifest(tmp_path)
    write_manifest(tmp_path)
    assert has_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 1')
    assert has_manifest(tmp_path)
