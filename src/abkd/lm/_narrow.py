"""Students narrower than their teacher: some of its attention heads, some of its feed-forward units."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abkd.errors import InputError, needed
from abkd.lm._probe import Watch, read_texts

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
_PLAIN = ("c_fc", "c_proj")  # GPT-2's, whose weights are (inputs, outputs)


@dataclass(frozen=True)
class _Cut:
    """A place where a block can be made narrower: the same choices lie in several of its tensors.

    Attributes:
        prefix: of the tensors' names.
        back: the projection that reads the choices and writes to the residual stream.
        outputs: the dimension of its weight that is the residual stream.
        choices: how many there are.
        keep: how many stay.
        tensors: by name after the prefix, the dimension in which the choices lie, and entries a choice.
    """

    prefix: str
    back: Any
    outputs: int
    choices: int
    keep: int
    tensors: Mapping[str, tuple[int, int]]


def narrowed(
    model: Any,
    *,
    heads: int | None,
    intermediate_size: int | None,
    tokenizer: Any = None,
    texts: Sequence[str] | None = None,
) -> Any:
    """A copy of a model with fewer attention heads or feed-forward units in every block; the most important stay.

    The importance of a unit is the mean square of what it adds to the residual stream over some text,
    E[x_u^2] |W_u|^2 for an input x_u of the projection back and its column W_u. Heads that share their keys and
    values are kept or left together, with the sum over their units.

    Args:
        model: a causal language model with blocks as in Llama, Qwen and Mistral; of those as in GPT-2 the
            feed-forward layers alone.
        heads: attention (query) heads to keep; None keeps all.
        intermediate_size: feed-forward units to keep; None keeps all.
        tokenizer: of the model; needed where not all are kept.
        texts: what importance is measured on, as in `layer_influence`.

    Raises:
        InputError: more than there are, heads that would tear a group apart, blocks of another form, or no
            tokenizer.
    """
    config = copy.deepcopy(model.config)
    cuts: list[_Cut] = []
    if heads is not None:
        cuts += _heads(model, config, heads)
    if intermediate_size is not None:
        cuts += _units(model, config, intermediate_size)
    state = dict(model.state_dict())
    real = [cut for cut in cuts if cut.keep < cut.choices]
    for cut, chosen in zip(real, _most_important(model, real, tokenizer, texts), strict=True):
        for name, (dimension, size) in cut.tensors.items():
            if cut.prefix + name in state:
                index = (chosen.unsqueeze(1) * size + torch.arange(size, device=chosen.device)).flatten()
                state[cut.prefix + name] = state[cut.prefix + name].index_select(dimension, index)
    return rebuilt(model, config, state)


def rebuilt(model: Any, config: Any, state: Mapping[str, Tensor]) -> Any:
    """A new model of the same kind with another configuration and these weights.

    Raises:
        InputError: the weights do not fit the configuration.
    """
    with needed("transformers", "lm"):
        from transformers import AutoModelForCausalLM

    first = next(model.parameters())
    new: Any = AutoModelForCausalLM.from_config(config, dtype=first.dtype)
    try:
        new.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{type(model).__name__}: its blocks have more than can be cut here ({error}); make the student yourself "
            "and give its path"
        ) from error
    new.tie_weights()
    new.generation_config = copy.deepcopy(getattr(model, "generation_config", new.generation_config))
    return new.to(first.device)


def _heads(model: nn.Module, config: Any, keep: int) -> Iterator[_Cut]:
    """The attention of every block, in groups of heads with the same keys and values; writes `config`."""
    parts = _having(model, _ATTENTION)
    full = getattr(config, "num_attention_heads", None)
    if not parts or not isinstance(full, int):
        raise InputError(
            f"{type(model).__name__}: fewer heads need attention of q_proj, k_proj, v_proj and o_proj; leave heads out"
        )
    groups = int(getattr(config, "num_key_value_heads", None) or full)
    size = full // groups
    if isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= full or keep % size:
        several = f", a multiple of {size}, as many as share their keys and values" if size > 1 else ""
        raise InputError(f"heads: expected 1 to {full}, the teacher's{several}; got {keep}")
    width = parts[0][1].o_proj.weight.shape[1] // full
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = keep, keep // size, width
    rows = {f"{name}.{kind}": (0, width) for name in ("k_proj", "v_proj") for kind in ("weight", "bias")}
    rows |= {f"q_proj.{kind}": (0, size * width) for kind in ("weight", "bias")}
    for prefix, part in parts:
        yield _Cut(prefix, part.o_proj, 0, groups, keep // size, {**rows, "o_proj.weight": (1, size * width)})


def _units(model: nn.Module, config: Any, keep: int) -> Iterator[_Cut]:
    """The feed-forward layer of every block; writes `config`."""
    gated, plain = _having(model, _GATED), _having(model, _PLAIN)
    if bool(gated) == bool(plain):
        raise InputError(
            f"{type(model).__name__}: a narrower student needs feed-forward layers of gate_proj, up_proj and "
            "down_proj, or of c_fc and c_proj; leave intermediate_size out"
        )
    sizes = {
        int(part.down_proj.weight.shape[1] if gated else part.c_proj.weight.shape[0]) for _, part in gated or plain
    }
    full = min(sizes)
    if isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= full or len(sizes) > 1:
        raise InputError(f"intermediate_size: expected 1 to {full}, the teacher's, got {keep}")
    if gated:
        config.intermediate_size = keep
        rows = {f"{name}.{kind}": (0, 1) for name in ("gate_proj", "up_proj") for kind in ("weight", "bias")}
        for prefix, part in gated:
            yield _Cut(prefix, part.down_proj, 0, full, keep, {**rows, "down_proj.weight": (1, 1)})
        return
    config.n_inner = keep
    tensors = {"c_fc.weight": (1, 1), "c_fc.bias": (0, 1), "c_proj.weight": (0, 1)}
    for prefix, part in plain:
        yield _Cut(prefix, part.c_proj, 1, full, keep, tensors)


def _having(model: nn.Module, names: Sequence[str]) -> list[tuple[str, Any]]:
    """The modules that have all of these parts, with the prefix of their tensors' names."""
    return [(f"{name}.", part) for name, part in model.named_modules() if all(hasattr(part, child) for child in names)]


def _most_important(
    model: nn.Module, cuts: Sequence[_Cut], tokenizer: Any, texts: Sequence[str] | None
) -> list[Tensor]:
    """For each cut the choices that stay, in rising order."""
    if not cuts:
        return []
    if tokenizer is None:
        raise InputError("fewer heads or units are chosen by what they do on some text: give the teacher's tokenizer")
    squares: list[Tensor] = [torch.zeros(())] * len(cuts)

    def add_to(place: int) -> Watch:
        def add(_: nn.Module, args: tuple[Any, ...], __: dict[str, Any], ___: Any) -> None:
            squares[place] = squares[place].to(args[0].device) + args[0].float().square().flatten(0, -2).sum(0)

        return add

    read_texts(model, tokenizer, texts, [(cut.back, add_to(place)) for place, cut in enumerate(cuts)])
    chosen: list[Tensor] = []
    for cut, square in zip(cuts, squares, strict=True):
        added = square * cut.back.weight.float().square().sum(cut.outputs)
        chosen.append(added.view(cut.choices, -1).sum(1).topk(cut.keep).indices.sort().values)
    return chosen
