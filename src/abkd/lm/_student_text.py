"""When the student writes its own text, and what becomes of it."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abkd.errors import CorruptFileError, InputError, MissingPackageError
from abkd.lm._batch import OWN_TEXT, ROLLOUT, counted, model_inputs, own_batch, prompts_of
from abkd.lm._generate import cut_after_end, end_tokens, seeded, write_texts, writing_student
from abkd.lm._hidden import Predictions, base_of, call_with_head, found_at
from abkd.lm._minillm import remember
from abkd.lm._policy_settings import PolicyGradient
from abkd.lm._replay import ReplayBuffer, Text
from abkd.lm._student_settings import StudentText
from abkd.storage import atomic_write_json, read_json


class StudentWriter:
    """Replaces a share of a step's batches by text that the student writes, before their tokens are counted.

    What a batch becomes is drawn from the seed, the step and the batch's place in it, so all ranks draw alike and a
    resumed run draws what it would have drawn; so are its texts, on each rank others. Prompts are those of the
    batches themselves, so of the training data alone.

    Args:
        trainer: the trainer.
        settings: of the student's text.
        policy: settings of a policy gradient, whose texts serve several steps; None without one.

    An adaptive share follows the validation loss as in DistiLLM's published code: the loss before the first step is
    the anchor; an evaluation that is at least `tolerance` above the anchor lets the share grow and is the anchor from
    then on. No other evaluation moves it, so a loss that rises slowly is noticed as well.

    Attributes:
        share: of the batches, at present.
    """

    def __init__(self, trainer: Any, settings: StudentText, policy: PolicyGradient | None) -> None:
        self._trainer, self._settings, self._policy = trainer, settings, policy
        self.share = settings.share
        self._anchor: float | None = None
        self._replay = ReplayBuffer(settings.replay) if settings.replay > 0 else None
        self._kept: list[dict[str, Any]] = []
        self._pad: int = trainer._tokenizer.pad_token_id
        self._ends = end_tokens(base_of(trainer.model), trainer._tokenizer)
        self._vllm = None if settings.vllm is None else VllmWriter(trainer, settings, settings.vllm)

    def prepare(self, batches: list[Any]) -> list[Any]:
        """The batches of a step, some of them replaced."""
        if self._settings.schedule == "adaptive" and self._anchor is None:
            self.after_evaluation(self._trainer.validation_nll())
        policy, step = self._policy, self._trainer.state.global_step
        if policy is not None and step % policy.epochs and len(self._kept) >= len(batches):
            return self._kept[: len(batches)]
        prepared = [self._one(batch, place) for place, batch in enumerate(batches)]
        self._kept = prepared if policy is not None and policy.epochs > 1 else []
        return prepared

    def after_evaluation(self, nll: float | None) -> None:
        """Let the validation loss (nats a token) say whether the student should write more; the first is the anchor.

        Raises:
            InputError: an adaptive share without a validation loss.
        """
        if self._settings.schedule != "adaptive":
            return
        if nll is None:
            raise InputError("an adaptive share of student text is led by the evaluation's nll, which is missing")
        if self._anchor is None:
            self._anchor = nll
        elif nll >= self._anchor + self._settings.tolerance:
            self.share = min(self.share + self._settings.growth, 1.0)
            self._anchor = nll

    def _one(self, batch: dict[str, Any], place: int) -> dict[str, Any]:
        if self._chance(place, "share").random() >= self.share:
            return batch
        prompts = prompts_of(batch)
        texts = self._replayed(len(prompts), place)
        if texts is None:
            with self._seeded(place):
                texts = list(zip(prompts, self.write(prompts), strict=True))
            if self._replay is not None:
                self._replay.add(texts)
        own = own_batch([text[0] for text in texts], [text[1] for text in texts], self._pad, batch["input_ids"].device)
        return own if self._policy is None else {**own, ROLLOUT: self._moment(own, self._policy)}

    def _replayed(self, count: int, place: int) -> list[Text] | None:
        """Texts from the full buffer, more often as the run goes on; None when new ones are to be written."""
        if self._replay is None or not self._replay.full:
            return None
        if self._chance(place, "replay").random() >= self._trainer.progress():
            return None
        return self._replay.draw(count, self._chance(place, f"texts of rank {self._trainer.args.process_index}"))

    def write(self, prompts: list[list[int]]) -> list[list[int]]:
        """The present student's continuations of prompts, as token ids."""
        if self._vllm is not None:
            return [cut_after_end(row, self._ends) for row in self._vllm.write(prompts)]
        mix = None
        if self._settings.teacher_mix > 0:
            mix = (self._trainer.teacher.model, self._settings.teacher_mix)
        trainer = self._trainer
        with writing_student(trainer) as student, _whole_parameters(trainer):
            return write_texts(
                student,
                prompts,
                self._settings.decoding(),
                pad=self._pad,
                ends=self._ends,
                vocabulary=trainer.vocabulary,
                mixed_with=mix,
            )

    @torch.no_grad()
    def _moment(self, batch: dict[str, Any], policy: PolicyGradient) -> dict[str, Tensor]:
        trainer, keep = self._trainer, counted(batch)
        targets = trainer.teacher.targets_for(batch)
        labels = batch["labels"][:, 1:][keep]

        def use_head(found: Predictions) -> dict[str, Tensor]:
            rows = found_at(found, keep).of_classes(trainer.vocabulary)
            return remember(rows, targets, labels, keep, policy, self._settings.teacher_mix)

        student = trainer.model_wrapped
        student.eval()
        return call_with_head(student, model_inputs(batch), use_head)

    def _seeded(self, place: int) -> AbstractContextManager[None]:
        """Torch's generators in a state of this batch's own for a while: a resumed run restores theirs only later."""
        rank = self._trainer.args.process_index
        seed = self._chance(place, f"writing of rank {rank}").getrandbits(63)
        return seeded(self._trainer.args.device, seed)

    def _chance(self, place: int, what: str) -> random.Random:
        seed = self._trainer.args.seed
        return random.Random(f"{seed}, step {self._trainer.state.global_step}, batch {place}, {what}")

    # Checkpoints.

    def save(self, folder: Path, rank: int) -> None:
        """Write the share and what is kept to a checkpoint's folder, each rank its own."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(
            _fields_path(folder, rank), {"share": self.share, "anchor": self._anchor, "kept": len(self._kept)}
        )
        tensors = {} if self._replay is None else self._replay.tensors()
        for place, batch in enumerate(self._kept):
            tensors |= {f"{place}.{name}": value for name, value in _flat(batch).items()}
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, _tensors_path(folder, rank))

    def load(self, folder: Path, rank: int) -> None:
        """Read what `save` wrote.

        Raises:
            CorruptFileError: the checkpoint has none of it: it is of a run without student text.
        """
        from safetensors.torch import load_file

        if not _fields_path(folder, rank).is_file():
            raise CorruptFileError(
                f"{folder}: no {_fields_path(folder, rank).name}; it is of a run without student text"
            )
        fields, tensors = read_json(_fields_path(folder, rank)), load_file(_tensors_path(folder, rank))
        self.share, self._anchor = fields["share"], fields["anchor"]
        if self._replay is not None:
            self._replay.load(tensors)
        device = self._trainer.args.device
        self._kept = [_unflat(tensors, f"{place}.", device) for place in range(fields["kept"])]


class VllmWriter:
    """Text written by vLLM through TRL's `VLLMGeneration`, which also sends it the present weights.

    Not run here: it needs vLLM and an accelerator. Tests run it against a stand-in of TRL's class.

    Raises:
        MissingPackageError: vllm is not installed.
    """

    def __init__(self, trainer: Any, settings: StudentText, options: Any) -> None:
        from trl.generation import vllm_generation
        from trl.import_utils import is_vllm_available

        if not is_vllm_available():
            raise MissingPackageError("student_text.vllm needs the package vllm: pip install vllm")
        self._trainer = trainer
        self._synced = -1
        arguments: dict[str, Any] = {
            "model": trainer.model,
            "accelerator": trainer.accelerator,
            "processing_class": trainer.processing_class,
            "temperature": settings.generation_temperature,
            "top_p": settings.top_p,
            "top_k": 0,
            "max_completion_length": settings.max_new_tokens,
            "logprobs": None,
        }
        self._vllm: Any = vllm_generation.VLLMGeneration(**{**arguments, **options})

    def write(self, prompts: list[list[int]]) -> list[list[int]]:
        """Continuations of prompts, as token ids."""
        step = self._trainer.state.global_step
        if step != self._synced:
            self._vllm.sync_weights()
            self._synced = step
        return self._vllm.generate(prompts=prompts, images=None, num_generations=1)[1]


def _whole_parameters(trainer: Any) -> AbstractContextManager[Any]:
    """FSDP's root parameters gathered while text is written (not run here), else nothing."""
    if not trainer.is_fsdp_enabled:
        return nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel.summon_full_params(trainer.model_wrapped, recurse=False)


def _flat(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a batch the student wrote, its rollout's among them."""
    flat = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    return flat | {f"{ROLLOUT}.{name}": value for name, value in batch.get(ROLLOUT, {}).items()}


def _unflat(tensors: dict[str, Tensor], prefix: str, device: Any) -> dict[str, Any]:
    found = {name.removeprefix(prefix): value.to(device) for name, value in tensors.items() if name.startswith(prefix)}
    inner = {name: found.pop(name) for name in list(found) if name.startswith(f"{ROLLOUT}.")}
    moment = {name.removeprefix(f"{ROLLOUT}."): value for name, value in inner.items()}
    return {**found, OWN_TEXT: True, ROLLOUT: moment}


def _fields_path(folder: Path, rank: int) -> Path:
    return folder / f"student_text-{rank}.json"


def _tensors_path(folder: Path, rank: int) -> Path:
    return folder / f"student_text-{rank}.safetensors"
