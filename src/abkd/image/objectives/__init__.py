"""Objectives of image distillation. Shapes: B batch, K classes; z logits, p teacher, q student."""

from abkd.image.objectives._base import Objective
from abkd.image.objectives._dist import DIST
from abkd.image.objectives._dkd import DKD
from abkd.image.objectives._kd import KD
from abkd.image.objectives._lsd import LSD
from abkd.image.objectives._methods import METHODS, Method, by_name
from abkd.image.objectives._sft import SFT
from abkd.image.objectives._ttm import TTM, WTTM

__all__ = ["DIST", "DKD", "KD", "LSD", "METHODS", "SFT", "TTM", "WTTM", "Method", "Objective", "by_name"]
