"""The five test sets of the published instruction protocol, and where their files are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InstructionSet:
    """One of the five.

    Attributes:
        title: as tables print it.
        hub: name on the hub. A repository there is what `folder` names first, so its files lie as in `folder`.
        folder: inside a folder of MiniLLM's data.
        size: how many examples the published set has; None where that is not known.
        cap: at most so many, the first ones.
    """

    title: str
    hub: str
    folder: str
    size: int | None = None
    cap: int | None = None


TEST_SETS: dict[str, InstructionSet] = {
    "dolly": InstructionSet("Dolly", "MiniLLM/dolly", "dolly", 500, cap=500),
    "self-instruct": InstructionSet("Self-Instruct", "MiniLLM/self-inst", "self-inst", 252),
    "vicuna": InstructionSet("Vicuna", "MiniLLM/Vicuna", "vicuna", 80),
    "s-ni": InstructionSet("Super-Natural-Instructions", "MiniLLM/sinst", "sinst/11_"),
    "unni": InstructionSet("Unnatural-Instructions", "MiniLLM/uinst", "uinst/11_", cap=10_000),
}
"""The five test sets by the names that recipes use. `11_`: the rows with longer references, by MiniLLM's own count."""

TEST_FILE = "valid.jsonl"
"""Where MiniLLM's data have their test rows, whatever the name says."""
RAW_FILE = "raw.jsonl"
"""Where they have Dolly's other rows."""
DOLLY_DEV = 1000
"""The first so many rows of Dolly's raw file are the development set; the others are for training."""
