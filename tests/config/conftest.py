"""A sound recipe to spoil."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def sound() -> dict[str, Any]:
    return {
        "task": "image",
        "data": {"name": "digits", "validation": 0.2, "train_size": 100},
        "teacher": {"model": "cnn", "training": {"num_train_epochs": 1}},
        "student": {"model": "cnn", "options": {"widths": [4], "hidden": 8}},
        "method": "abkd",
        "divergence": {"name": "alpha_beta", "alpha": 0.8, "beta": 0.2},
        "loss": {"kd_weight": 2.0},
        "training": {"learning_rate": 0.01},
        "seeds": [1, 2],
    }
