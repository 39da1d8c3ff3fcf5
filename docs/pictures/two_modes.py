"""Fit a one-mode student to a two-mode teacher under five settings of alpha and beta, by gradient descent.

python docs/pictures/two_modes.py               writes two_modes.png beside this file, in seconds
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from abkd import AlphaBeta, divergence_loss

INK, GREY, TEACHER, STUDENT = "#1d2733", "#5b6673", "#9fb3c8", "#b3224a"
SETTINGS = ((1.0, 0.0), (0.8, 0.3), (0.5, 0.5), (0.2, 0.7), (0.0, 1.0))
TITLES = ("forward KL", "CIFAR-100 setting", "Hellinger", "GPT-2 setting", "reverse KL")
GRID = torch.linspace(-6, 6, 121, dtype=torch.float64)  # the classes


def bell(mean: Tensor | float, deviation: Tensor | float) -> Tensor:
    """Logits of a discretised normal distribution, (V,)."""
    return -0.5 * ((GRID - mean) / deviation) ** 2


def teacher() -> Tensor:
    """Log-probabilities of 80 % around -1 and 20 % around 2, (V,)."""
    modes = torch.stack([torch.log_softmax(bell(-1.0, 0.6), 0), torch.log_softmax(bell(2.0, 0.8), 0)])
    return torch.logsumexp(modes + torch.tensor([[0.8], [0.2]], dtype=torch.float64).log(), 0)


def fit(alpha: float, beta: float, steps: int = 500) -> tuple[float, float]:
    """Mean and deviation of the student that Adam reaches from (0.3, 1.5)."""
    mean = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    log_deviation = torch.tensor(1.5, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_deviation], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        divergence_loss(bell(mean, log_deviation.exp()), teacher(), AlphaBeta(alpha, beta)).backward()
        optimizer.step()
    return mean.item(), log_deviation.exp().item()


def main(folder: Path) -> Path:
    """Fit and draw; the picture's path."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"})
    figure, row = plt.subplots(1, len(SETTINGS), figsize=(11, 3.1), sharey=True, layout="constrained")
    for axes, (alpha, beta), title in zip(row, SETTINGS, TITLES, strict=True):
        mean, deviation = fit(alpha, beta)
        axes.fill_between(GRID, teacher().exp(), color=TEACHER, alpha=0.55, lw=0, label="teacher")
        axes.plot(GRID, torch.softmax(bell(mean, deviation), 0), color=STUDENT, lw=2.6, label="student")
        axes.set_title(f"({alpha:g}, {beta:g})", fontsize=15, weight="bold", color=INK)
        axes.set_xlabel(title, fontsize=13, color=GREY)
        axes.set(xlim=(-4, 4.6), ylim=(0, 0.064), xticks=[], yticks=[])
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(GREY)
        print(f"alpha {alpha:g}, beta {beta:g}: mean {mean:.3f}, deviation {deviation:.3f}")
    row[0].legend(frameon=False, fontsize=12, loc="upper right", handlelength=1.1, borderaxespad=0)
    target = folder / "two_modes.png"
    figure.savefig(target, dpi=110, facecolor="white")
    plt.close(figure)
    return target


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
