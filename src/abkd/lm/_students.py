"""Students made from their teacher by keeping some of its layers, heads and feed-forward units."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from abkd.errors import InputError, nearest
from abkd.lm._narrow import narrowed, rebuilt
from abkd.lm._probe import Watch, read_texts

_KEEP = ("influence", "even")


def make_student(
    teacher: nn.Module,
    *,
    layers: int | Sequence[int],
    keep: str = "influence",
    texts: Sequence[str] | None = None,
    tokenizer: Any = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
) -> Any:
    """A student with some of a causal language model's layers, and where told a part of their width.

    Args:
        teacher: a `transformers` causal language model; it is left as it is.
        layers: how many layers to keep, or which ones (indices from 0, in rising order).
        keep: how a number of layers is chosen. "influence": those that change the most what passes through
            them (`layer_influence`; ShortGPT, arXiv 2403.03853, equation 1). "even": evenly spaced, first and
            last included. Influence starts far nearer to the teacher.
        texts: what influence is measured on; None is a page of English that every Python carries.
        tokenizer: the teacher's; needed for "influence" when `layers` is a number, and for the next two.
        heads: attention heads of each layer, where there should be fewer: those that add the most to what passes
            through the layer over the texts. With grouped keys and values a multiple of the group's size. For
            blocks as in Llama, Qwen and Mistral.
        intermediate_size: units of each feed-forward layer, likewise. For such blocks and those of GPT-2.

    Returns:
        A new model of the same class in the teacher's dtype, in train mode, with gradients. It shares no tensor.

    Raises:
        InputError: more or fewer layers, heads or units than there are, indices out of order, an unknown `keep`,
            no tokenizer where one is needed, or a model whose parts cannot be found.
    """
    found = decoder_layers(teacher)
    chosen = _chosen(teacher, len(found), layers, keep, texts, tokenizer)
    student = _with_layers(teacher, chosen)
    if heads is not None or intermediate_size is not None:
        student = narrowed(student, heads=heads, intermediate_size=intermediate_size, tokenizer=tokenizer, texts=texts)
    return student.train().requires_grad_(True)


def layer_influence(model: nn.Module, tokenizer: Any, texts: Sequence[str] | None = None) -> tuple[float, ...]:
    """How much each layer changes what passes through it: the mean over tokens of 1 - cos(input, output).

    One forward pass over the texts, no training. From 0, a layer that could go, upwards.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        texts: at most 32 are used, 256 tokens of each; None is English from Python's own help.

    Raises:
        InputError: no text, or a model whose layers cannot be found.
    """
    layers = decoder_layers(model)
    sums = torch.zeros(len(layers), dtype=torch.float64)

    def add_to(index: int) -> Watch:
        def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before: Tensor = args[0] if args else kwargs["hidden_states"]
            after: Tensor = output[0] if isinstance(output, tuple) else output
            same = functional.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[index] += (1 - same).sum().double().cpu()

        return add

    tokens = read_texts(model, tokenizer, texts, [(layer, add_to(index)) for index, layer in enumerate(layers)])
    return tuple((sums / tokens).tolist())


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a causal language model's decoder layers.

    Raises:
        InputError: there is not exactly one list of modules as long as the configuration says.
    """
    return cast("nn.ModuleList", model.get_submodule(_layers_name(model)))


def _layers_name(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    if count is None:
        raise InputError(
            f"expected a transformers causal language model, got {type(model).__name__} without "
            "config.num_hidden_layers"
        )
    names = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part) == count
        and type(part[0]).__name__.endswith(("Layer", "Block"))
    ]
    if len(names) != 1:
        raise InputError(
            f"{type(model).__name__}: expected one list of {count} decoder layers, found {len(names)}; "
            "make the student yourself and give its path"
        )
    return names[0]


def _chosen(
    teacher: nn.Module, count: int, layers: int | Sequence[int], keep: str, texts: Sequence[str] | None, tokenizer: Any
) -> list[int]:
    if keep not in _KEEP:
        raise InputError(f"keep: unknown choice {keep!r}; {nearest(str(keep), _KEEP)}")
    if isinstance(layers, Sequence) and not isinstance(layers, str):  # a text is a sequence too
        return _checked(list(layers), count)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= count:
        raise InputError(f"layers: expected 1 to {count}, as many as the teacher has, or indices, got {layers!r}")
    if keep == "even" or layers == count:
        return [round(index * (count - 1) / max(layers - 1, 1)) for index in range(layers)]
    if tokenizer is None:
        raise InputError('keep="influence" runs the teacher over some text: give its tokenizer, or keep="even"')
    influence = layer_influence(teacher, tokenizer, texts)
    return sorted(sorted(range(count), key=lambda index: -influence[index])[:layers])


def _checked(layers: list[int], count: int) -> list[int]:
    wrong = [
        index for index in layers if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count
    ]
    if not layers or wrong or sorted(set(layers)) != layers:
        raise InputError(f"layers: expected different indices from 0 to {count - 1} in rising order, got {layers}")
    return layers


def _with_layers(teacher: nn.Module, kept: list[int]) -> nn.Module:
    """A new model of the teacher's class whose layers are the kept ones."""
    prefix = f"{_layers_name(teacher)}."
    old: Any = teacher.config
    if getattr(old, "scale_attn_by_inverse_layer_idx", False) and kept != list(range(len(kept))):
        raise InputError(
            "scale_attn_by_inverse_layer_idx: this model divides attention by a layer's number, which changes where "
            f"layers before it go: keep the first ones (layers={list(range(len(kept)))}), not {kept}"
        )
    count = int(old.num_hidden_layers)
    config = copy.deepcopy(old)
    for name, value in list(config.to_dict().items()):
        if isinstance(value, list) and len(value) == count:  # a setting a layer, such as its kind of attention
            setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)
    place = {str(index): str(new) for new, index in enumerate(kept)}
    state: dict[str, Tensor] = {}
    for name, tensor in teacher.state_dict().items():
        if not name.startswith(prefix):
            state[name] = tensor
            continue
        index, rest = name[len(prefix) :].split(".", 1)
        if index in place:
            state[f"{prefix}{place[index]}.{rest}"] = tensor
    return rebuilt(teacher, config, state)
