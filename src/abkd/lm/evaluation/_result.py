"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abkd.lm.evaluation._responses import Response
from abkd.lm.evaluation._scores import bootstrap_interval, distinct, mean_and_error


@dataclass(frozen=True)
class SeedResult:
    """One set, written once with one seed.

    Attributes:
        seed: of the sampling.
        rouge_l: for each example, 0 to 100.
        exact_match: for each example, 0 or 100.
        responses: for each example.
    """

    seed: int
    rouge_l: tuple[float, ...]
    exact_match: tuple[float, ...]
    responses: tuple[Response, ...]

    def means(self) -> dict[str, float]:
        """`rouge_l`, `exact_match`, `response_tokens`, `finished` (share that ended by itself), `distinct_1`, `_2`."""
        count = len(self.responses)
        texts = [response.text for response in self.responses]
        return {
            "rouge_l": sum(self.rouge_l) / count,
            "exact_match": sum(self.exact_match) / count,
            "response_tokens": sum(response.tokens for response in self.responses) / count,
            "finished": sum(response.finished for response in self.responses) / count,
            "distinct_1": distinct(texts, 1),
            "distinct_2": distinct(texts, 2),
        }


@dataclass(frozen=True)
class SetResult:
    """One set over all seeds.

    Attributes:
        name: of the set.
        seeds: one result each.
    """

    name: str
    seeds: tuple[SeedResult, ...]

    def summary(self) -> dict[str, Any]:
        """For each measure its mean over seeds and standard error (None for one seed); and of ROUGE-L a 95 % interval.

        The error tells how much the sampling of texts moves the mean; the interval, a bootstrap over examples of
        their means over seeds, how much the choice of examples does. Both should be looked at.
        """
        each = [seed.means() for seed in self.seeds]
        found: dict[str, Any] = {"examples": len(self.seeds[0].responses), "seeds": [seed.seed for seed in self.seeds]}
        for name in each[0]:
            mean, error = mean_and_error([values[name] for values in each])
            found[name] = {"mean": mean, "standard_error": error}
        scores = [sum(values) / len(values) for values in zip(*(seed.rouge_l for seed in self.seeds), strict=True)]
        found["rouge_l"]["interval_95"] = list(bootstrap_interval(scores))
        return found


@dataclass(frozen=True)
class EvaluationResult:
    """All sets, and how well held-out text is predicted.

    Attributes:
        sets: by name.
        held_out: of `held_out`, empty where nothing was given.
    """

    sets: Mapping[str, SetResult]
    held_out: Mapping[str, float] = field(default_factory=dict[str, float])

    def average(self) -> dict[str, float | None] | None:
        """ROUGE-L over the sets, of the same weight each: `mean` and `standard_error` over seeds.

        None without sets, and for sets of different seeds.
        """
        if len({tuple(seed.seed for seed in result.seeds) for result in self.sets.values()}) != 1:
            return None
        columns: Sequence[tuple[float, ...]] = [
            tuple(seed.means()["rouge_l"] for seed in result.seeds) for result in self.sets.values()
        ]
        mean, error = mean_and_error([sum(values) / len(values) for values in zip(*columns, strict=True)])
        return {"mean": mean, "standard_error": error}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the texts."""
        return {
            "sets": {name: result.summary() for name, result in self.sets.items()},
            "average_rouge_l": self.average(),
            "held_out": dict(self.held_out),
        }

    def __str__(self) -> str:
        lines: list[str] = []
        for name, result in self.sets.items():
            found = result.summary()
            low, high = found["rouge_l"]["interval_95"]
            lines.append(
                f"{name}: ROUGE-L {_shown(found['rouge_l'])} (95 % of examples {low:.2f} to {high:.2f}), exact match "
                f"{_shown(found['exact_match'])}, {found['response_tokens']['mean']:.1f} tokens, "
                f"{found['examples']} examples, {len(result.seeds)} seeds"
            )
        average = self.average()
        if average is not None and len(self.sets) > 1:
            lines.append(f"average: ROUGE-L {_shown(average)}")
        if self.held_out:
            lines.append("held out: " + ", ".join(f"{name} {value:.4g}" for name, value in self.held_out.items()))
        return "\n".join(lines)


def _shown(value: Mapping[str, Any]) -> str:
    error = value["standard_error"]
    return f"{value['mean']:.2f}" + ("" if error is None else f" +- {error:.2f}")
