"""What a generated text is scored by, and how sure the means are."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from abkd.errors import InputError, needed

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_RESAMPLES = 2000


class RougeL:
    """ROUGE-L with stemming through the package rouge-score: `RougeL()(text, references)` in 0 to 100.

    The F-measure of the longest common subsequence of words (Lin 2004, equation 4 with beta = 1); of several
    references the largest counts.

    Raises:
        MissingPackageError: `rouge-score` is not installed.
    """

    def __init__(self) -> None:
        with needed("rouge_score", "lm"):
            from rouge_score.rouge_scorer import RougeScorer

        self._scorer: Any = RougeScorer(["rougeL"], use_stemmer=True)

    def __call__(self, text: str, references: Sequence[str]) -> float:
        """The score of one text, in 0 to 100.

        Raises:
            InputError: no reference.
        """
        _check_references(references)
        scores = [self._scorer.score(target=reference, prediction=text)["rougeL"].fmeasure for reference in references]
        return 100.0 * max(float(score) for score in scores)


def exact_match(text: str, references: Sequence[str]) -> float:
    """100 if a text equals one of its references once both are normalised, else 0.

    Normalised as in SQuAD, but with articles kept: lower case, no punctuation, single spaces.

    Raises:
        InputError: no reference.
    """
    _check_references(references)
    return 100.0 * any(normalised(text) == normalised(reference) for reference in references)


def normalised(text: str) -> str:
    """Lower case, ASCII punctuation removed, runs of white space as one space."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def distinct(texts: Iterable[str], n: int) -> float:
    """The share of different n-grams of words among all n-grams of all texts, in 0 to 1 (Li et al. 2016).

    It falls as there is more text: compare it between sets of like length only. 0 where there is no n-gram.

    Raises:
        InputError: `n` is less than 1.
    """
    if n < 1:
        raise InputError(f"n: expected the length of an n-gram, at least 1, got {n}")
    seen: set[tuple[str, ...]] = set()
    count = 0
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams = list(zip(*(words[start:] for start in range(n)), strict=False))
        seen.update(grams)
        count += len(grams)
    return len(seen) / count if count else 0.0


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error (standard deviation with n - 1, over the root of n); None for one value.

    Raises:
        InputError: no value.
    """
    if not values:
        raise InputError("expected at least one value to take the mean of")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """A percentile interval of the mean, from 2000 draws of the values with replacement.

    Args:
        values: one for each example.
        level: of confidence, in (0, 1).
        seed: of the draws.

    Raises:
        InputError: no value, or a level out of range.
    """
    if not values:
        raise InputError("expected at least one value for a bootstrap interval")
    if not 0 < level < 1:
        raise InputError(f"level: expected a confidence in (0, 1), got {level}")
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(_RESAMPLES, len(data)))
    low, high = np.quantile(data[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_references(references: Sequence[str]) -> None:
    if isinstance(references, str) or not references:
        raise InputError(f"expected a list of at least one reference, got {references!r}")
