"""Draw the map of the (alpha, beta) plane: named points, lines, where zeros are infinite, published settings.

python docs/pictures/alpha_beta_plane.py        writes alpha_beta_plane.png beside this file
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke

LOW, HIGH = -0.52, 1.5
INK, GREY = "#1d2733", "#5b6673"
TEACHER, STUDENT = "#2f6fb5", "#d0782a"
PUBLISHED = "#b3224a"

NAMED = (  # alpha, beta, name, offset of the text in points, its alignment
    (1, 0, "forward KL", (10, -18), "left"),
    (0, 1, "reverse KL", (-10, -18), "right"),
    (0.5, 0.5, "Hellinger", (-11, -17), "right"),
    (1, 1, "Euclid", (9, 8), "left"),
    (0, 0, "distance of logs", (-10, -18), "right"),
)
SETTINGS = (  # alpha, beta, text, its left middle, where the line from the point ends
    (0.2, 0.7, "GPT-2  (0.2, 0.7)", (0.40, 0.765), (0.39, 0.765)),
    (0.1, 0.8, "OpenLLaMA2 3B  (0.1, 0.8)", (0.365, 0.875), (0.355, 0.875)),
    (0.8, 0.3, "CIFAR-100, ABKD\n(0.8, 0.3)", (0.60, 0.62), (0.72, 0.555)),
    (0.9, 0.3, "CIFAR-100, ABLSD\n(0.9, 0.3)", (1.06, 0.30), (1.045, 0.30)),
)


def write(axes: Axes, text: str, x: float, y: float, **how: object) -> None:
    """Text at a point, with a light halo that keeps it apart from the lines under it."""
    halo = [withStroke(linewidth=3.2, foreground="white")]
    axes.annotate(text, (x, y), path_effects=halo, zorder=6, **{"fontsize": 11, "color": INK, **how})


def shade_zeros(axes: Axes) -> None:
    """Shade where the divergence is infinite as soon as one model gives a class no mass."""
    teacher = [(LOW, LOW), (LOW, HIGH), (0, HIGH), (0, 0), (-LOW, LOW)]
    student = [(LOW, LOW), (HIGH, LOW), (HIGH, 0), (0, 0), (LOW, -LOW)]
    axes.add_patch(Polygon(teacher, color=TEACHER, alpha=0.13, lw=0, zorder=0))
    axes.add_patch(Polygon(student, color=STUDENT, alpha=0.13, lw=0, zorder=0))
    how = {"ha": "center", "va": "center", "linespacing": 1.35, "fontsize": 10.5}
    write(axes, "infinite where\nthe teacher rules\nout a class", -0.26, 0.64, color=TEACHER, **how)
    write(axes, "infinite where the student\nrules out a class", 0.69, -0.38, color=STUDENT, **how)
    write(axes, "infinite where\neither does", -0.26, -0.34, color=GREY, **how)
    write(axes, "finite for any\ntwo distributions", 0.30, 0.22, color=GREY, style="italic", **how)


def draw_lines(axes: Axes) -> None:
    """The one-parameter families."""
    axes.axhline(0, color=GREY, lw=0.8, zorder=1)
    axes.axvline(0, color=GREY, lw=0.8, zorder=1)
    axes.plot([LOW, HIGH], [1 - LOW, 1 - HIGH], color=INK, lw=1.9, zorder=2)
    axes.plot([1, 1], [LOW, HIGH], color=INK, lw=1.5, ls=(0, (6, 3)), zorder=2)
    axes.plot([LOW, HIGH], [1, 1], color=GREY, lw=1.3, ls=(0, (2, 2.5)), zorder=2)
    axes.plot([LOW, -LOW], [-LOW, LOW], color=INK, lw=1.5, ls=(0, (5, 2, 1, 2)), zorder=2)
    small = {"fontsize": 10.5, "ha": "center", "va": "center", "color": INK}
    write(axes, r"$\alpha+\beta=1$: alpha-divergences", -0.205, 1.27, rotation=-45, **small)
    write(axes, r"$\alpha=1$: beta-divergences", 1.043, 0.70, rotation=90, **small)
    write(axes, r"$\beta=1$: the same, arguments swapped", 0.5, 1.045, **{**small, "color": GREY})
    write(axes, r"$\alpha+\beta=0$: logarithms", 0.235, -0.17, rotation=-45, **small)


def draw_points(axes: Axes) -> None:
    """Named divergences, and settings read in published code."""
    how = {"textcoords": "offset points"}
    for a, b, name, offset, side in NAMED:
        axes.plot(a, b, "o", ms=9, mfc="white", mec=INK, mew=2, zorder=5)
        write(axes, name, a, b, xytext=offset, ha=side, fontsize=12.5, weight="bold", **how)
    for a, b, text, place, end in SETTINGS:
        axes.plot([a, end[0]], [b, end[1]], color=PUBLISHED, lw=0.9, alpha=0.75, zorder=3)
        axes.plot(a, b, "D", ms=8.5, mfc=PUBLISHED, mec="white", mew=1.1, zorder=5)
        write(axes, text, *place, ha="left", va="center", color=PUBLISHED, linespacing=1.3)


def main(folder: Path) -> Path:
    """Draw the map into a folder; the picture's path."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"})
    figure, axes = plt.subplots(figsize=(8.5, 8.1), layout="constrained")
    shade_zeros(axes)
    draw_lines(axes)
    draw_points(axes)
    axes.set(xlim=(LOW, HIGH), ylim=(LOW, HIGH), aspect="equal")
    axes.set_xlabel(r"$\alpha$     0: errors in log-probability  →  1: errors in probability", fontsize=12)
    axes.set_ylabel(r"$\beta$     0: all classes alike  →  1: where the student is confident", fontsize=12)
    ticks = [-0.5, 0, 0.5, 1]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.tick_params(labelsize=11, color=GREY)
    for spine in axes.spines.values():
        spine.set_color("#c3cad1")
    axes.set_title("The plane of alpha-beta-divergences", fontsize=15, color=INK, pad=32, weight="bold")
    axes.plot([], [], "o", ms=9, mfc="white", mec=INK, mew=2, label="named divergence")
    axes.plot([], [], "D", ms=8.5, mfc=PUBLISHED, mec="white", label="setting in the official ABKD code")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=11, handletextpad=0.3)
    target = folder / "alpha_beta_plane.png"
    figure.savefig(target, dpi=125, facecolor="white")
    plt.close(figure)
    return target


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
