"""transformers' Trainer with exact resumption, whole checkpoints, and a loss independent of batching."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.trainer import Trainer
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from abkd.engine._best import BestWeights
from abkd.engine._callbacks import EpochCallback
from abkd.engine._checkpoint import check_fits, checkpoint_to_resume, read_progress, write_progress
from abkd.engine._data_checks import check_batches, check_filled
from abkd.errors import AbkdError, InputError
from abkd.storage import STAGED_PREFIX, replace_folder, room_in, write_manifest

_STATE_FILE = "trainer_state.json"


class TrainingError(AbkdError):
    """A training that cannot go on: its loss is no longer a number."""


class EngineTrainer(Trainer):
    """What the image and the language trainer share. A subclass says what the loss is and what it is a mean
    over.

    The loss of a step is the mean over all items (images, tokens) of the step, whatever their division into
    accumulation steps and ranks. A checkpoint is written under a temporary name, with checksums, and then
    renamed; it holds the best weights so far and the running sum of the loss, so that a run that was killed
    and resumed ends with the same bits as one that was not. A loss that is not finite ends the training.

    Args:
        model: the student.
        args: transformers' training arguments.
        train_dataset, eval_dataset: may each be None; must not be empty.
        select_by: the metric by which `best` is chosen, or None to keep no best weights.
        larger_is_better: its direction, for a metric that is not in `metrics`.
        **options: of transformers' Trainer.

    Attributes:
        metrics: whether larger is better, by the name of each metric that an evaluation gives and that the best
            weights can be chosen by; of the class.
        best: the best weights so far; None without `select_by`.

    Raises:
        InputError: an empty data set, batches larger than the data where incomplete batches are dropped, or an unknown
            metric in `select_by`.
    """

    metrics: Mapping[str, bool] = MappingProxyType({})
    loss_is_scaled_for_ga = True  # transformers' attribute: `compute_loss` has divided by all items of the step

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        select_by: str | None = None,
        larger_is_better: bool | None = None,
        **options: Any,
    ) -> None:
        check_filled("train_dataset", train_dataset)
        check_filled("eval_dataset", eval_dataset)
        check_batches(args, train_dataset)
        self.best = None if select_by is None else BestWeights.by(select_by, self.metrics, larger_is_better)
        self._staging: Path | None = None
        self._resumed: dict[str, Any] | None = None
        options["callbacks"] = [EpochCallback(self), *(options.get("callbacks") or [])]
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **options,
        )
        self.remove_callback(PrinterCallback)

    # What a subclass defines.

    def count_items(self, batch: Any) -> int:
        """How many items (images, tokens) the loss of a batch is a mean over."""
        raise NotImplementedError

    def mean_loss(self, model: nn.Module, inputs: Any) -> tuple[Tensor, Any]:
        """The mean loss over the items of a batch, and the model's output."""
        raise NotImplementedError

    def prepare_batches(self, batches: list[Any]) -> list[Any]:
        """The batches of a step as they are trained on, before their items are counted; unchanged here."""
        return batches

    def write_state(self, folder: Path) -> None:
        """Write what else a resumed run needs to a checkpoint that is being made; called on every rank."""

    def read_state(self, folder: Path) -> None:
        """Read what `write_state` wrote."""

    # The loss, normalised once over everything that makes up a step.

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of a step and the number of items in all of them, on all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = self.prepare_batches(batches)
        count = torch.tensor(sum(self.count_items(batch) for batch in batches), device=device)
        if self.args.world_size > 1:
            count = torch.sum(cast("Tensor", self.accelerator.gather(count.reshape(1))))
        return batches, int(count)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The batch's part in the mean loss of the step; its own mean without `num_items_in_batch`."""
        loss, outputs = self.mean_loss(model, inputs)
        if num_items_in_batch is not None:
            # Ranks average their gradients, so each part is scaled up by their number.
            # A step without any item has a loss of 0.
            loss = loss * (self.count_items(inputs) * self.args.world_size / max(num_items_in_batch, 1))
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One forward and backward pass.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise TrainingError(self.not_finite(f"the loss is {loss.item()}"))
        return loss

    def not_finite(self, what: str) -> str:
        """The message for a training that left the finite numbers."""
        return (
            f"training stopped at step {self.state.global_step + 1} "
            f"(epoch {self.state.epoch or 0:.2f}): {what}; "
            "lower learning_rate or the weights of the loss, set max_grad_norm, or check the data"
        )

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **options: Any) -> Any:
        """Make a loader; `dataloader_drop_last` leaves samples out of training only, never out of a measure."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **options)
        finally:
            self.args.dataloader_drop_last = drop_last

    # Resumption and checkpoints.

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; see transformers' Trainer.

        Args:
            resume_from_checkpoint: True for the newest complete checkpoint in `args.output_dir`
                (half-written or damaged ones are passed over), or the path of one.
            trial: of a hyper-parameter search.
            ignore_keys_for_eval: keys of the model's output to leave out in evaluation.

        Raises:
            InputError: there are no data to train on, there is nothing to resume from, or the checkpoint is of
                another model or optimiser.
            CorruptFileError: the checkpoint named is not whole.
            TrainingError: the loss is NaN or infinite.
        """
        if self.train_dataset is None:
            raise InputError("train_dataset is None: give the trainer the data to train on")
        folder = checkpoint_to_resume(resume_from_checkpoint, str(self.args.output_dir))
        self._resumed = None
        if self.best is not None:
            self.best.clear()
        if folder is not None:
            check_fits(folder, cast("nn.Module", self.model))
            self._resumed = read_progress(folder)
            if self._resumed is not None and self.best is not None:
                self.best.load(folder, self._resumed["best"])
            self.read_state(folder)
        on_start = self.args.eval_on_start
        self.args.eval_on_start = on_start and folder is None  # a resumed run has been evaluated at its start
        try:
            return super().train(None if folder is None else str(folder), trial, ignore_keys_for_eval)
        finally:
            self.args.eval_on_start = on_start

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """One epoch; no step of it where the last one lies behind the checkpoint, which transformers does not ask."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, and refuse the state of another optimiser before it fails in a step."""
        optimizer = cast("Any", self.optimizer)
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except KeyError as error:
            lacking = [str(error.args[0])]
        else:
            if checkpoint is None or self.is_deepspeed_enabled or self.is_fsdp_enabled:
                return
            lacking = sorted({*optimizer.defaults} - {*optimizer.param_groups[0]})
        if lacking:
            raise InputError(
                f"{checkpoint}: the state of another optimiser, without {', '.join(lacking)}; "
                "resume with the optim that the run was started with"
            )

    def restore_progress(self) -> None:
        """Restore the sum of the losses since the last log, so that a resumed run logs the same numbers."""
        if self._resumed is not None and self.state.global_step < self.state.max_steps:
            self._tr_loss += self._resumed["loss_sum"]
            self._globalstep_last_logged = self._resumed["last_logged_step"]

    def offer_best(self, metrics: dict[str, float]) -> None:
        """Keep the present weights if these metrics are the best so far."""
        if self.best is not None:
            self.best.offer(
                metrics,
                self.accelerator.unwrap_model(self.model),
                self.state.epoch or 0.0,
                self.state.global_step,
            )

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write under a temporary name, then rename; older checkpoints go only after that.

        Raises:
            NoRoomError: the disk is full; what was begun is removed.
        """
        root = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staging = root / f"{STAGED_PREFIX}{name}"
        if self.args.should_save and staging.exists():
            shutil.rmtree(staging)
        self.accelerator.wait_for_everyone()
        try:
            with room_in(root / name):
                self._write_checkpoint(model, trial, staging / name, root / name)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        if self.args.should_save:
            shutil.rmtree(staging)
            self._drop_old(root / name)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(root / name))
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, model: nn.Module, trial: Any, staged: Path, final: Path) -> None:
        self._staging = staged.parent
        try:
            super()._save_checkpoint(model, trial)
            self.write_state(staged)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)  # on every rank: each loads from there
        losses = torch.as_tensor(self._tr_loss, dtype=torch.float64, device=self.args.device)
        loss_sum = float(cast("Tensor", self.accelerator.gather(losses.reshape(1))).mean())  # as transformers logs it
        if self.args.should_save:
            self._complete(staged, final, loss_sum)

    def _complete(self, staged: Path, final: Path, loss_sum: float) -> None:
        (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
        if self.state.best_model_checkpoint == str(final):
            self.state.save_to_json(str(staged / _STATE_FILE))
        write_progress(
            staged,
            {
                "loss_sum": loss_sum,
                "last_logged_step": self._globalstep_last_logged,
                "best": None if self.best is None else self.best.save(staged),
            },
        )
        write_manifest(staged)
        replace_folder(staged, final)

    def _drop_old(self, newest: Path) -> None:
        """Keep `save_total_limit` checkpoints, the one just written first, and the one transformers calls the best."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        found = [path for path in newest.parent.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
        older = [path for path in found if path != newest]
        older.sort(key=lambda path: (path.stat().st_mtime_ns, int(path.name.removeprefix("checkpoint-"))))
        for path in older[: max(len(older) - limit + 1, 0)]:
            if str(path) != self.state.best_model_checkpoint:
                shutil.rmtree(path, ignore_errors=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Called by transformers on the staged folder, which is renamed first and pushed after that."""


@contextmanager
def in_own_precision(model: Any) -> Generator[None]:
    """A trained model without the autocast that accelerate puts around its forward: in the precision of its weights."""
    trained, own = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = trained
