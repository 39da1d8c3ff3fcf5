"""One of two processes with FSDP2 shards (gloo, on the CPU): `torchrun ... sharded_lm.py FOLDER`.

Not a test; `test_sharded_lm.py` starts it. accelerate refuses FSDP without accelerators, so what the trainer does is
done here by hand: the student sharded by torch, the teacher by TRL through `TeacherModel`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_toys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from abkd import AlphaBeta
from abkd.lm._batch import counted, model_inputs
from abkd.lm._hidden import Predictions, add_head_call, call_with_head, found_at
from abkd.lm._objective import Objective, objective_loss
from abkd.lm._teacher import TeacherModel

HEADS = {"tied": True, "apart": False}
OBJECTIVE = Objective(AlphaBeta(0.2, 0.7), 1.0)


def batch(rank: int) -> dict[str, torch.Tensor]:
    """Two rows of this rank, a prompt of four tokens each."""
    ids = torch.randint(4, lm_toys.VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(rank))
    labels = ids.clone()
    labels[:, :4] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def models(heads: str) -> tuple[Any, Any]:
    """Student and teacher, their head tied to the embeddings or not."""
    tied = HEADS[heads]
    student = lm_toys.tiny_model(seed=1, tie_word_embeddings=tied)
    add_head_call(student)
    return student, lm_toys.tiny_model(seed=2, tie_word_embeddings=tied)


def teacher_of(model: Any, *, sharded: bool) -> TeacherModel:
    """The teacher as a trainer would place it."""
    plugin = SimpleNamespace(
        fsdp_version=2,
        reshard_after_forward=True,
        cpu_offload=None,
        mixed_precision_policy=None,
        ignored_modules=None,
        auto_wrap_policy=None,
    )
    accelerator = SimpleNamespace(device=torch.device("cpu"), state=SimpleNamespace(fsdp_plugin=plugin))
    trainer = SimpleNamespace(is_deepspeed_enabled=False, is_fsdp_enabled=sharded, accelerator=accelerator)
    return TeacherModel(model, trainer, lm_toys.VOCABULARY)


def loss_of(student: Any, teacher: TeacherModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The trainer's loss, inside the student's forward."""
    targets, keep = teacher.targets_for(inputs), counted(inputs)

    def use_head(found: Predictions) -> torch.Tensor:
        rows = found_at(found, keep).of_classes(lm_toys.VOCABULARY)
        return objective_loss(rows, targets, inputs["labels"][:, 1:][keep], OBJECTIVE)

    return call_with_head(student, model_inputs(inputs), use_head)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for heads in HEADS:
        student, model = models(heads)
        teacher = teacher_of(model, sharded=True)
        for layer in student.model.layers:
            fully_shard(layer)
        if not HEADS[heads]:
            fully_shard(student.lm_head)  # a unit of its own: still a shard where the loss reads it
        fully_shard(student)
        loss = loss_of(student, teacher, batch(rank))
        loss.backward()
        gradients = {name: value.grad.full_tensor() for name, value in student.named_parameters()}
        shards = {"student": _spread(student), "teacher": _spread(teacher.model)}
        found = {"loss": float(loss.detach()), "gradients": gradients, "spread": shards}
        torch.save(found, folder / f"{heads}-{rank}.pt")
    dist.destroy_process_group()


def _spread(model: Any) -> bool:
    """Whether every parameter is a shard."""
    return all(hasattr(parameter, "full_tensor") for parameter in model.parameters())


if __name__ == "__main__":
    main()
    # gloo's threads may abort while the interpreter ends (pytorch issue 190489); after FSDP2 they outlive their group
    os._exit(0)
