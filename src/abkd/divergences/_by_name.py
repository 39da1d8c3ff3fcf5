"""Divergences by the names that recipes use."""

from __future__ import annotations

import dataclasses
from typing import Any

from abkd.divergences._adaptive_kl import AKL, BDKD
from abkd.divergences._alpha_beta import AlphaBeta
from abkd.divergences._alpha_mixture import AlphaMixture
from abkd.divergences._alpha_net import AlphaNet
from abkd.divergences._base import Divergence
from abkd.divergences._forward_kl import ForwardKL
from abkd.divergences._hellinger import Hellinger
from abkd.divergences._jeffreys import Jeffreys
from abkd.divergences._jensen_shannon import JensenShannon
from abkd.divergences._logit_mse import LogitMSE
from abkd.divergences._renyi import Renyi
from abkd.divergences._reverse_kl import ReverseKL
from abkd.divergences._skew_forward_kl import SkewForwardKL
from abkd.divergences._skew_reverse_kl import SkewReverseKL
from abkd.divergences._squared_euclidean import SquaredEuclidean
from abkd.divergences._total_variation import TotalVariation
from abkd.errors import InputError, nearest

ALL: tuple[Divergence, ...] = (
    AlphaBeta(0.2, 0.7),
    ForwardKL(),
    ReverseKL(),
    Jeffreys(),
    JensenShannon(0.5),
    SkewForwardKL(0.1),
    SkewReverseKL(0.1),
    TotalVariation(),
    Hellinger(),
    SquaredEuclidean(),
    LogitMSE(),
    Renyi(0.5),
    AKL(),
    BDKD(),
    AlphaMixture(-0.5, 0.1),
    AlphaNet(),
    0.5 * ForwardKL() + 0.5 * ReverseKL(),
)
"""Every member of the family, once, with the settings that its source uses (or middling ones)."""

_BY_KEY: dict[str, type[Divergence]] = {type(member).key: type(member) for member in ALL[:-1]}


def names() -> tuple[str, ...]:
    """The names that `by_name` knows."""
    return tuple(_BY_KEY)


def by_name(name: str, **settings: Any) -> Divergence:
    """The divergence of this name with these settings.

    Args:
        name: a `key`, such as "alpha_beta" or "forward_kl".
        settings: the fields of the member, such as `alpha=0.2, beta=0.7`; the others keep their defaults.

    Raises:
        InputError: a name or a setting that is not known (the nearest one is named), a setting that is missing,
            or a value out of range.
    """
    if not isinstance(name, str) or name not in _BY_KEY:
        raise InputError(f"unknown divergence {name!r}: {nearest(str(name), _BY_KEY)}")
    member = _BY_KEY[name]
    fields = dataclasses.fields(member)  # type: ignore[arg-type]
    for setting in settings:
        if setting not in (known := [field.name for field in fields]):
            having = nearest(setting, known) if known else "it has no settings"
            raise InputError(f"divergence {name!r} has no setting {setting!r}: {having}")
    missing = [field.name for field in fields if _required(field) and field.name not in settings]
    if missing:
        raise InputError(f"divergence {name!r} needs {' and '.join(missing)}: give a number for each")
    return member(**settings)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
