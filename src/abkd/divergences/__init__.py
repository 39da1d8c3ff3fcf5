"""The mathematics: every divergence is two elementwise formulas, `f` and its derivative `u`."""

from abkd.divergences._adaptive_kl import AKL, BDKD
from abkd.divergences._alpha_beta import AlphaBeta
from abkd.divergences._alpha_mixture import AlphaMixture
from abkd.divergences._alpha_net import AlphaNet
from abkd.divergences._base import Divergence
from abkd.divergences._by_name import ALL, by_name, names
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
from abkd.divergences._weighted_sum import WeightedSum

__all__ = [
    "AKL",
    "ALL",
    "BDKD",
    "AlphaBeta",
    "AlphaMixture",
    "AlphaNet",
    "Divergence",
    "ForwardKL",
    "Hellinger",
    "Jeffreys",
    "JensenShannon",
    "LogitMSE",
    "Renyi",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "SquaredEuclidean",
    "TotalVariation",
    "WeightedSum",
    "by_name",
    "names",
]
