"""What `import abkd` adds to `import torch`: alternated fresh processes, medians.

Run it with: python benchmarks/import_time.py [--repetitions 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

CODE = """
from time import perf_counter as now
start = now()
import torch
between = now()
{}
print(between - start, now() - between)
"""


def seconds(statement: str) -> tuple[float, float]:
    """Seconds that `import torch` took in a fresh process, and those of the statement after it."""
    run = subprocess.run([sys.executable, "-c", CODE.format(statement)], capture_output=True, text=True, check=True)
    torch_seconds, own_seconds = run.stdout.split()
    return float(torch_seconds), float(own_seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    repetitions = parser.parse_args().repetitions
    seconds("import abkd")  # fills the caches of bytecode and of the disk
    runs = [seconds("import abkd") for _ in range(repetitions)]
    torch_seconds, own = zip(*runs, strict=True)
    print(f"import torch  {statistics.median(torch_seconds):.2f} s")
    print(f"import abkd   {statistics.median(own):.3f} s more (from {min(own):.3f} to {max(own):.3f} s)")


if __name__ == "__main__":
    main()
