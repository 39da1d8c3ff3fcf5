"""Students with fewer attention heads and feed-forward units than their teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from abkd.errors import InputError
from abkd.lm import LmData, LmRun, LmStudent, LmTeacher, load_parts, make_student


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 40)[None]).logits


BLOCKS: dict[str, Any] = {
    "llama": lambda sizes: LlamaForCausalLM(LlamaConfig(**sizes)),
    "qwen2": lambda sizes: Qwen2ForCausalLM(Qwen2Config(**sizes)),  # biases, and no head_dim of its own
    "qwen3": lambda sizes: Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=12)),  # norms of queries and keys
    "mistral": lambda sizes: MistralForCausalLM(MistralConfig(**sizes)),
}


def block_model(kind: str) -> Any:
    """A random model with 4 heads in 2 groups and 64 units."""
    torch.manual_seed(3)
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    model = BLOCKS[kind]({**sizes, **heads})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model.eval()


@pytest.mark.parametrize("kind", BLOCKS)
def test_fewer_heads_and_units_are_the_ones_that_do_something(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    teacher = block_model(kind)
    whole = make_student(teacher, layers=2, heads=4, intermediate_size=64)
    assert torch.equal(logits(whole), logits(teacher))
    with torch.no_grad():  # of the first layer one group of heads does something, of the second the other
        for index, layer in enumerate(teacher.model.layers):
            width = layer.self_attn.o_proj.weight.shape[1] // 2
            layer.self_attn.o_proj.weight[:, index * width : (index + 1) * width] = 0
            layer.mlp.down_proj.weight[:, index : index + 54] = 0
    student = make_student(teacher, layers=2, heads=2, intermediate_size=10, tokenizer=tokenizer)
    assert student.config.num_attention_heads == 2
    assert student.config.num_key_value_heads == 1
    torch.testing.assert_close(logits(student), logits(teacher))
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters())
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(student))
    generated = student.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False, pad_token_id=1)
    assert generated.shape[0] == 1


def test_importance_is_what_is_added_to_the_residual_stream(tokenizer: Any) -> None:
    teacher = lm_toys.tiny_model(seed=2, layers=1)
    texts = lm_toys.sentences()[:3]
    added = torch.zeros(64)
    projection = teacher.model.layers[0].mlp.down_proj

    def see(_: Any, args: Any, output: Any) -> None:
        for unit in range(64):
            added[unit] += torch.outer(args[0][0, :, unit], projection.weight[:, unit]).square().sum()

    hook = projection.register_forward_hook(see)
    with torch.no_grad():
        for text in texts:
            teacher(**tokenizer(text, return_tensors="pt"))
    hook.remove()
    student = make_student(teacher, layers=1, intermediate_size=20, tokenizer=tokenizer, texts=texts)
    expected = added.topk(20).indices.sort().values
    assert torch.equal(student.model.layers[0].mlp.down_proj.weight, projection.weight[:, expected])
    assert torch.equal(student.model.layers[0].mlp.up_proj.weight, teacher.model.layers[0].mlp.up_proj.weight[expected])


def test_gpt2_gets_narrower_feed_forward_layers(tokenizer: Any, tmp_path: Path) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=512)).eval()
    with torch.no_grad():
        for block in gpt2.transformer.h:
            block.mlp.c_proj.weight[8:] = 0
    student = make_student(gpt2, layers=2, intermediate_size=8, tokenizer=tokenizer)
    torch.testing.assert_close(logits(student), logits(gpt2))
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(student))
    with pytest.raises(InputError, match="q_proj, k_proj, v_proj and o_proj"):
        make_student(gpt2, layers=2, heads=2, tokenizer=tokenizer)


def test_narrower_students_bad_input(tokenizer: Any) -> None:
    teacher = lm_toys.tiny_model(seed=2, layers=2)
    for size in (0, 65, True):
        with pytest.raises(InputError, match="intermediate_size: expected 1 to 64"):
            make_student(teacher, layers=2, intermediate_size=size)
    for heads in (0, 3, 6, True):
        with pytest.raises(InputError, match="heads: expected 1 to 4, the teacher's, a multiple of 2"):
            make_student(teacher, layers=2, heads=heads)
    for narrow in ({"heads": 2}, {"intermediate_size": 3}):
        with pytest.raises(InputError, match="give the teacher's tokenizer"):
            make_student(teacher, layers=2, **narrow)
    teacher.model.layers[0].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(InputError, match="more than can be cut here"):
        make_student(teacher, layers=[0], heads=2, tokenizer=tokenizer)


def test_a_run_makes_it_from_its_settings(tmp_path: Path, teacher_folder: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in lm_toys.instruction_rows(6)))
    student = LmStudent(heads=2, intermediate_size=16)
    settings = LmRun(student, LmData(str(rows), template="plain"), teacher=LmTeacher(str(teacher_folder)))
    assert LmRun.from_dict(settings.to_dict()) == settings
    made = load_parts(settings, tmp_path / "unused", progress=False).student(settings)
    config = made.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (2, 2, 16)
