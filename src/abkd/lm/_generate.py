"""Batches of text sampled from a model, token ids in and out.

Legend: B prompts, S tokens so far, V vocabulary.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from abkd.errors import InputError
from abkd.lm._student_settings import Sampling
from abkd.lm._teacher import base_of


@torch.no_grad()
def write_texts(
    model: Any,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    pad: int,
    ends: Sequence[int],
    vocabulary: int,
    mixed_with: tuple[Any, float] | None = None,
) -> list[list[int]]:
    """One sampled continuation for each prompt, cut after its first end token (which it keeps).

    The whole batch is written at once with a key-value cache, prompts padded on the left and masked by position.

    Args:
        model: a causal language model, in whatever mode: dropout is off while it writes.
        prompts: token ids, none empty.
        sampling: temperature, top-p and length. Nothing of the model's own generation config applies besides.
        pad: the id that fills up.
        ends: ids that end a text.
        vocabulary: real token ids are below it; others are never sampled.
        mixed_with: a teacher and its share m: tokens are then drawn from (1 - m) q + m p.

    Raises:
        InputError: an empty prompt, or a text that could outgrow the model's positions.
    """
    _check_lengths(model, prompts, sampling)
    longest = max(len(prompt) for prompt in prompts)
    device = model.device
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    processors = LogitsProcessorList([RealTokens(vocabulary)])
    if mixed_with is not None:
        processors.append(TeacherMix(*mixed_with, mask, vocabulary))
    with _writing(model, _generation_config(sampling, pad, ends)) as config:
        written: Any = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors
        )
    return [cut_after_end(row, ends) for row in written[:, longest:].tolist()]


def cut_after_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Tokens up to the first end token, with it; all of them where there is none."""
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a text: the tokenizer's EOS, and those of the model's generation config."""
    known = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])}
    return sorted(token for token in found if token is not None)


class RealTokens(LogitsProcessor):
    """Rules out the padding of the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (B, V), -inf beyond the vocabulary."""
        scores[:, self.vocabulary :] = -torch.inf
        return scores


class TeacherMix(LogitsProcessor):
    """Turns the student's scores into the log of (1 - m) q + m p (MiniLLM, arXiv 2306.08543, section 2.2).

    The teacher keeps a key-value cache of its own, so each token costs it one step.

    Args:
        teacher: a frozen causal language model.
        share: m, in (0, 1).
        mask: which of the prompt's positions are real, (B, S).
        vocabulary: classes that both models know.
    """

    def __init__(self, teacher: Any, share: float, mask: Tensor, vocabulary: int) -> None:
        self.teacher, self.vocabulary = teacher, vocabulary
        self.share = share
        self.mask = mask
        self.cache: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Log of the mixture, (B, V)."""
        fresh = input_ids
        if self.cache is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], -1)
            fresh = input_ids[:, -1:]
        places = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -fresh.shape[1] :]
        with torch.autocast(fresh.device.type, enabled=False):
            output = self.teacher(
                input_ids=fresh,
                attention_mask=self.mask,
                position_ids=places,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.cache = output.past_key_values
        log_p = output.logits[:, -1, : self.vocabulary].float().log_softmax(-1)
        log_q = scores[:, : self.vocabulary].float().log_softmax(-1)
        scores = scores.clone()
        scores[:, : self.vocabulary] = mixture(log_q, log_p, self.share).to(scores)
        return scores


def mixture(log_q: Tensor, log_p: Tensor, share: float) -> Tensor:
    """Log of (1 - share) q + share p, elementwise, for a share in [0, 1)."""
    if share == 0:
        return log_q
    return torch.logaddexp(log_q + math.log1p(-share), log_p + math.log(share))


def _generation_config(sampling: Sampling, pad: int, ends: Sequence[int]) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        temperature=float(sampling.generation_temperature),
        top_p=float(sampling.top_p),
        top_k=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=list(ends),
        bos_token_id=None,
        use_cache=True,
    )


@contextmanager
def _writing(model: Any, config: GenerationConfig) -> Generator[GenerationConfig]:
    """Eval mode and `config` for a while: no dropout, the cache that gradient checkpointing would switch off, and
    none of the model's own generation settings, with which transformers fills up what `config` leaves open.
    """
    holders = {id(holder): holder for holder in (model, base_of(model))}.values()
    kept = [(holder, getattr(holder, "generation_config", None)) for holder in holders]
    training = model.training
    model.eval()
    for holder, _ in kept:
        holder.generation_config = config
    try:
        yield config
    finally:
        for holder, own in kept:
            holder.generation_config = own
        model.train(training)


@contextmanager
def quiet_checkpointing() -> Generator[None]:
    """Keep back transformers' note that TRL still says gradient checkpointing for activation checkpointing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
        yield


def _check_lengths(model: Any, prompts: list[list[int]], sampling: Sampling) -> None:
    empty = [row for row, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise InputError(
            "a text needs a prompt to go on from, and a row has none (its labels start at its first token): give "
            "prompt and completion, or dialogues with a user's turn"
        )
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(prompt) for prompt in prompts)
    if room is not None and longest + sampling.max_new_tokens > room:
        raise InputError(
            f"a prompt of {longest} tokens and max_new_tokens={sampling.max_new_tokens} outgrow the model's {room} "
            "positions: lower max_new_tokens, or max_length so that prompts are shorter"
        )
