"""Texts that a model writes to prompts, by the published decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from abkd.errors import InputError
from abkd.lm._generate import RealTokens, cut_after_end, end_tokens
from abkd.lm.data import prompt_ids


@dataclass(frozen=True)
class Decoding:
    """How texts are written. As it stands, the final evaluation of the published instruction runs.

    Attributes:
        temperature: of the sampling, above 0; 0 takes the most probable token.
        top_p: in (0, 1]; 1 is off.
        top_k: 0 is off.
        max_new_tokens: of a response.
        no_repeat_ngram_size: no n-gram of tokens occurs twice, prompt included; 0 is off.
        max_prompt_length: tokens; longer prompts are shortened inside their template.

    Raises:
        InputError: a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    no_repeat_ngram_size: int = 6
    max_prompt_length: int = 256

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature: expected 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected a share in (0, 1], got {self.top_p}")
        for name, least in (("top_k", 0), ("no_repeat_ngram_size", 0), ("max_new_tokens", 1), ("max_prompt_length", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected {least} or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Response:
    """What a model wrote.

    Attributes:
        text: up to the end token, without white space around it.
        tokens: their number, the end token included.
        finished: whether it came to an end token.
    """

    text: str
    tokens: int
    finished: bool


@torch.no_grad()
def write_responses(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    decoding: Decoding | None = None,
    seed: int = 10,
    batch_size: int = 16,
    progress: bool = False,
) -> list[Response]:
    """A response to each prompt.

    The texts follow from the seed, the prompts, their order and `batch_size`; the generators of the program around
    are left as they were.

    Args:
        model: a causal language model, in whatever mode.
        tokenizer: its tokenizer.
        prompts: texts, or lists of messages for the chat template.
        decoding: None is the published one.
        seed: of the sampling.
        batch_size: prompts at a time, padded on the left.
        progress: show a bar.

    Raises:
        InputError: a prompt without tokens or with too many, or a model with too few positions.
    """
    from tqdm.auto import tqdm

    decoding = decoding or Decoding()
    if batch_size < 1:
        raise InputError(f"batch_size: expected a number of prompts of at least 1, got {batch_size}")
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    _check_lengths(model, ids, decoding)
    writer = _Writer(model, tokenizer, decoding)
    found: list[Response] = []
    training = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), tqdm(total=len(ids), unit="text", disable=not progress) as bar:
            torch.manual_seed(seed)
            for start in range(0, len(ids), batch_size):
                found.extend(writer.write(ids[start : start + batch_size]))
                bar.update(len(found) - bar.n)
    finally:
        model.train(training)
    return found


class _Writer:
    """Writes one batch after the other."""

    def __init__(self, model: Any, tokenizer: Any, decoding: Decoding) -> None:
        from transformers import GenerationConfig, LogitsProcessorList

        self.model = model
        self.tokenizer = tokenizer
        self.ends = end_tokens(model, tokenizer)
        self.pad: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        samples = decoding.temperature > 0
        chosen = (
            {"temperature": float(decoding.temperature), "top_p": float(decoding.top_p), "top_k": decoding.top_k}
            if samples
            else {}
        )
        self.config: Any = GenerationConfig(
            do_sample=samples,
            max_new_tokens=decoding.max_new_tokens,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            eos_token_id=self.ends,
            pad_token_id=self.pad,
            **chosen,
        )
        self.processors: Any = LogitsProcessorList([RealTokens(max(tokenizer.get_vocab().values()) + 1)])

    def write(self, prompts: list[list[int]]) -> list[Response]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        device = self.model.device
        # What a model's own generation config says besides (a repetition penalty, say) is not part of the protocol.
        before, self.model.generation_config = self.model.generation_config, self.config
        try:
            written = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=self.config,
                logits_processor=self.processors,
            )
        finally:
            self.model.generation_config = before
        return [self._response(tokens) for tokens in written[:, longest:].tolist()]

    def _response(self, tokens: list[int]) -> Response:
        kept = cut_after_end(tokens, self.ends)
        finished = bool(kept) and kept[-1] in self.ends
        text = self.tokenizer.decode(kept[:-1] if finished else kept, skip_special_tokens=True)
        return Response(text.strip(), len(kept), finished)


def _check_lengths(model: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise InputError(f"prompt {number} has no token: expected at least one to begin with")
        if limit is not None and len(prompt) + decoding.max_new_tokens > limit:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens, and with {decoding.max_new_tokens} new ones outgrows the "
                f"model's {limit} positions: shorten the prompt, or set a smaller max_new_tokens or max_prompt_length"
            )
