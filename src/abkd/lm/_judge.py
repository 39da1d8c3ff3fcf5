"""What a student is worth: measured on held-out rows, on test sets, and by a few answers to read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from abkd.engine import TrainingError, on_main, rank, ranks, say, wait
from abkd.lm._config import DistillationConfig
from abkd.lm._generate import check_lengths
from abkd.lm._parts import LmParts
from abkd.lm._settings import LmRun
from abkd.lm._teacher import BROKEN_TEACHER
from abkd.lm.data import prompt_ids, tokenise
from abkd.lm.evaluation import Decoding, EvaluationResult, evaluate, held_out, write_responses

_SCORES = ("rouge_l", "exact_match")


class Judge:
    """Measures the student of a run.

    Of several processes the first one measures held-out rows and answers, while the others wait; the texts of test
    sets are shared among all.

    Args:
        settings: the run.
        parts: what it is made of.
        config: of its trainer.
    """

    def __init__(self, settings: LmRun, parts: LmParts, config: DistillationConfig) -> None:
        self.settings, self.parts = settings, parts
        self.rows = None
        if parts.test is not None:
            self.rows = tokenise(parts.test, parts.tokenizer, max_length=config.max_length)
        self.length = config.max_length
        self.device = config.device
        self.batch = config.per_device_eval_batch_size

    def start(self, student: Any) -> dict[str, float]:
        """Before any training; measured once for all runs that share their parts, and so their first weights."""
        return on_main(lambda: dict(self._started(student)["metrics"]))

    def _started(self, student: Any) -> dict[str, Any]:
        known = self.parts.start.setdefault(self.length, {})
        if "metrics" not in known:
            student.to(self.device)
            known["metrics"] = self.held_out(student)
            known["answers"] = self.answers(student)
        return known

    def held_out(self, student: Any) -> dict[str, float]:
        """NLL on the test rows, and KL where the teacher can be compared; nothing without any rows.

        Raises:
            TrainingError: the student's NLL is not a number.
        """
        if self.rows is None:
            return {}
        teacher = self.parts.teacher if self.parts.compares else None
        if teacher is not None:
            teacher.to(self.device)
        found = held_out(student, self.rows, self.parts.tokenizer, teacher=teacher, batch_size=self.batch)
        if not math.isfinite(found["nll"]):
            raise TrainingError(f"the student's NLL on the test rows is {found['nll']}: its weights or logits overflow")
        odd = [name for name, value in found.items() if not math.isfinite(value)]
        if odd:
            why = f", since {BROKEN_TEACHER}" if "teacher_entropy" in odd else ""
            say(f"the test rows: {', '.join(odd)} are not finite and left out{why}")
        return {name: value for name, value in found.items() if name not in odd}

    def texts(self, student: Any, folder: Path) -> dict[str, float]:
        """ROUGE-L and exact match on the test sets, with standard errors over seeds; nothing without any.

        Called in every process, with the same weights: each writes some of the texts.
        """
        if not self.parts.sets:
            return {}
        for number, (name, seed) in enumerate(self._pairs()):
            if ranks() > 1 and number % ranks() == rank():
                self._evaluated(student, {name: self.parts.sets[name]}, (seed,), folder)
            if number == 0:
                wait()  # the first one has made the folder
        wait()
        return on_main(
            lambda: scores(self._evaluated(student, self.parts.sets, self.settings.evaluation.seeds, folder))
        )

    def _pairs(self) -> Iterator[tuple[str, int]]:
        return ((name, seed) for name in self.parts.sets for seed in self.settings.evaluation.seeds)

    def _evaluated(self, student: Any, sets: dict[str, Any], seeds: tuple[int, ...], folder: Path) -> EvaluationResult:
        wanted = self.settings.evaluation
        return evaluate(
            student,
            self.parts.tokenizer,
            sets,
            seeds=seeds,
            decoding=self.settings.decoding(),
            batch_size=wanted.batch_size,
            folder=folder,
            progress=False,
        )

    def prompts(self) -> list[Any]:
        """The held-out prompts that are answered for reading."""
        rows = self.parts.test if self.parts.test is not None else self.parts.validation
        if rows is None or "prompt" not in rows.column_names:
            return []
        return list(rows["prompt"])[: self.settings.evaluation.samples]

    def answers(self, student: Any) -> list[str]:
        """The most probable answer, token by token, to each of these prompts."""
        prompts = self.prompts()
        if not prompts:
            return []
        decoding = Decoding(
            temperature=0.0, max_new_tokens=self.settings.evaluation.sample_tokens, no_repeat_ngram_size=0
        )
        ids = [prompt_ids(self.parts.tokenizer, prompt) for prompt in prompts]
        check_lengths(student.config, ids, decoding.max_new_tokens, "samples", "evaluation.sample_tokens")
        found = write_responses(student, self.parts.tokenizer, prompts, decoding=decoding)
        return [response.text for response in found]

    def samples(self, student: Any) -> list[dict[str, Any]]:
        """Prompt, the data's response, and the student's answers before and after."""
        rows = self.parts.test if self.parts.test is not None else self.parts.validation
        prompts, after = self.prompts(), self.answers(student)
        before = self.parts.start.get(self.length, {}).get("answers") or [""] * len(prompts)
        return [
            {"prompt": prompt, "response": response, "before": old, "after": new}
            for prompt, response, old, new in zip(
                prompts, [] if not prompts else rows["completion"], before, after, strict=False
            )
        ]


def scores(result: EvaluationResult) -> dict[str, float]:
    """`rouge_l`, the mean over sets, and of every set `rouge_l_SET` and `exact_match_SET`: means over the seeds.

    Each has its standard error over the seeds under the same name with `_error`, where there are several.
    """
    found: dict[str, float | None] = {}
    average = result.average()
    if average is not None:
        found |= {"rouge_l": average["mean"], "rouge_l_error": average["standard_error"]}
    for name, each in result.sets.items():
        summary = each.summary()
        for score in _SCORES:
            found[f"{score}_{name}"] = summary[score]["mean"]
            found[f"{score}_{name}_error"] = summary[score]["standard_error"]
    return {name: value for name, value in found.items() if value is not None}
