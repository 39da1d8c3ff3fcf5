"""English text that every Python carries: the topics of its own help."""

from __future__ import annotations

import re


def english(count: int, length: int = 1500) -> list[str]:
    """`count` pieces of about `length` characters of running English, the same every time."""
    from pydoc_data.topics import topics  # 465 000 characters

    known: dict[str, str] = topics
    text = re.sub(r"\s+", " ", " ".join(known[name] for name in sorted(known)))
    step = max(len(text) // max(count, 1), 1)
    return [text[index * step : index * step + length] for index in range(count)]
