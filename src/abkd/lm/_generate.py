"""Batches of text that a model writes, token ids in and out: the one writer of training and evaluation.

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
from abkd.lm._decoding import Decoding
from abkd.lm._hidden import base_of


@torch.no_grad()
def write_texts(
    model: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    *,
    pad: int,
    ends: Sequence[int],
    vocabulary: int,
    mixed_with: tuple[Any, float] | None = None,
) -> list[list[int]]:
    """One continuation for each prompt, cut after its first end token (which it keeps).

    The whole batch is written at once with a key-value cache, prompts padded on the left and masked by position.

    Args:
        model: a causal language model, in whatever mode: dropout is off while it writes.
        prompts: token ids, none empty.
        decoding: nothing of the model's own generation config applies besides; prompts are taken whole.
        pad: the id that fills up.
        ends: ids that end a text.
        vocabulary: real token ids are below it; others are never sampled.
        mixed_with: a teacher and its share m: tokens are then drawn from (1 - m) q + m p.

    Raises:
        InputError: an empty prompt, or a text that could outgrow the model's positions.
    """
    check_lengths(model.config, prompts, decoding.max_new_tokens)
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
    with _writing(model, _generation_config(decoding, pad, ends)) as config:
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


def pad_token(tokenizer: Any) -> int:
    """The id that fills up: the tokenizer's own, or its EOS."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


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


def _generation_config(decoding: Decoding, pad: int, ends: Sequence[int]) -> GenerationConfig:
    sampled: dict[str, Any] = {}
    if decoding.temperature > 0:
        sampled = {"temperature": float(decoding.temperature), "top_p": float(decoding.top_p), "top_k": decoding.top_k}
    return GenerationConfig(
        do_sample=bool(sampled),
        **sampled,
        repetition_penalty=1.0,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        max_new_tokens=decoding.max_new_tokens,
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
def seeded(device: torch.device, seed: int) -> Generator[None]:
    """Torch's generators, that of `device` among them, start from a seed, and are afterwards as they were."""
    several = device.type not in ("cpu", "mps")  # devices of a kind, with a generator each
    with torch.random.fork_rng([device] if several else [], device_type=device.type if several else "cuda"):
        torch.manual_seed(seed)
        yield


@contextmanager
def writing_student(trainer: Any) -> Generator[Any]:
    """A trainer's student as one that can write, whatever wraps it."""
    from trl.models.utils import unwrap_model_for_generation

    with (
        kept_checkpointing(trainer.model),
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as student,
    ):
        yield student


@contextmanager
def kept_checkpointing(model: Any) -> Generator[None]:
    """Gradient checkpointing comes back as it was, layer by layer, after TRL has switched it off and on.

    Keeps back transformers' note that TRL still says gradient checkpointing for activation checkpointing.
    """
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    before = [(part, name, getattr(part, name)) for part in model.modules() for name in names if name in vars(part)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
        try:
            yield
        finally:
            for part, name, value in before:
                setattr(part, name, value)


def check_lengths(
    config: Any,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    where: str = "",
    setting: str = "max_new_tokens",
) -> None:
    """A model has a position for every token of prompt and text.

    Args:
        config: the model's.
        prompts: token ids.
        new_tokens: that a text may have.
        where: whose prompts, for the message.
        setting: what `new_tokens` is set by, for the message.

    Raises:
        InputError: it has not, or a prompt has no token.
    """
    room = positions_of(config)
    named = f"{where}, " if where else ""
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise InputError(
                f"{named}prompt {number} has no token, and a text needs one to go on from (a row's labels must not "
                "start at its first token): give prompt and completion, or dialogues with a user's turn"
            )
        if room is not None and len(prompt) + new_tokens > room:
            raise InputError(
                f"{named}prompt {number} has {len(prompt)} tokens, and with {setting}={new_tokens} outgrows the "
                f"model's {room} positions: lower {setting}, or what cuts prompts: max_prompt_length, in training "
                "max_length"
            )


def positions_of(config: Any) -> int | None:
    """How many tokens a model can take, from its config; None where nothing limits them."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found
