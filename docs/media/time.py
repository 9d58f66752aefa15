"""Draws docs/media/time.svg, the drawing of docs/time.md.   python docs/media/time.py [more files, e.g. time.png]

Letters become outlines, so that the picture looks the same wherever it is opened.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "time", "mathtext.fontset": "dejavusans"})

INK, GREY, BLUE, ORANGE, GREEN = "#222222", "#777777", "#2b6cb0", "#c05621", "#2f855a"
COLUMNS = [4.1, 6.9, 9.7, 12.5]  # stored steps 0..3
DREAM = [x + 2.8 for x in COLUMNS]  # dream states 0..3: the dream starts at stored step 1


def box(ax, x, y, text, color):
    ax.add_patch(FancyBboxPatch((x - 0.45, y - 0.3), 0.9, 0.6, "round,pad=0.06", fc="white", ec=color, lw=1.8))
    ax.text(x, y, text, ha="center", va="center", fontsize=14, color=color)


def arrow(ax, start, end, color, **style):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6, **style})


def row(ax, y, label, cells, columns, *, colors=None):
    ax.text(0.2, y, label, va="center", fontsize=12, color=INK)
    for i, (x, cell) in enumerate(zip(columns, cells, strict=True)):
        ax.text(x, y, cell, ha="center", va="center", fontsize=13, color=(colors or {}).get(i, INK))


def stored(ax):
    """Upper half: what is in replay."""
    ax.text(0.2, 11.55, "In replay: stored steps", fontsize=15, weight="bold", color=BLUE)
    ax.text(
        0.2, 11.05, "A shaded column is one stored step. The action in it is the one that LED INTO it.",
        fontsize=12, color=GREY,
    )  # fmt: skip
    for i, x in enumerate(COLUMNS):
        ax.add_patch(FancyBboxPatch((x - 1.95, 6.85), 2.55, 3.6, "round,pad=0.05", fc="#ebf4fb", ec="none", zorder=0))
        ax.text(x, 10.2, f"t = {i}", ha="center", va="center", fontsize=11, color=GREY)
        box(ax, x, 9.5, f"$o_{i}$", BLUE)
        arrow(ax, (x - 2.2 if i else x - 1.75, 9.5), (x - 0.52, 9.5), BLUE, ls="-" if i else ":")
        ax.text(x - 1.3, 9.78, f"$a_{i}$" if i else "NaN", ha="center", fontsize=13, color=BLUE if i else ORANGE)
    ax.text(0.2, 9.5, "action, obs", va="center", fontsize=12, color=INK)
    row(ax, 8.55, "reward", ["0", "$r_1$", "$r_2$", "$r_3$"], COLUMNS, colors={0: ORANGE})
    row(ax, 7.85, "is_first", ["1", "0", "0", "0"], COLUMNS, colors={0: ORANGE})
    row(ax, 7.15, "is_terminal", ["0", "0", "0", "0 or 1"], COLUMNS)


def dreamed(ax):
    """Lower half: a dream that starts at stored step 1."""
    ax.text(0.2, 5.95, "In imagination: a dream", fontsize=15, weight="bold", color=GREEN)
    ax.text(0.2, 5.45, "The action $u_k$ leads OUT OF state $f_k$, to $f_{k+1}$.", fontsize=12, color=GREY)
    arrow(ax, (DREAM[0], 6.8), (DREAM[0], 4.95), GREEN, ls=":")
    ax.text(
        DREAM[0] + 0.18,
        6.0,
        "filtered up to $o_1$: the posterior is where this dream starts (every stored step has one)",
        fontsize=12,
        va="center",
        color=GREEN,
    )
    for k, x in enumerate(DREAM):
        box(ax, x, 4.5, f"$f_{k}$", GREEN)
        ax.text(x + 0.62, 4.95, f"k = {k}" + (" = H" if k == 3 else ""), fontsize=11, va="center", color=GREY)
        if k < 3:
            arrow(ax, (x + 0.55, 4.5), (DREAM[k + 1] - 0.55, 4.5), GREEN)
            ax.text((x + DREAM[k + 1]) / 2, 4.08, f"$u_{k}$", ha="center", fontsize=13, va="center", color=GREEN)
    ax.text(0.2, 4.5, "state, action out of it", va="center", fontsize=12, color=INK)
    row(ax, 3.5, "reward head, from $f_k$", ["$r_0$", "$r_1$", "$r_2$", "–"], DREAM)
    row(ax, 2.85, "continue head, from $f_k$", ["$c_0$ known", "$c_1$", "$c_2$", "–"], DREAM, colors={0: ORANGE})
    row(ax, 2.2, "critic, from $f_k$", ["$v_0$", "$v_1$", "$v_2$", "$v_3$ bootstrap"], DREAM, colors={3: ORANGE})
    row(ax, 1.2, "target (lambda-return)", ["$G_0$", "$G_1$", "$G_2$", "–"], DREAM)
    for k in range(2):
        arrow(ax, (DREAM[k + 1] - 0.4, 1.2), (DREAM[k] + 0.4, 1.2), GREY, lw=1.1)
    arrow(ax, (DREAM[3] - 0.35, 1.95), (DREAM[2] + 0.4, 1.3), ORANGE, lw=1.1)
    row(ax, 0.55, "weight: is $f_k$ reached?", ["$1$", r"$\gamma c_0$", r"$\gamma c_0\,\gamma c_1$", "–"], DREAM)
    row(ax, -0.1, "credit of $u_k$", ["$G_0 - v_0$", "$G_1 - v_1$", "$G_2 - v_2$", "–"], DREAM)
    ax.text(
        0.2, -0.9,
        r"$G_k = r_k + \gamma\, c_k\, [\,(1-\lambda)\, v_{k+1} + \lambda\, G_{k+1}\,]$,   with $v_H$ in place of "
        r"$G_H$: the value of a state includes the reward of arriving there.",
        fontsize=12.5, va="center", color=INK,
    )  # fmt: skip


def main(paths):
    figure, ax = plt.subplots(figsize=(12.6, 9.6))
    figure.patch.set_facecolor("white")
    ax.set(xlim=(0, 17), ylim=(-1.3, 12))
    ax.axis("off")
    stored(ax)
    dreamed(ax)
    for path in paths:
        metadata = {"Date": None} if Path(path).suffix == ".svg" else None
        figure.savefig(path, bbox_inches="tight", pad_inches=0.15, metadata=metadata)


if __name__ == "__main__":
    main([Path(__file__).with_suffix(".svg"), *sys.argv[1:]])
