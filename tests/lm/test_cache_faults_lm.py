"""The teacher cache: interruption, damage, a full disk, and what it refuses."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import pytest
import torch
from cache_toys import build

from abkd.errors import AbkdError, CorruptFileError, InputError, RunExistsError
from abkd.lm.data import tokenise
from abkd.teachers import LmCache
from abkd.teachers import _lm_cache_store as store
from abkd.teachers._lm_cache_codec import Form, decode, encode
from abkd.teachers._lm_cache_select import Asker, Rule, select


@pytest.fixture
def rows(instructions: Any, tokenizer: Any) -> Any:
    return tokenise(instructions, tokenizer)


# Interruption.


def test_an_interrupted_build_goes_on_and_asks_only_for_what_is_missing(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(rows, teacher, tokenizer, tmp_path / "whole")
    asked: list[int] = []
    ask = Asker.ask

    def counting(self: Asker, some: Any) -> Any:
        asked.append(len(some))
        if sum(asked) > 16:
            raise KeyboardInterrupt
        return ask(self, some)

    monkeypatch.setattr(Asker, "ask", counting)
    with pytest.raises(KeyboardInterrupt):
        build(rows, teacher, tokenizer, tmp_path / "c")
    with pytest.raises(InputError, match="not finished; build it again to resume"):
        LmCache.open(tmp_path / "c")
    (tmp_path / "c" / "parts" / ".staged-part-00002-x").mkdir()  # as a killed process leaves it
    asked.clear()
    monkeypatch.setattr(Asker, "ask", lambda self, some: (asked.append(len(some)), ask(self, some))[1])
    cache = build(rows, teacher, tokenizer, tmp_path / "c")
    assert sum(asked) == len(rows) - 14
    assert not list((tmp_path / "c" / "parts").glob(".staged*"))
    for name in cache.dataset.column_names:
        assert list(cache.dataset[name]) == list(whole.dataset[name])
    asked.clear()
    build(rows, teacher, tokenizer, tmp_path / "c", rows_per_part=5)
    assert not asked
    with pytest.raises(RunExistsError, match="resume it"):
        build(rows, teacher, tokenizer, tmp_path / "c", resume=False)


def test_a_damaged_part_is_found_and_made_anew_while_building(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    build(rows, teacher, tokenizer, tmp_path / "c")
    file = tmp_path / "c" / "parts" / "part-00001" / "data.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"part-00001/data\.arrow: its content has changed.*`abkd cache`"):
        LmCache.open(tmp_path / "c")
    build(rows, teacher, tokenizer, tmp_path / "c")
    LmCache.open(tmp_path / "c")


def test_a_part_that_was_cut_short_is_said_without_checksums(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    build(rows, teacher, tokenizer, tmp_path / "c")
    file = tmp_path / "c" / "parts" / "part-00001" / "data.arrow"
    content = file.read_bytes()
    for share in (0, 0.01, 0.3, 0.5, 0.9):
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CorruptFileError, match=r"part-00001/data\.arrow: this part.* is damaged.*`abkd cache`"):
            LmCache.open(tmp_path / "c", verify=False)


def test_another_process_that_builds_the_same_cache_is_refused(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    ask = Asker.ask

    def elsewhere(self: Asker, some: Any) -> Any:
        if not said:
            locks = "import sys; from abkd.storage import locked\nwith locked(sys.argv[1]): pass"
            done = subprocess.run(
                [sys.executable, "-c", locks, str(tmp_path / "c")], capture_output=True, text=True, check=False
            )
            said.append(done.stderr)
        return ask(self, some)

    monkeypatch.setattr(Asker, "ask", elsewhere)
    build(rows, teacher, tokenizer, tmp_path / "c")
    assert "another process is using this folder" in said[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_killed_within_its_first_file_it_starts_again(rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".cache.json.x1.tmp").write_text("{")
    assert len(build(rows, teacher, tokenizer, tmp_path / "c")) == len(rows)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("rule", [{}, {"top_k": 5}, {"top_k": lm_toys.VOCABULARY}, {"tail_mass": 0.1}], ids=str)
def test_logits_that_are_no_distribution_are_refused(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, value: float, rule: Any
) -> None:
    forward = teacher.forward
    only = torch.tensor(rows[9]["input_ids"])

    def overflows(input_ids: torch.Tensor, **options: Any) -> Any:
        found = forward(input_ids=input_ids, **options)
        for line, ids in enumerate(input_ids):
            if torch.equal(ids[: len(only)], only):
                found.logits[line, :, 3] = value
        return found

    teacher.forward = overflows
    with pytest.raises(InputError, match=r"row 9: the teacher's logits are NaN or infinite in float32.*bfloat16"):
        build(rows, teacher, tokenizer, tmp_path / "c", **rule)


def test_a_class_that_is_ruled_out_is_a_distribution(rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path) -> None:
    forward = teacher.forward

    def rules_out(**options: Any) -> Any:
        found = forward(**options)
        found.logits[..., 3] = -torch.inf
        return found

    teacher.forward = rules_out
    assert len(build(rows, teacher, tokenizer, tmp_path / "c")) == len(rows)


def test_room_is_asked_for_what_is_missing_alone(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, int]] = []
    monkeypatch.setattr(store.CacheFolder, "check_room", lambda self, need, done: asked.append((need, done)))
    build(rows, teacher, tokenizer, tmp_path / "c", rows_per_part=6)
    (whole, _), first, *_ = asked
    asked.clear()
    shutil.rmtree(tmp_path / "c" / "parts" / "part-00001")
    build(rows, teacher, tokenizer, tmp_path / "c")
    assert asked[0] == (pytest.approx(whole / 4), 18)
    assert asked[1][0] < first[0] / 2
    shutil.rmtree(tmp_path / "c" / "parts" / "part-00001")

    def refuse(self: Any, need: float, done: int) -> None:
        raise AbkdError("no room")

    monkeypatch.setattr(store.CacheFolder, "check_room", refuse)
    with pytest.raises(AbkdError, match="no room"):
        build(rows, teacher, tokenizer, tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").is_file()


def test_no_room_is_said_before_the_teacher_is_asked(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    monkeypatch.setattr(Asker, "ask", lambda self, some: pytest.fail("the teacher was asked"))
    with pytest.raises(AbkdError, match=r"no room on this disk.*MB more are needed"):
        build(rows, teacher, tokenizer, tmp_path / "c")
    assert not list((tmp_path / "c").glob("parts/*"))


@pytest.mark.parametrize("bits", [6, 16])
@pytest.mark.parametrize("rule", [{}, {"top_k": 50}, {"top_k": lm_toys.VOCABULARY}, {"tail_mass": 0.05}])
def test_the_room_that_is_asked_for_is_near_what_it_takes(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Any, bits: int
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(store.CacheFolder, "check_room", lambda self, need, done: asked.append(need))
    build(rows, teacher, tokenizer, tmp_path / "c", rows_per_part=len(rows), bits=bits, **rule)
    taken = sum(file.stat().st_size for file in (tmp_path / "c/parts").rglob("*.arrow"))
    first, second = asked
    if "top_k" in rule:  # otherwise how flat the teacher is shows with the first part
        assert taken < 1.5 * first + 10_000  # a few kB are Arrow's own, whatever the size
        assert first < 2 * taken
    assert taken < 1.2 * second + 10_000
    assert second < 1.5 * taken


def test_a_selection_of_a_large_data_set_asks_for_its_share_alone(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(store.CacheFolder, "check_room", lambda self, need, done: asked.append(need))
    many = datasets.concatenate_datasets([rows] * 50).select(range(0, 50 * len(rows), 50))
    for number, data in enumerate((many, many.flatten_indices())):
        build(data, teacher, tokenizer, tmp_path / str(number))
    half = len(asked) // 2
    assert asked[:half] == pytest.approx(asked[half:], rel=0.3)


def test_no_room_on_the_disk(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(said: str) -> None:
        with pytest.raises(AbkdError, match=said):
            build(rows, teacher, tokenizer, tmp_path / "c")
        monkeypatch.undo()
        with pytest.raises(InputError, match="not finished; build it again to resume"):
            LmCache.open(tmp_path / "c")
        assert not list((tmp_path / "c" / "parts").glob(".staged*"))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    usage = namedtuple("usage", "total used free")
    free = iter([10**9, 10**9, 10**9, 0])
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage(10, 10, next(free)))
    refused("The 14 rows done are kept")
    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.write_batch", full)
    refused("no room on this disk")
    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.finalize", full)
    refused("no room on this disk")
    monkeypatch.setattr(store, "write_manifest", full)
    refused("no room on this disk")
    assert len(build(rows, teacher, tokenizer, tmp_path / "c")) == len(rows)


# What is refused.


def test_another_teacher_tokenizer_or_data_set_is_refused(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    cache = build(rows, teacher, tokenizer, folder)
    cache.check_tokenizer(tokenizer)
    cache.check_teacher(teacher)
    cache.check_dataset(rows.shuffle(seed=1).select(range(5)))
    other_teacher = lm_toys.frozen(lm_toys.tiny_model(seed=3))
    other_tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    other_tokenizer.add_tokens(["<more>"])
    other_rows = tokenise(lm_toys.instructions(6, start=40), tokenizer)
    with pytest.raises(InputError, match=r"another tokenizer.*320 tokens.*321.*seqkd"):
        cache.check_tokenizer(other_tokenizer)
    with pytest.raises(InputError, match="another teacher"):
        cache.check_teacher(other_teacher)
    with pytest.raises(InputError, match=r"another teacher.*another precision"):
        cache.check_teacher(lm_toys.frozen(lm_toys.tiny_model(seed=2).to(torch.bfloat16)))
    with pytest.raises(InputError, match=r"6 of 6 rows are not in this teacher cache \(rows 0, 1"):
        cache.check_dataset(other_rows)
    for changes, word in (
        ({"teacher": other_teacher}, "another teacher"),
        ({"rows": other_rows}, "other data"),
        ({"rows": rows.shuffle(seed=1)}, "another order"),
        ({"top_k": 3}, "another choice of entries"),
        ({"min_entries": 40}, r"another choice of entries \(.*min_entries"),
        ({"bits": 16}, "another number of bits"),
    ):
        given: dict[str, Any] = {"rows": rows, "teacher": teacher, "tokenizer": tokenizer, **changes}
        with pytest.raises(InputError, match=word):
            build(folder=folder, **given)
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(InputError, match="another chat template"):
        build(rows, teacher, tokenizer, folder)


def test_bad_input(rows: Any, instructions: Any, teacher: Any, tokenizer: Any, tmp_path: Path) -> None:
    def refused(match: str, data: Any = rows, model: Any = teacher, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            build(data, model, tokenizer, tmp_path / "c", **options)

    refused(r"expected tokenised rows.*found the columns prompt, completion.*abkd\.lm\.data\.tokenise", instructions)
    refused("expected a datasets.Dataset", [1, 2])
    refused("is empty", rows.select([]))
    refused("train mode", model=lm_toys.tiny_model().requires_grad_(False).train())
    refused("asks for gradients", model=lm_toys.tiny_model())
    refused("bits: expected 4 to 8, or 16, got 9", bits=9)
    refused("top_k: expected", top_k=0)
    refused("min_entries: expected a number", min_entries=0)
    refused("min_entries: expected at most top_k, 3, got 5", top_k=3, min_entries=5)
    refused("tail_mass: expected", tail_mass=1.5)
    refused("min_probability: expected", min_probability=0.0)
    refused("temperature: expected", temperature=0.0)
    refused("power: expected", power=-1.0)
    refused("batch_size: expected", batch_size=0)
    refused("rows_per_part: expected", rows_per_part=0)
    refused("columns of a teacher cache already", rows.add_column("teacher_key", ["x"] * len(rows)))
    refused("no token of this data set counts", rows.map(lambda row: {"labels": [-100] * len(row["labels"])}))
    refused("head only 100 classes", model=lm_toys.frozen(lm_toys.tiny_model(vocabulary=100)))
    assert not (tmp_path / "c").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    refused("is no teacher cache")
    with pytest.raises(InputError, match="expected a teacher cache, found no"):
        LmCache.open(tmp_path / "c")


def test_a_cache_of_another_format_or_with_missing_parts_is_refused(
    rows: Any, teacher: Any, tokenizer: Any, tmp_path: Path
) -> None:
    build(rows, teacher, tokenizer, tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "parts" / "part-00002")
    with pytest.raises(CorruptFileError, match="part-00002"):
        LmCache.open(tmp_path / "c")
    with pytest.raises(CorruptFileError, match="a part of the teacher cache is missing"):
        LmCache.open(tmp_path / "c", verify=False)
    identity = json.loads((tmp_path / "c" / "cache.json").read_text())
    (tmp_path / "c" / "cache.json").write_text(json.dumps({**identity, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        LmCache.open(tmp_path / "c", verify=False)


def test_bytes_that_do_not_fit_together_are_corrupt() -> None:
    form = Form(300, 5, 8)
    columns = encode(select(torch.randn(4, 300), Rule(top_k=5), form), form)
    with pytest.raises(CorruptFileError, match="build the cache anew"):
        decode([{**columns, "teacher_log_probs": columns["teacher_log_probs"][:-3]}], form, 1.0)
    with pytest.raises(CorruptFileError):
        decode([{**columns, "teacher_ids": columns["teacher_ids"][:4]}], form, 1.0)
