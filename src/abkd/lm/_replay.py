"""What the student wrote before, kept to be trained on again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

Text = tuple[list[int], list[int]]
"""Token ids of a prompt and of the response."""


class ReplayBuffer:
    """The last `capacity` texts; the oldest leave first.

    Args:
        capacity: in texts, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self._texts: deque[Text] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def full(self) -> bool:
        """Whether each further text drives one out."""
        return len(self._texts) == self._texts.maxlen

    def add(self, texts: list[Text]) -> None:
        """Keep these."""
        self._texts.extend(texts)

    def draw(self, count: int, chance: random.Random) -> list[Text]:
        """`count` texts, each drawn uniformly (one may come twice)."""
        return [self._texts[chance.randrange(len(self._texts))] for _ in range(count)]

    def tensors(self) -> dict[str, Tensor]:
        """All of it as flat tensors: token ids and lengths."""
        prompts, responses = [text[0] for text in self._texts], [text[1] for text in self._texts]
        return {
            "prompt_lengths": torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
            "response_lengths": torch.tensor([len(response) for response in responses], dtype=torch.int32),
            "prompts": torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.int32),
            "responses": torch.tensor([token for response in responses for token in response], dtype=torch.int32),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        self._texts.clear()
        parts = [_split(tensors[f"{name}s"], tensors[f"{name}_lengths"]) for name in ("prompt", "response")]
        self._texts.extend(zip(*parts, strict=True))


def _split(flat: Tensor, lengths: Tensor) -> list[list[int]]:
    return [part.tolist() for part in flat.split(lengths.tolist())] if len(lengths) else []
