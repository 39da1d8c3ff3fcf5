"""Which classes two language models share, and whether they mean the same by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abkd.errors import InputError
from abkd.teachers._token_rows import vocabulary_of

_SHOWN = 3


@dataclass(frozen=True)
class SharedVocabulary:
    """The token ids on which student and teacher are compared: 0 to `size` - 1.

    Attributes:
        size: number of classes; both heads are cut to it, and both distributions renormalised.
        note: what the user should know, or None where the models' own vocabularies are used whole.
    """

    size: int
    note: str | None = None


def shared_vocabulary(
    student_tokenizer: Any, teacher_tokenizer: Any | None, student_size: int, teacher_size: int
) -> SharedVocabulary:
    """The vocabulary that a student and a teacher share.

    Model vocabularies are often padded to round sizes (Qwen2.5: 151936 and 152064 for a tokenizer of 151665), so
    the sizes of the models say little: the tokenizers decide, by their token strings.

    Args:
        student_tokenizer: the one that the data is tokenised with.
        teacher_tokenizer: the teacher's own, or None where it is not known: it is then taken to be the same.
        student_size: rows of the student's head.
        teacher_size: rows of the teacher's head.

    Raises:
        InputError: a token id stands for different strings, or a model has fewer classes than its tokenizer.
    """
    mine, size = _tokens(student_tokenizer), vocabulary_of(student_tokenizer)
    note: str | None = None
    if teacher_tokenizer is not None:
        theirs, known = _tokens(teacher_tokenizer), vocabulary_of(teacher_tokenizer)
        common = min(size, known)
        _check_same(mine, theirs, common)
        if known != size:
            note = f"the tokenizers have {size} and {known} tokens; the {common} that both know are compared"
        size = common
    smallest = min(student_size, teacher_size)
    if smallest < size:
        who = "student" if student_size < size else "teacher"
        raise InputError(
            f"the tokenizer has {size} tokens and the {who}'s head only {smallest} classes: this is not its tokenizer, "
            "or tokens were added without model.resize_token_embeddings"
        )
    if note is None and (student_size, teacher_size) != (size, size):
        note = (
            f"vocabularies are padded (student {student_size}, teacher {teacher_size}, tokenizer {size}): the "
            f"{size} real tokens are compared, both distributions renormalised over them"
        )
    return SharedVocabulary(size, note)


def _tokens(tokenizer: Any) -> dict[int, str]:
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return {number: token for token, number in vocabulary.items()}


def _check_same(mine: dict[int, str], theirs: dict[int, str], common: int) -> None:
    differing = [number for number in range(common) if mine.get(number) != theirs.get(number)]
    if differing:
        shown = "; ".join(
            f"id {number} is {mine.get(number)!r} for the student and {theirs.get(number)!r} for the teacher"
            for number in differing[:_SHOWN]
        )
        raise InputError(
            f"student and teacher have different tokenizers ({len(differing)} of {common} ids differ: {shown}). "
            "Their distributions cannot be compared token by token: use method 'seqkd', which trains on text that "
            "the teacher writes, or a student with the teacher's tokenizer"
        )
