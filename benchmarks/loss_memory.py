"""How much memory the fused loss takes beyond its inputs: peak resident memory, each contender in its own process.

Run it with: python benchmarks/loss_memory.py [--quick] [--again] [--threads 2]
About 5 minutes on two idle cores; interrupted, it goes on where it was. Linux only (it reads /proc). A contender is
warmed up on 64 tokens, so that imports, compilers and libraries are not counted; then the peak of one call is taken
over what was resident before it. The gradients are counted, the inputs are not.
Results: benchmarks/results/loss_memory.json, a table and a plot in docs/performance.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
from pathlib import Path

from _report import Results, bars, in_subprocess, into_docs, machine, stamp, table

CASES = [(2048, 576, 49152, "float32"), (2048, 576, 49152, "bfloat16"), (512, 896, 151936, "float32")]
QUICK = [(256, 576, 49152, "float32")]


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process, in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def one(name: str, tokens: int, width: int, classes: int, dtype: str, threads: int) -> None:
    """Measure one contender, and print MB as JSON. Run in a process of its own."""
    import torch
    from _contenders import Problem, contenders, step

    torch.set_num_threads(threads)
    losses, left_out = contenders()
    if name not in losses:
        print(json.dumps({"left_out": left_out.get(name, "unknown")}))
        return
    problem = Problem(tokens, width, classes, getattr(torch, dtype))
    try:
        step(losses[name], problem.first(64))
        problem.weight.grad = None
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
        before = resident("VmRSS")
        step(losses[name], problem)
    except Exception as error:  # a peer that cannot do this case is a result, whatever it raises
        print(json.dumps({"left_out": f"{type(error).__name__}: {str(error)[:120]}"}))
        return
    print(json.dumps({"megabytes": resident("VmHWM") - before}))


def names() -> list[str]:
    """All contenders but the products alone."""
    from _contenders import contenders

    found, left_out = contenders()
    return [name for name in (*found, *left_out) if not name.startswith("floor")]


def report(results: Results, command: str) -> None:
    """The table and the plot."""
    from loss_speed import label

    cases = [case for case in results.data if case != "machine"]
    known = list(dict.fromkeys(name for case in cases for name in results.data[case]))

    def cell(case: str, name: str) -> str:
        outcome = results.data[case].get(name, {})
        return (
            f"{outcome['megabytes']:.0f} MB"
            if "megabytes" in outcome
            else outcome.get("left_out", outcome.get("error", ""))
        )

    rows = [[name, *(cell(case, name) for case in cases)] for name in known]
    text = table(["peak memory beyond the inputs, gradients included", *map(label, cases)], rows)
    text += "\n\n" + stamp(command, results.data["machine"])
    text += "\n\n![peak memory](pictures/loss_memory.png)"
    into_docs("performance.md", "loss_memory", text)
    groups = {
        label(case): {
            n: results.data[case][n]["megabytes"] for n in known if "megabytes" in results.data[case].get(n, {})
        }
        for case in cases
    }
    bars("loss_memory", "Peak memory beyond the inputs, gradients included", "MB, lower is better", groups)
    print(text)


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small case, nothing written to the docs")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        name, tokens, width, classes, dtype = chosen.one
        one(name, int(tokens), int(width), int(classes), dtype, chosen.threads)
        return
    results = Results("loss_memory_quick" if chosen.quick else "loss_memory", chosen.again or chosen.quick)
    results.put("machine", machine(("torch", "liger-kernel", "trl", "orda-kernel")))
    for case in QUICK if chosen.quick else CASES:
        key = ",".join(map(str, case))
        outcomes = results.data.get(key, {})
        for name in names():
            if name not in outcomes:
                print(key, name, "...", file=sys.stderr)
                outcomes[name] = in_subprocess(
                    "loss_memory.py", "--threads", str(chosen.threads), "--one", name, *map(str, case), timeout=300
                )
                results.put(key, outcomes)
    if chosen.quick:
        print(json.dumps(results.data, indent=1))
        results.path.unlink()
        return
    report(results, f"python benchmarks/loss_memory.py --threads {chosen.threads}")


if __name__ == "__main__":
    main()
