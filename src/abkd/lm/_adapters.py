"""Models and tokenizers by name or path, and LoRA adapters through peft."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abkd.errors import InputError, needed
from abkd.storage import has_manifest, verify_manifest


def load_model(
    name: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    merge: bool = True,
    dtype: Any = "auto",
    **options: Any,
) -> Any:
    """A causal language model, with a peft adapter if there is one, in eval mode.

    Args:
        name: a name on the hub, a folder, or a folder that holds only an adapter (its base model is then loaded
            from where its config says).
        adapter: the name or folder of an adapter for it.
        merge: add the adapter to the weights, so that it costs nothing more; False keeps it apart.
        dtype: of the weights; "auto" is the one that they were saved in.
        **options: of `from_pretrained`.

    Raises:
        InputError: nothing to load there, or an adapter that does not fit the model.
        CorruptFileError: a folder that this library wrote has changed since.
        MissingPackageError: `peft` is not installed and there is an adapter.
    """
    for place in (name, adapter):
        if place is not None and has_manifest(place):
            verify_manifest(place)
    if adapter is None and (Path(name) / "adapter_config.json").is_file():
        adapter, name = name, _name_of_base(name)
    with needed("transformers", "lm"):
        from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(os.fspath(name), dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(name)}: no causal language model could be loaded from there ({error})") from error
    return (model if adapter is None else with_adapter(model, adapter, merge=merge)).eval()


def read_tokenizer(name: str | os.PathLike[str], *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model.

    Raises:
        InputError: none could be loaded from there.
    """
    with needed("transformers", "lm"):
        from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(os.fspath(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(name)}: no tokenizer could be loaded from there ({error})") from error


def config_of(name: str | os.PathLike[str]) -> Any | None:
    """The config of the model that `load_model` would load, without its weights; None where there is none to read."""
    with needed("transformers", "lm"):
        from transformers import AutoConfig

    if (Path(name) / "adapter_config.json").is_file():
        name = _name_of_base(name)
    try:
        return AutoConfig.from_pretrained(os.fspath(name))
    except (OSError, ValueError):
        return None


def with_adapter(model: Any, adapter: str | os.PathLike[str], *, merge: bool = True) -> Any:
    """A model with a saved peft adapter: merged into its weights (in place), or beside them.

    Raises:
        InputError: no adapter there, or one for another model.
        MissingPackageError: `peft` is not installed.
    """
    with needed("peft", "lm"):
        from peft import PeftModel

    try:
        adapted: Any = PeftModel.from_pretrained(model, os.fspath(adapter))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{os.fspath(adapter)}: no adapter for this model could be loaded ({error})") from error
    return adapted.merge_and_unload() if merge else adapted


def lora(
    r: int = 16, alpha: float = 64, dropout: float = 0.1, target_modules: Sequence[str] | str | None = None
) -> Any:
    """A peft `LoraConfig` for `DistillationTrainer(peft_config=...)`; the defaults are those of the published runs.

    Args:
        r: rank, at least 1.
        alpha: the adapter is scaled by alpha / r.
        dropout: in [0, 1).
        target_modules: names of the layers; None is peft's choice for the architecture, "all-linear" all but the
            head.

    Raises:
        InputError: a value out of range.
        MissingPackageError: `peft` is not installed.
    """
    given: tuple[Any, Any, Any] = (r, alpha, dropout)
    for name, value, kind in zip(("r", "alpha", "dropout"), given, (int, int | float, int | float), strict=True):
        if isinstance(value, bool) or not isinstance(value, kind):
            raise InputError(f"{name}: expected a {'whole ' if kind is int else ''}number, got {value!r}")
    if r < 1:
        raise InputError(f"r: expected a rank of at least 1, got {r!r}")
    if not alpha > 0:
        raise InputError(f"alpha: expected a number above 0, got {alpha!r}")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout: expected a share in [0, 1), got {dropout!r}")
    with needed("peft", "lm"):
        from peft import LoraConfig

    targets = target_modules if target_modules is None or isinstance(target_modules, str) else list(target_modules)
    scale: Any = alpha  # annotated as a whole number there
    return LoraConfig(
        r=r, lora_alpha=scale, lora_dropout=dropout, target_modules=targets, bias="none", task_type="CAUSAL_LM"
    )


def same_model(one: str, other: str) -> bool:
    """Whether two names or paths lead to the same model."""
    places = [Path(name).expanduser() for name in (one, other)]
    return one == other or (all(place.is_dir() for place in places) and places[0].samefile(places[1]))


def _name_of_base(folder: str | os.PathLike[str]) -> str:
    with needed("peft", "lm"):
        from peft import PeftConfig

    base = PeftConfig.from_pretrained(os.fspath(folder)).base_model_name_or_path
    if not base:
        raise InputError(f"{os.fspath(folder)}: this adapter does not say what its base model is: name the model too")
    return str(base)
