"""How long the fused loss takes, in matrix products: ours, its peers', and the four products alone, in the same run.

Run it with: python benchmarks/loss_speed.py [--quick] [--again] [--threads 2]
About 10 minutes on two idle cores; interrupted, it goes on where it was. Every case is a process of its own, in
which the contenders take turns. Results: benchmarks/results/loss_speed.json, a table and a plot in docs/performance.md.
The peers are optional: see benchmarks/_contenders.py for the command that installs them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

from _report import Results, bars, in_subprocess, into_docs, machine, stamp, table

CASES = [
    (2048, 576, 49152, "float32"),
    (512, 896, 151936, "float32"),
    (2048, 576, 49152, "bfloat16"),
    (512, 896, 151936, "bfloat16"),
]
QUICK = [(128, 576, 49152, "float32"), (128, 576, 49152, "bfloat16")]
SECONDS = 140
"""For each case; a contender that is slow gets fewer turns, but at least one."""

NEEDS_GIB = {"orda-kernel alpha-beta": 7.5}
"""Memory for 2^26 logits, where that is a matter to think of before starting."""


def one_case(tokens: int, width: int, classes: int, dtype: str, threads: int, turns: int) -> None:
    """Measure, and print seconds by contender as JSON. Run in a process of its own."""
    import torch
    from _contenders import Problem, contenders, step

    torch.set_num_threads(threads)
    problem = Problem(tokens, width, classes, getattr(torch, dtype))
    losses, left_out = contenders()
    for name in list(losses):
        needed = NEEDS_GIB.get(name, 0) * tokens * classes / 2**26
        if needed > available_gib():
            left_out[name] = f"needs about {needed:.0f} GiB"
            del losses[name]
    for name, loss in list(losses.items()):
        reason = failure(loss, problem if "compiled" in name and "Liger" in name else problem.first(64))
        if reason:
            left_out[name] = reason
            del losses[name]
    taken: dict[str, list[float]] = {name: [] for name in losses}
    begin = time.monotonic()
    for turn in range(turns):
        for name, loss in losses.items():
            if turn and sum(taken[name]) > SECONDS / 8 and not name.startswith(("floor", "abkd alpha")):
                continue
            start = time.perf_counter()
            step(loss, problem)
            taken[name].append(time.perf_counter() - start)
        if time.monotonic() - begin > SECONDS:
            break
    print(json.dumps({"seconds": taken, "left_out": left_out}))


def failure(loss: Any, problem: Any) -> str | None:
    """Why a contender cannot do this, if it cannot: a result too, whatever it raises."""
    from _contenders import step

    try:
        step(loss, problem)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return None


def available_gib() -> float:
    """Memory that a process may still take."""
    with open("/proc/meminfo") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / 2**20


def label(case: str) -> str:
    """A case for people."""
    tokens, width, classes, dtype = case.split(",")
    return f"{dtype}, N={tokens}, H={width}, V={classes}"


def report(results: Results, command: str) -> None:
    """The table and the plot."""
    cases = [case for case in results.data if case != "machine" and "seconds" in results.data[case]]
    medians = {case: {n: statistics.median(s) for n, s in results.data[case]["seconds"].items()} for case in cases}
    floors = {case: medians[case]["floor: four products"] for case in cases}
    names = list(dict.fromkeys(name for case in cases for name in medians[case]))
    rows = []
    for name in names:
        cells = []
        for case in cases:
            if name not in medians[case]:
                cells.append(results.data[case]["left_out"].get(name, ""))
            elif name.startswith("floor"):
                cells.append(f"1 ({floors[case]:.2f} s)")
            else:
                ratios = [s / floors[case] for s in results.data[case]["seconds"][name]]
                spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
                cells.append(f"{medians[case][name] / floors[case]:.2f}{spread}")
        rows.append([name, *cells])
    text = table(["time of value and gradients / time of the four products", *map(label, cases)], rows)
    text += "\n\nMedians of alternated turns, with the range.\n" + stamp(command, results.data["machine"])
    text += "\n\n![time relative to the four products](pictures/loss_speed.png)"
    into_docs("performance.md", "loss_speed", text)
    groups = {label(case): {n: medians[case][n] / floors[case] for n in names if n in medians[case]} for case in cases}
    bars(
        "loss_speed",
        "Time of value and gradients (the four matrix products alone: 1)",
        "ratio, lower is better",
        groups,
    )
    print(text)


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cases, one turn, nothing written to the docs")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    turns = 1 if chosen.quick else chosen.turns
    if chosen.case:
        tokens, width, classes, dtype = chosen.case.split(",")
        one_case(int(tokens), int(width), int(classes), dtype, chosen.threads, turns)
        return
    results = Results("loss_speed_quick" if chosen.quick else "loss_speed", chosen.again or chosen.quick)
    results.put("machine", machine(("torch", "liger-kernel", "trl", "orda-kernel")))
    for case in QUICK if chosen.quick else CASES:
        key = ",".join(map(str, case))
        if results.missing(key):
            print(label(key), "...", file=sys.stderr)
            options = ["--quick"] if chosen.quick else ["--turns", str(turns)]
            outcome = in_subprocess("loss_speed.py", "--case", key, "--threads", str(chosen.threads), *options)
            if "error" in outcome:
                print(f"  failed: {outcome['error']}", file=sys.stderr)
                continue
            results.put(key, outcome)
    if chosen.quick:
        for case, outcome in results.data.items():
            if "seconds" in outcome:
                floor = outcome["seconds"]["floor: four products"][0]
                print(
                    label(case), {n: round(s[0] / floor, 2) for n, s in outcome["seconds"].items()}, outcome["left_out"]
                )
        results.path.unlink()
        return
    report(results, f"python benchmarks/loss_speed.py --threads {chosen.threads}")


if __name__ == "__main__":
    main()
