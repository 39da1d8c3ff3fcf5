"""Divergences by name, sums, and settings that make no sense."""

from __future__ import annotations

import math

import pytest
import torch

import abkd
from abkd.divergences import ALL, by_name, names


def test_every_name_makes_its_member() -> None:
    assert len(names()) == len(set(names())) == len(ALL) - 1
    for member in ALL[:-1]:
        settings = {"alpha": 0.2, "beta": 0.7} if member.key == "alpha_beta" else {}
        assert type(by_name(member.key, **settings)) is type(member)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("alpha_bet", {}, "did you mean 'alpha_beta'"),
        ("forward-kl", {}, "did you mean 'forward_kl'"),
        ("alpha_beta", {"alpha": 0.2}, "needs beta"),
        ("alpha_beta", {"alpha": 0.2, "bet": 0.7}, "did you mean 'beta'"),
        ("forward_kl", {"alpha": 0.2}, "it has no settings"),
        ("jensen_shannon", {"beta": 1.0}, "ForwardKL"),
        ("jensen_shannon", {"beta": math.nan}, "finite"),
        ("skew_forward_kl", {"skew": 0}, "ForwardKL"),
        ("skew_reverse_kl", {"skew": 1}, "in \\(0, 1\\)"),
        ("renyi", {"order": 0}, "above 0"),
        ("akl", {"head": 1.5}, "in \\(0, 1\\)"),
        ("bdkd", {"weight": 0.5}, "at least 1"),
        ("alpha_mixture", {"alpha": 2}, "at most 1"),
        ("alpha_mixture", {"divergence": "kl"}, "expected a divergence"),
        ("alpha_net", {"low": 1, "high": 1}, "below high"),
    ],
)
def test_a_wrong_name_or_setting_is_an_error_that_helps(name: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises(abkd.InputError, match=says):
        by_name(name, **settings)


def test_sums() -> None:
    half = 0.5 * abkd.ForwardKL() + abkd.ReverseKL() * 0.5
    assert half == abkd.WeightedSum(((0.5, abkd.ForwardKL()), (0.5, abkd.ReverseKL())))
    assert (2 * half + abkd.Jeffreys()).terms == (
        (1.0, abkd.ForwardKL()),
        (1.0, abkd.ReverseKL()),
        (1.0, abkd.Jeffreys()),
    )
    assert half.name == "0.5 x forward KL + 0.5 x reverse KL"
    assert half.allows_zeros == (False, False)
    lone = 0.0 * abkd.ForwardKL() + 1.0 * abkd.ReverseKL() + 0.0 * abkd.Renyi()
    student, teacher = torch.tensor([0.3, 0.1, -torch.inf]), torch.tensor([0.2, 0.4, -1.0])
    for members in (lone, lone.in_tensors(student)):
        assert (members.allows_zeros, members.separable) == ((False, True), True)
        value = abkd.divergence_loss(student, teacher, members)
        assert value == abkd.divergence_loss(student, teacher, abkd.ReverseKL())
    assert (0.0 * abkd.ForwardKL()).allows_zeros == (True, False)
    for weight in (-1, math.nan, math.inf):
        with pytest.raises(abkd.InputError, match="weight"):
            weight * abkd.ForwardKL()
    with pytest.raises(TypeError):
        abkd.ForwardKL() + 1  # type: ignore[operator]
    with pytest.raises(abkd.InputError, match="at least one"):
        abkd.WeightedSum(())
