"""One forward pass of a model over some text, to see what its parts do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from abkd.errors import InputError
from abkd.lm._english import english

Watch = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
_MAX_TEXTS = 32
_MAX_TOKENS = 256


@torch.no_grad()
def read_texts(
    model: nn.Module, tokenizer: Any, texts: Sequence[str] | None, watched: Sequence[tuple[Any, Watch]]
) -> int:
    """Let a model read, in eval mode and without gradients, while some of its modules are watched.

    Args:
        model: a causal language model; every part is afterwards in the mode it was in.
        tokenizer: its tokenizer.
        texts: at most 32 are read, 256 tokens of each; None is English from Python's own help.
        watched: modules, each with what is called after it with the module, its arguments, and its output.

    Returns:
        How many tokens were read.

    Raises:
        InputError: there is no text.
    """
    samples = [text for text in (english(8) if texts is None else texts) if text.strip()][:_MAX_TEXTS]
    if not samples:
        raise InputError("texts: expected at least one text to measure the layers on, found none")
    device = next(model.parameters()).device
    modes = [(part, part.training) for part in model.modules()]
    hooks = [module.register_forward_hook(watch, with_kwargs=True) for module, watch in watched]
    tokens = 0
    try:
        model.eval()
        for text in samples:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=_MAX_TOKENS)["input_ids"]
            if ids.numel():
                model(input_ids=ids.to(device))
                tokens += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes:
            part.training = training
    if not tokens:
        raise InputError("texts: the tokenizer made no token of these texts")
    return tokens
