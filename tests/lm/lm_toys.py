"""Tiny language models, a real small tokenizer and short instruction data, all made here from the standard library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
EOS, PAD, USER, BOT = "<eos>", "<pad>", "<user>", "<bot>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<bot>{% generation %}{{ message['content'] }}<eos>{% endgeneration %}"
    "{% else %}<user>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def sentences() -> list[str]:
    """Plain English from Python's own help texts: one line a sentence, 30 to 160 characters."""
    from pydoc_data.topics import topics

    text = re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))
    return [part.strip() for part in re.split(r"(?<=\.) ", text) if 30 <= len(part.strip()) <= 160]


def save_tokenizer(folder: Path, *, pad: str = PAD, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Train a byte-level BPE tokenizer of exactly `VOCABULARY` tokens and save it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, PAD, USER, BOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences()[:400], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS, pad_token=pad)
    tokenizer.chat_template = chat_template
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(*, seed: int = 0, layers: int = 2, hidden: int = 32, vocabulary: int = VOCABULARY, **more: Any) -> Any:
    """A random Llama in float32, in eval mode: 2 layers, hidden 32 unless told; logits wide enough to tell apart."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "eos_token_id": 0,
            "pad_token_id": 1,
            "bos_token_id": None,
            "tie_word_embeddings": True,
            "attn_implementation": "eager",
            **more,
        }
    )
    return LlamaForCausalLM(config).eval()


def frozen(model: Any) -> Any:
    """The same model in eval mode, without gradients."""
    return model.eval().requires_grad_(False)


def instruction_rows(count: int = 24, start: int = 0) -> list[dict[str, str]]:
    """Rows of prompt and completion: the beginning of a sentence, and how it goes on (a real, learnable text)."""
    rows: list[dict[str, str]] = []
    for text in sentences()[start : start + count]:
        words = text.split(" ")
        half = max(len(words) // 2, 1)
        rows.append({"prompt": " ".join(words[:half])[-60:], "completion": " " + " ".join(words[half:])[:60]})
    return rows


def instructions(count: int = 24, start: int = 0) -> Dataset:
    """`instruction_rows` as a data set in TRL's prompt-completion format."""
    return Dataset.from_list(instruction_rows(count, start))


def dialogues(count: int = 8) -> Dataset:
    """Two-turn conversations in TRL's `messages` format."""
    rows = instruction_rows(2 * count)
    return Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": first["prompt"]},
                    {"role": "assistant", "content": first["completion"]},
                    {"role": "user", "content": second["prompt"]},
                    {"role": "assistant", "content": second["completion"]},
                ]
            }
            for first, second in zip(rows[::2], rows[1::2], strict=True)
        ]
    )


def make_trainer(folder: Path, tokenizer: Any, student: Any, teacher: Any = None, **settings: Any) -> Any:
    """A `DistillationTrainer` on the toy instructions, in float32 on the CPU, that writes nothing unless told."""
    from abkd.lm import DistillationConfig, DistillationTrainer

    given = ("train_dataset", "eval_dataset", "peft_config", "teacher_cache", "pretrain_dataset", "callbacks")
    parts = {name: settings.pop(name) for name in given if name in settings}
    parts.setdefault("train_dataset", instructions())
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "max_length": 128,
        "disable_tqdm": True,
    }
    args = DistillationConfig(**{**defaults, **settings})
    return DistillationTrainer(student, teacher, args, processing_class=tokenizer, **parts)


def batch_of(trainer: Any, rows: Any = None) -> dict[str, Any]:
    """The first rows of the prepared training data as one batch."""
    data = trainer.train_dataset
    return trainer.data_collator([data[index] for index in (range(4) if rows is None else rows)])


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference between two sets of weights."""
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)
