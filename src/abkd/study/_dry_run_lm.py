"""Two steps of every method of a language plan on tiny random models: does the whole of it hold together?"""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.study._lm import LmPlan, quiet_libraries

if TYPE_CHECKING:
    from abkd.lm import LmParts, LmRun

_WORDS = (
    "the",
    "student",
    "reads",
    "what",
    "teacher",
    "writes",
    "and",
    "asks",
    "for",
    "fewer",
    "words",
    "than",
    "before",
)
_LENGTH = 96
_TOKENS = 4
_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<bot>{% generation %}"
    "{{ message['content'] }}<eos>{% endgeneration %}{% else %}<user>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)
# What asks for an accelerator, or decides how long the real run or its texts are.
_LEFT_OUT = (
    "bf16",
    "fp16",
    "tf32",
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "num_train_epochs",
    "warmup_steps",
    "optim",
    "torch_compile",
    "eval_steps",
    "save_steps",
    "eval_on_start",
    "dataloader_num_workers",
    "max_new_tokens",
)


def dry_run_lms(plan: LmPlan, folder: str | os.PathLike[str], *, report: Callable[[str], None] | None = None) -> None:
    """Take two steps with every method of a plan, on made-up text and tiny random models; nothing is downloaded.

    The methods, losses, schedules, adapters and the training's other settings are the plan's own.

    Args:
        plan: What would be run.
        folder: Where the short runs go.
        report: Is told the name of every method that is through.

    Raises:
        AbkdError: What would have stopped the real run.
    """
    from abkd.lm import run_lm

    quiet_libraries()
    place = Path(folder)
    parts = made_up_parts(plan.example)
    if plan.teacher is not None:
        run_lm(_short(plan.teacher), place / "teacher", progress=False, parts=made_up_parts(plan.teacher))
    for method in plan.methods:
        settings = _short(plan.runs[method][plan.seeds[0]])
        run_lm(settings, place / method, progress=False, parts=parts)
        if report is not None:
            report(method)


def made_up_parts(settings: LmRun) -> LmParts:
    """Tiny random models of 2 and 1 layers, a byte tokenizer, and a few rows of made-up text."""
    import datasets

    from abkd.lm import LmParts

    tokenizer = byte_tokenizer()
    teacher = tiny_llama(len(tokenizer), 2).requires_grad_(False)
    rows = [_row(number, settings.data.template) for number in range(12)]
    split = datasets.Dataset.from_list(rows)
    plain = datasets.Dataset.from_list([{"text": " ".join(_WORDS * 8)}] * 4)
    return LmParts(
        tokenizer,
        split.select(range(8)),
        None if settings.data.validation is None else split.select(range(8, 10)),
        None if settings.data.test is None else split.select(range(10, 12)),
        {"made-up": split.select(range(2))} if settings.evaluation.sets else {},
        teacher,
        None,
        None if settings.data.pretrain is None else plain,
        teacher,
    )


def byte_tokenizer() -> Any:
    """A tokenizer of single bytes with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<eos>", "<pad>", "<user>", "<bot>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def tiny_llama(vocabulary: int, layers: int) -> Any:
    """A random Llama of hidden size 32, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(layers)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2 * _LENGTH,
            eos_token_id=0,
            pad_token_id=1,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config).eval()


def _row(number: int, template: str) -> dict[str, Any]:
    words = [_WORDS[(number * 5 + place) % len(_WORDS)] for place in range(9)]
    prompt, answer = " ".join(words[:3]), f"{string.ascii_lowercase[number]} " + " ".join(words[3:])
    if template != "chat":
        return {"prompt": prompt, "completion": answer, "references": [answer]}
    turns = [{"role": "user", "content": prompt}]
    return {"prompt": turns, "completion": [{"role": "assistant", "content": answer}], "references": [answer]}


def _short(settings: LmRun) -> LmRun:
    """The run with two small steps."""
    training = {key: value for key, value in settings.training.items() if key not in _LEFT_OUT}
    training |= {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_length": _LENGTH,
        "use_cpu": True,
        "bf16": False,
    }
    if training.get("select_by") == "rouge_l" or training.get("validation_texts") is not None:
        training["validation_texts"] = {**(training.get("validation_texts") or {}), "max_new_tokens": _TOKENS}
    lora = settings.student.lora
    student = replace(
        settings.student,
        model=None,
        layers=1,
        keep="even",
        heads=None,
        intermediate_size=None,
        dtype="float32",
        lora=None if lora is None else {**lora, "target_modules": "all-linear"},
    )
    return replace(
        settings,
        student=student,
        student_text=_brief(settings, "student_text", "lmbda"),
        teacher_text=_brief(settings, "teacher_text", "seq_kd"),
        evaluation=replace(settings.evaluation, seeds=(1,), max_new_tokens=_TOKENS, sample_tokens=_TOKENS, samples=1),
        training=training,
    )


def _brief(settings: LmRun, which: str, asked: str) -> Any:
    """Settings of written text, with few tokens and by transformers; None where nothing is written.

    Args:
        settings: the run.
        which: "student_text" or "teacher_text".
        asked: the key of `training` that asks for such text as well.
    """
    from abkd.lm import METHODS

    text = getattr(settings, which)
    writes = settings.training.get(asked, getattr(METHODS[settings.method], which))
    if text is None and not writes:
        return None
    return {**{key: value for key, value in (text or {}).items() if key != "vllm"}, "max_new_tokens": _TOKENS}
