"""The settings of a policy gradient, which need no torch: the method's defaults are theirs."""

from __future__ import annotations

from dataclasses import dataclass

from abkd.errors import InputError


@dataclass(frozen=True)
class PolicyGradient:
    """Settings of the policy gradient.

    Attributes:
        clip: the ratio of the present to the sampling student is clipped to 1 - clip .. 1 + clip (PPO), above 0.
        epochs: optimiser steps that each batch of texts serves, at least 1. The batches of prompts that come up in
            the other steps are passed over, so of an epoch of the data one prompt in `epochs` is written to.
        length_normalised: what came after a token is averaged over its length, not summed (paper, eq. 6).
        single_step: take the full reverse KL at each token in place of the sampled token's own reward (eq. 3); it
            lowers the variance.
        whiten: what came after a token is shifted and scaled to mean 0 and variance 1 over the tokens of a batch, as
            in the published code (there over padding too); the paper does not. It makes the push independent of how
            far the models are apart.
    """

    clip: float = 0.2
    epochs: int = 4
    length_normalised: bool = True
    single_step: bool = True
    whiten: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.clip, bool) or not isinstance(self.clip, int | float) or not self.clip > 0:  # pyright: ignore[reportUnnecessaryIsInstance] - users'
            raise InputError(f"method_settings.clip: expected a number above 0, got {self.clip!r}")
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 1:
            raise InputError(f"method_settings.epochs: expected a whole number of at least 1, got {self.epochs!r}")
        for name in ("length_normalised", "single_step", "whiten"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"method_settings.{name}: expected true or false, got {getattr(self, name)!r}")
