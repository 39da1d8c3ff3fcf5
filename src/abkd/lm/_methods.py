"""The methods of language-model distillation by name: a divergence, the text it is trained on, and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from abkd.errors import InputError, nearest
from abkd.lm._policy_settings import PolicyGradient


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Method:
    """A named method: what it compares, and on which text.

    Attributes:
        name: the name in recipes.
        title: the name in the literature.
        description: one sentence.
        source: paper, or where it is usual.
        divergence: `{"name": ..., setting: value}`, None where nothing is compared (cross-entropy alone).
        ce_weight: weight of the cross-entropy on the text's tokens, at least 0.
        student_text: settings of the student's own text (`StudentText`), None to train on the data set's.
        teacher_text: whether the completions are replaced by the teacher's, written once.
        settings: the method's own further settings, with their defaults.
        policy_gradient: whether these are a `PolicyGradient`'s, by which the student learns from its own text; its
            divergence is then fixed.
    """

    name: str
    title: str
    description: str
    source: str
    divergence: Mapping[str, Any] | None = None
    ce_weight: float = 0.0
    student_text: Mapping[str, Any] | None = None
    teacher_text: bool = False
    settings: Mapping[str, Any] = field(default_factory=_nothing)
    policy_gradient: bool = False


_MINILLM = "MiniLLM, arXiv 2306.08543"
_GKD = "GKD, arXiv 2306.13649"

_ALL = (
    Method(
        "sft", "supervised fine-tuning", "Cross-entropy on the data set, without a teacher.", "usual", ce_weight=1.0
    ),
    Method(
        "kd",
        "knowledge distillation",
        "Forward KL: the student covers what the teacher allows.",
        "Hinton et al. 2015, arXiv 1503.02531",
        {"name": "forward_kl"},
    ),
    Method(
        "rkd",
        "reverse KL distillation",
        "Reverse KL: the student keeps to what the teacher prefers.",
        _MINILLM,
        {"name": "reverse_kl"},
    ),
    Method(
        "jsd",
        "Jensen-Shannon distillation",
        "Jensen-Shannon divergence, half and half.",
        _GKD,
        {"name": "jensen_shannon", "beta": 0.5},
    ),
    Method(
        "tvd",
        "total variation distillation",
        "Total variation distance.",
        "f-distill, arXiv 2307.15190",
        {"name": "total_variation"},
    ),
    Method(
        "akl",
        "adaptive KL",
        "Forward and reverse KL, weighed by where student and teacher differ.",
        "Wu et al. 2024, arXiv 2404.02657",
        {"name": "akl"},
    ),
    Method(
        "bdkd",
        "bi-directional KL",
        "Forward and reverse KL, weighed by the two entropies.",
        "Amara et al. 2022, arXiv 2212.12965",
        {"name": "bdkd"},
    ),
    Method(
        "seqkd",
        "sequence-level distillation",
        "Cross-entropy on completions that the teacher writes once; works across tokenizers.",
        "Kim and Rush 2016, arXiv 1606.07947 (by beam search; here sampled, as MiniLLM has it)",
        ce_weight=1.0,
        teacher_text=True,
    ),
    Method(
        "imitkd",
        "imitation distillation",
        "Forward KL on the student's own text, in every batch.",
        "DistiLLM's comparison; ImitKD, arXiv 2009.07253, mixes in the data set's text, less and less",
        {"name": "forward_kl"},
        student_text={"share": 1.0},
    ),
    Method(
        "gkd",
        "generalised distillation",
        "Generalised Jensen-Shannon divergence, half of the batches on the student's own text.",
        _GKD,
        {"name": "jensen_shannon", "beta": 0.5},
        student_text={"share": 0.5},
    ),
    Method(
        "minillm",
        "MiniLLM",
        "Reverse KL of whole sequences by policy gradient, on text that student and teacher sample together; each "
        "text serves 4 steps, so an epoch writes to every fourth prompt.",
        _MINILLM,
        {"name": "reverse_kl"},
        student_text={"share": 1.0, "teacher_mix": 0.2},
        settings=asdict(PolicyGradient()),
        policy_gradient=True,
    ),
    Method(
        "distillm",
        "DistiLLM",
        "Skewed reverse KL, on the student's own text as far as the validation loss asks for it, kept and replayed.",
        "DistiLLM, arXiv 2402.03898",
        {"name": "skew_reverse_kl", "skew": 0.1},
        student_text={"share": 0.0, "schedule": "adaptive", "replay": 1000},
    ),
    Method(
        "abkd",
        "ABKD",
        "The alpha-beta-divergence; (0.2, 0.7) unless told, on the data set unless student_text is given.",
        "ABKD, arXiv 2505.04560",
        {"name": "alpha_beta", "alpha": 0.2, "beta": 0.7},
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def method_named(name: str) -> Method:
    """The method of this name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; {nearest(str(name), METHODS)}")
    return METHODS[name]
