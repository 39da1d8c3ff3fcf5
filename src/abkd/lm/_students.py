"""Students made from their teacher by keeping some of its layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from abkd.errors import InputError, nearest, needed
from abkd.lm._plain_text import english

_KEEP = ("influence", "even")
_MAX_TEXTS = 32
_MAX_TOKENS = 256


def make_student(
    teacher: nn.Module,
    *,
    layers: int | Sequence[int],
    keep: str = "influence",
    texts: Sequence[str] | None = None,
    tokenizer: Any = None,
    intermediate_size: int | None = None,
) -> Any:
    """A student with some of a causal language model's layers, and everything else of it.

    Args:
        teacher: a `transformers` causal language model; it is left as it is.
        layers: how many layers to keep, or which ones (indices from 0, in rising order).
        keep: how a number of layers is chosen. "influence": those that change the most what passes through
            them (`layer_influence`; ShortGPT, arXiv 2403.03853, equation 1). "even": evenly spaced, first and
            last included. Influence starts far nearer to the teacher.
        texts: what influence is measured on; None is a page of English that every Python carries.
        tokenizer: the teacher's; needed for "influence" when `layers` is a number.
        intermediate_size: the width of the feed-forward layers, where it should be less than the teacher's: the
            units with the largest weights are kept (`gate_proj`, `up_proj`, `down_proj`, as in Llama and Qwen).

    Returns:
        A new model of the same class in the teacher's dtype, in train mode, with gradients. It shares no tensor.

    Raises:
        InputError: more or fewer layers than there are, indices out of order, an unknown `keep`, no tokenizer
            where one is needed, or a model whose layers cannot be found.
    """
    found = decoder_layers(teacher)
    chosen = _chosen(teacher, len(found), layers, keep, texts, tokenizer)
    student = _with_layers(teacher, chosen)
    if intermediate_size is not None:
        student = _narrowed(student, intermediate_size)
    return student.train().requires_grad_(True)


@torch.no_grad()
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
    samples = [text for text in (english(8) if texts is None else texts) if text.strip()][:_MAX_TEXTS]
    if not samples:
        raise InputError("texts: expected at least one text to measure the layers on, found none")
    device = next(model.parameters()).device
    sums = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0
    with _Influence(layers, sums), _eval_mode(model):
        for text in samples:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=_MAX_TOKENS)["input_ids"]
            if ids.numel():
                model(input_ids=ids.to(device))
                tokens += ids.numel()
    if not tokens:
        raise InputError("texts: the tokenizer made no token of these texts")
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
    if isinstance(layers, Sequence):
        return _checked(list(layers), count)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= count:
        raise InputError(f"layers: expected 1 to {count}, as many as the teacher has, got {layers}")
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
    with needed("transformers", "lm"):
        from transformers import AutoModelForCausalLM

    prefix = f"{_layers_name(teacher)}."
    old: Any = teacher.config
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
    student: Any = AutoModelForCausalLM.from_config(config, dtype=next(teacher.parameters()).dtype)
    student.load_state_dict(state)
    student.tie_weights()
    student.generation_config = copy.deepcopy(getattr(teacher, "generation_config", student.generation_config))
    return student.to(next(teacher.parameters()).device)


def _narrowed(model: nn.Module, size: int) -> nn.Module:
    """The same model with only the `size` largest units of each feed-forward layer."""
    with needed("transformers", "lm"):
        from transformers import AutoModelForCausalLM

    config: Any = copy.deepcopy(model.config)
    full = getattr(config, "intermediate_size", None)
    parts = [(f"{name}.", part) for name, part in model.named_modules() if hasattr(part, "down_proj")]
    if (
        full is None
        or not all(hasattr(part, "gate_proj") and hasattr(part, "up_proj") for _, part in parts)
        or not parts
    ):
        raise InputError(
            f"{type(model).__name__}: a narrower student needs feed-forward layers of gate_proj, up_proj and "
            "down_proj; leave intermediate_size out"
        )
    if isinstance(size, bool) or not 1 <= size <= full:
        raise InputError(f"intermediate_size: expected 1 to {full}, the teacher's, got {size}")
    state = dict(model.state_dict())
    for prefix, part in parts:
        where: Any = part
        norm = [where.up_proj.weight.float().norm(dim=1), where.gate_proj.weight.float().norm(dim=1)]
        weight = norm[0] * norm[1] * where.down_proj.weight.float().norm(dim=0)
        units = weight.topk(size).indices.sort().values
        for name in [name for name in state if name.startswith(prefix)]:
            rows = "down_proj" not in name
            if rows or name.endswith("down_proj.weight"):
                state[name] = state[name].index_select(0 if rows else 1, units)
    config.intermediate_size = size
    narrow: Any = AutoModelForCausalLM.from_config(config, dtype=next(model.parameters()).dtype)
    narrow.load_state_dict(state)
    narrow.tie_weights()
    narrow.generation_config = copy.deepcopy(getattr(model, "generation_config", narrow.generation_config))
    return narrow.to(next(model.parameters()).device)


class _Influence:
    """While entered, adds each layer's sum over tokens of 1 - cos(input, output) to `sums`."""

    def __init__(self, layers: nn.ModuleList, sums: Tensor) -> None:
        self._layers = layers
        self._sums = sums
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for index, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._hook(index), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, index: int) -> Any:
        def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before: Tensor = args[0] if args else kwargs["hidden_states"]
            after: Tensor = output[0] if isinstance(output, tuple) else output
            same = functional.cosine_similarity(before.float(), after.float(), dim=-1)
            self._sums[index] += (1 - same).sum().double().cpu()

        return add


class _eval_mode:  # noqa: N801
    """While entered, a module and its parts are in eval mode; afterwards each is as it was."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before: list[tuple[nn.Module, bool]] = []

    def __enter__(self) -> None:
        self._before = [(part, part.training) for part in self._module.modules()]
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        for part, training in self._before:
            part.training = training
