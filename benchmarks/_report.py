"""What the benchmarks share: the machine, the versions, results that are kept, tables in the docs, and plots."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"


def machine(packages: Sequence[str] = ("torch",)) -> dict[str, Any]:
    """Processor, cores, memory and versions; no name of the machine or its user."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = set((re.search(r"flags\s*:\s*(.+)", text) or ["", ""])[1].split())
    extras = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name[1] if name else platform.machine()} ({', '.join(extras)})"


def describe(facts: dict[str, Any]) -> str:
    """One sentence of a machine."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; Python {facts['python']}, {versions}"
    )


class Results:
    """Results by key, in a file: a benchmark that is started again goes on where it was interrupted."""

    def __init__(self, name: str, again: bool) -> None:
        self.path = RESULTS / f"{name}.json"
        self.data: dict[str, Any] = {}
        if self.path.exists() and not again:
            self.data = json.loads(self.path.read_text())

    def missing(self, key: str) -> bool:
        """Whether there is no result for the key yet."""
        return key not in self.data

    def put(self, key: str, value: Any) -> None:
        """Keep a result."""
        self.data[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1) + "\n")


def in_subprocess(script: str, *arguments: str, timeout: float = 900) -> dict[str, Any]:
    """The last line that a script prints, as JSON; a failure as {"error": its last line}."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / script), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def into_docs(document: str, marker: str, text: str) -> None:
    """Put text between `<!-- marker -->` and `<!-- end marker -->` of a document."""
    path = ROOT / "docs" / document
    start, end = f"<!-- {marker} -->", f"<!-- end {marker} -->"
    before, _, rest = path.read_text().partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no place for results: expected the lines {start} and {end}")
    path.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}")


def stamp(command: str, facts: dict[str, Any]) -> str:
    """The line under a table: date, machine, versions and command."""
    return f"Measured {time.strftime('%Y-%m-%d')} with `{command}` on {describe(facts)}."


def bars(name: str, title: str, unit: str, groups: dict[str, dict[str, float]], *, log: bool = False) -> None:
    """Horizontal bars, a panel for each group, into docs/pictures."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.4), squeeze=False)
    for axis, (group, values) in zip(axes[0], groups.items(), strict=True):
        names = list(values)
        colours = ["#1f6f8b" if name.startswith("abkd") else "#b8bcc2" for name in names]
        drawn = axis.barh(names, [values[name] for name in names], color=colours)
        axis.bar_label(drawn, fmt="%.3g", padding=2, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(group, fontsize=9)
        axis.set_xlabel(unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
        if log:
            axis.set_xscale("log")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=130)
    plt.close(figure)
