"""The image methods by name, with their published settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from abkd.divergences import AlphaBeta, Divergence
from abkd.errors import InputError, nearest
from abkd.image.objectives._base import Objective
from abkd.image.objectives._dist import DIST
from abkd.image.objectives._dkd import DKD
from abkd.image.objectives._kd import KD
from abkd.image.objectives._lsd import LSD
from abkd.image.objectives._sft import SFT
from abkd.image.objectives._ttm import TTM, WTTM


@dataclass(frozen=True)
class Method:
    """A named method: an objective and its settings, published ones where there are any (docs/methods.md says which).

    Attributes:
        name: as in a recipe.
        title: as in a table.
        description: one sentence.
        source: paper.
        objective: the class that computes it.
        settings: what differs from that class's defaults.
    """

    name: str
    title: str
    description: str
    source: str
    objective: type[Objective]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def defaults(self) -> dict[str, Any]:
        """Every setting with the value it has unless a recipe says otherwise."""
        return self.build().describe()

    def build(self, *, divergence: Divergence | None = None, **settings: Any) -> Objective:
        """The objective with these settings in place of the defaults.

        Raises:
            InputError: a setting that the method does not have, or a value out of range.
        """
        fields = [known.name for known in dataclasses.fields(self.objective)]
        for setting in settings:
            if setting not in fields or setting == "divergence":
                known = [name for name in fields if name != "divergence"]
                raise InputError(f"method {self.name!r} has no setting {setting!r}: {nearest(setting, known)}")
        chosen = {**self.settings, **settings}
        if divergence is not None:
            if "divergence" not in fields:
                raise InputError(f"method {self.name!r} takes no divergence, got {divergence.name}; leave it out")
            chosen["divergence"] = divergence
        return self.objective(**chosen)


_ABKD = "Wang et al. (2025), arXiv 2505.04560"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("sft", "SFT", "labels alone, no teacher", "", SFT),
        Method("kd", "KD", "forward KL of softened distributions", "Hinton et al. (2015), arXiv 1503.02531", KD),
        Method("dkd", "DKD", "target class and other classes apart", "Zhao et al. (2022), arXiv 2203.08679", DKD),
        Method("lsd", "LSD", "logits standardised in each image", "Sun et al. (2024), arXiv 2403.01427", LSD),
        Method("ttm", "TTM", "power transform of the teacher alone", "Zheng, Yang (2024), arXiv 2402.11148", TTM),
        Method(
            "wttm",
            "WTTM",
            "TTM weighted by the teacher's spread",
            "Zheng, Yang (2024), arXiv 2402.11148",
            WTTM,
        ),
        Method(
            "dist",
            "DIST",
            "correlations within images and classes",
            "Huang et al. (2022), arXiv 2205.10536",
            DIST,
        ),
        Method(
            "abkd",
            "ABKD",
            "alpha-beta-divergence of softened distributions, no T^2",
            _ABKD,
            KD,
            {
                "divergence": AlphaBeta(0.8, 0.3),
                "ce_weight": 1.0,
                "kd_weight": 32.0,
                "temperature": 4.0,
                "temperature_scaling": False,
            },
        ),
        Method(
            "abdkd",
            "ABDKD",
            "DKD with alpha-beta among the other classes",
            _ABKD,
            DKD,
            {"divergence": AlphaBeta(0.8, 0.2)},
        ),
        Method("ablsd", "ABLSD", "LSD with alpha-beta", _ABKD, LSD, {"divergence": AlphaBeta(0.9, 0.3)}),
        Method("abttm", "ABTTM", "TTM with alpha-beta", _ABKD, TTM, {"divergence": AlphaBeta(0.8, 0.2)}),
        Method(
            "abwttm",
            "ABWTTM",
            "WTTM with alpha-beta (new here)",
            "this project",
            WTTM,
            {"divergence": AlphaBeta(0.8, 0.2)},
        ),
    )
}


def by_name(name: str, *, divergence: Divergence | None = None, **settings: Any) -> Objective:
    """The objective of a named method, with these settings in place of the published ones.

    Args:
        name: a key of `METHODS`, such as "kd" or "abkd".
        divergence: in place of the method's own, for those that take one.
        settings: fields of the objective, such as `temperature=2.0`.

    Raises:
        InputError: a name or a setting that is not known (the nearest one is named), or a value out of range.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown method {name!r}: {nearest(str(name), METHODS)}")
    return METHODS[name].build(divergence=divergence, **settings)
