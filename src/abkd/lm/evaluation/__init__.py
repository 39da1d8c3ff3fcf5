"""Evaluation of language models: the published instruction protocol, and how well held-out text is predicted.

`evaluate` does it all. For other benchmarks hand the saved student to lm-eval, which reads it as any model folder:
`lm_eval --model hf --model_args pretrained=FOLDER --tasks hellaswag,arc_easy`.
"""

from abkd.lm._decoding import Decoding
from abkd.lm.evaluation._cache_loss import CacheLoss, cache_loss, cache_losses
from abkd.lm.evaluation._evaluate import SEEDS, evaluate
from abkd.lm.evaluation._held_out import held_out
from abkd.lm.evaluation._responses import Response, write_responses
from abkd.lm.evaluation._result import EvaluationResult, SeedResult, SetResult
from abkd.lm.evaluation._scores import RougeL, bootstrap_interval, distinct, exact_match, mean_and_error, normalised

__all__ = [
    "SEEDS",
    "CacheLoss",
    "Decoding",
    "EvaluationResult",
    "Response",
    "RougeL",
    "SeedResult",
    "SetResult",
    "bootstrap_interval",
    "cache_loss",
    "cache_losses",
    "distinct",
    "evaluate",
    "exact_match",
    "held_out",
    "mean_and_error",
    "normalised",
    "write_responses",
]
