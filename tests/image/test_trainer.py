"""The image trainer: loss, accumulation, optimisers, schedules, choice of the epoch, bad input."""

import math

import pytest
import torch
from torch import nn
from trainer_toys import CLASSES, Images, config, same_bits, student, teacher, trainer
from transformers import TrainingArguments

import abkd
from abkd.engine import MetricsLog, TrainingError
from abkd.errors import AbkdError, InputError
from abkd.image import DistillationConfig, DistillationTrainer, collate_images
from abkd.image.objectives import METHODS
from abkd.image.objectives import by_name as objective_by_name
from abkd.teachers import LiveTeacher, MemoryTeacher


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}


class InDouble(nn.Module):
    """Computes in double precision, so that only real differences show."""

    def forward(self, images):
        return images.double()


def in_double():
    return nn.Sequential(InDouble(), student(norm=False, dropout=0.0).double())


def plain_loop(model, data, objective, *, steps, lr, batch=8):
    """The same training without transformers, over batches in the data's own order."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    frozen = teacher()
    model.train()
    for step in range(steps):
        images = data.images[step * batch : (step + 1) * batch]
        labels = data.labels[step * batch : (step + 1) * batch]
        loss = objective(model(images), frozen(images), labels, epoch=step * batch / len(data))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("method", ["kd", "dkd", "abkd", "ablsd", "dist"])
def test_trains_what_a_plain_loop_trains(tmp_path, method):
    data = Images(40)
    run = trainer(
        tmp_path,
        model=student(dropout=0.0),
        train=data,
        method=method,
        num_train_epochs=1,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        save_strategy="no",
    )
    run.train()
    expected = plain_loop(student(dropout=0.0), data, objective_by_name(method), steps=5, lr=0.05)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


def test_a_schedule_trains_what_a_plain_loop_with_each_steps_weight_trains(tmp_path):
    data = Images(40)
    run = trainer(
        tmp_path,
        model=student(dropout=0.0),
        train=data,
        method="kd",
        kd_weight={"from": 1.0, "to": 0.0},
        num_train_epochs=1,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        save_strategy="no",
    )
    run.train()

    def objective(*batch, epoch):  # the only one: its share that is done is the run's
        return objective_by_name("kd", kd_weight=1.0 - epoch)(*batch, epoch=epoch)

    expected = plain_loop(student(dropout=0.0), data, objective, steps=5, lr=0.05)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["sft", "kd", "abkd"])
def test_eight_steps_of_one_are_one_step_of_eight(tmp_path, method):
    results = []
    for batch, accumulation in ((8, 1), (1, 8), (3, 3)):
        run = trainer(
            tmp_path / f"{batch}",
            model=in_double(),
            train=Images(8),
            method=method,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=3,
            save_strategy="no",
        )
        run.train()
        losses = [line["loss"] for line in run.state.log_history if "loss" in line]
        assert run.state.global_step == 3
        results.append((weights(run), losses))
    for other, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], rel=1e-6)
        for name, tensor in results[0][0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-9)


def test_the_last_incomplete_step_is_a_mean_over_its_own_images(tmp_path):
    """10 images, 4 a step: the last step has 2, in batches of 1, and weighs them by half each."""
    outcomes = []
    for batch, accumulation in ((4, 1), (1, 4)):
        run = trainer(
            tmp_path / f"{batch}",
            model=in_double(),
            train=Images(10),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            save_strategy="no",
        )
        run.train()
        outcomes.append(weights(run))
    for name, tensor in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], tensor, rtol=1e-6, atol=1e-9)


def test_dist_goes_through_last_batches_of_one_image(tmp_path):
    run = trainer(
        tmp_path, method="dist", train=Images(9), validation=Images(5, seed=9), num_train_epochs=1,
        per_device_train_batch_size=4, per_device_eval_batch_size=4, save_strategy="no",
    )  # fmt: skip
    run.train()
    assert run.state.global_step == 3
    (loss,) = [line["eval_loss"] for line in run.state.log_history if "eval_loss" in line]
    assert math.isfinite(loss)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_a_seed_fixes_everything_and_another_seed_differs(tmp_path):
    outcomes = []
    for index, seed in enumerate((0, 0, 1)):
        run = trainer(tmp_path / f"{index}", seed=seed, train=Images(40, augment=True), save_strategy="no")
        run.train()
        outcomes.append(weights(run))
    assert same_bits(outcomes[0], outcomes[1])
    assert not same_bits(outcomes[0], outcomes[2])


def test_loss_falls_and_is_logged(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    run = trainer(
        tmp_path / "run", validation=Images(30, seed=9), num_train_epochs=6, taught=False, method="sft",
        callbacks=[log], model=student(dropout=0.0),
    )  # fmt: skip
    run.train()
    import json

    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    accuracies = [line["eval_accuracy"] for line in lines if "eval_accuracy" in line]
    assert len(losses) == len(accuracies) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert accuracies[-1] > 0.8
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15, 20, 25, 30]
    assert {"eval_top5", "eval_nll", "eval_ece", "eval_loss"} <= set(lines[1])
    assert "eval_agreement" not in lines[1]


def test_the_best_epoch_is_the_first_best_on_the_validation_split(tmp_path):
    run = trainer(tmp_path, validation=Images(30, seed=9), num_train_epochs=5, save_strategy="no")
    snapshots = []
    original = run.evaluate

    def spy(*args, **kwargs):
        metrics = original(*args, **kwargs)
        snapshots.append((metrics["eval_accuracy"], weights(run), metrics))
        return metrics

    run.evaluate = spy
    run.train()
    values = [value for value, *_ in snapshots]
    first = values.index(max(values))
    assert run.best.epoch == first + 1
    assert run.best.value == max(values)
    assert same_bits(run.best.weights, snapshots[first][1])
    assert 0 <= snapshots[0][2]["eval_agreement"] <= 1


def test_selection_by_a_loss_takes_the_smallest(tmp_path):
    run = trainer(tmp_path, validation=Images(30, seed=9), num_train_epochs=4, select_by="nll", save_strategy="no")
    run.train()
    values = [line["eval_nll"] for line in run.state.log_history if "eval_nll" in line]
    assert run.best.value == min(values)
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        trainer(tmp_path, validation=Images(4), select_by="acuracy")


def test_own_metrics_get_the_student_alone(tmp_path):
    seen = []

    def own(prediction):
        seen.append(prediction.predictions.shape)
        return {"half": 0.5}

    run = DistillationTrainer(
        student(), teacher(), config(tmp_path, select_by="half", greater_is_better=True, save_strategy="no"),
        train_dataset=Images(16), eval_dataset=Images(6), compute_metrics=own,
    )  # fmt: skip
    run.train()
    assert seen == [(6, CLASSES)] * 2
    assert (run.best.value, run.best.epoch) == (0.5, 1.0)


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("all_decay", [True, False])
def test_optimisers_and_what_decays(tmp_path, optim, all_decay):
    extra = {"momentum": 0.8, "nesterov": True} if optim == "sgd" else {}
    run = trainer(tmp_path, optim=optim, decay_norm_and_bias=all_decay, weight_decay=0.1, **extra)
    optimiser = run.create_optimizer()
    decaying = sum(p.numel() for g in optimiser.param_groups if g["weight_decay"] for p in g["params"])
    everything = sum(p.numel() for p in run.model.parameters())
    assert decaying == everything if all_decay else decaying < everything
    if optim == "sgd":
        assert isinstance(optimiser, torch.optim.SGD)
        assert all(g["momentum"] == 0.8 and g["nesterov"] for g in optimiser.param_groups)
    else:
        assert isinstance(optimiser, torch.optim.AdamW)


def learning_rates(folder, **options):
    run = trainer(folder, logging_strategy="steps", logging_steps=1, save_strategy="no", **options)
    run.train()
    return [line["learning_rate"] for line in run.state.log_history if "learning_rate" in line]


def test_multi_step_and_cosine_schedules(tmp_path):
    rates = learning_rates(
        tmp_path, num_train_epochs=4, lr_milestones=[1, 3], lr_gamma=0.1, learning_rate=1.0, kd_weight=0.0
    )
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 10 + [0.01] * 5)
    rates = learning_rates(tmp_path, num_train_epochs=2, learning_rate=0.4)
    assert rates == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    rates = learning_rates(tmp_path, num_train_epochs=1, lr_milestones=[0.8], warmup_steps=2, learning_rate=0.3)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.03])


def test_milestones_are_of_the_batch_size_that_was_found(tmp_path):
    run = trainer(tmp_path, lr_milestones=[1], auto_find_batch_size=True)
    run._train_batch_size = 4  # what transformers goes on with when 8 do not fit into memory
    run.create_optimizer_and_scheduler(20)
    factor = run.lr_scheduler.lr_lambdas[0]
    assert [factor(step) for step in (9, 10)] == [1.0, 0.1]


def test_scheduled_settings_change_over_the_run(tmp_path):
    run = trainer(tmp_path, method="kd", kd_weight={"from": 1.0, "to": 0.0, "until": 0.5}, save_strategy="no")
    assert [run._objectives.at(p).kd_weight for p in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.5, 0.0, 0.0]
    run = trainer(tmp_path, divergence={"name": "alpha_beta", "alpha": {"from": 1.0, "to": 0.2}, "beta": 0.5})
    assert run._objectives.at(0.5).divergence == abkd.AlphaBeta(0.6, 0.5)
    with pytest.raises(InputError, match=r"kd_weight"):
        trainer(tmp_path, method="kd", kd_weight={"from": 1.0, "to": -1.0})


def test_bf16_on_the_cpu(tmp_path):
    run = trainer(tmp_path, bf16=True, validation=Images(12), save_strategy="no")
    run.train()
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    assert all(math.isfinite(line["loss"]) for line in run.state.log_history if "loss" in line)
    exact = trainer(tmp_path, validation=Images(12), save_strategy="no")
    exact.train()
    assert not same_bits(weights(run), weights(exact))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains(tmp_path, method):
    run = trainer(tmp_path, method=method, num_train_epochs=1, train=Images(16), save_strategy="no")
    before = weights(run)
    run.train()
    assert not same_bits(before, weights(run))


def test_an_objective_object_and_a_teacher_with_a_memory(tmp_path):
    live = LiveTeacher.frozen(teacher())
    outcomes = []
    for taught in (live, MemoryTeacher(live)):
        run = DistillationTrainer(
            student(), taught, config(tmp_path, eval_strategy="no", save_strategy="no"),
            train_dataset=Images(24), objective=objective_by_name("abkd"),
        )  # fmt: skip
        run.train()
        outcomes.append(weights(run))
    for name, tensor in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], tensor)
    with pytest.raises(InputError, match="method, temperature in args would have no effect"):
        DistillationTrainer(
            student(), live, config(tmp_path, method="kd", temperature=2.0, eval_strategy="no"),
            objective=objective_by_name("abkd"),
        )  # fmt: skip


def test_the_teacher_is_never_changed(tmp_path):
    frozen = teacher()
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    run = DistillationTrainer(
        student(), frozen, config(tmp_path, save_strategy="no"), train_dataset=Images(24), eval_dataset=Images(8)
    )
    run.train()
    assert same_bits(before, frozen.state_dict())
    assert not frozen.training
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_a_teacher_that_could_change_is_refused_at_the_constructor(tmp_path):
    for wrong in (student(), student().eval(), student().requires_grad_(False)):
        with pytest.raises(InputError, match=r"the teacher must be frozen.*eval\(\)\.requires_grad_\(False\)"):
            DistillationTrainer(student(), wrong, config(tmp_path, eval_strategy="no"), train_dataset=Images(8))


def test_a_missing_teacher_and_other_classes(tmp_path):
    with pytest.raises(InputError, match="'abkd' needs a teacher"):
        trainer(tmp_path, taught=False)
    mine, theirs = student(), teacher(classes=6)
    mine.num_classes, theirs.num_classes = CLASSES, 6
    with pytest.raises(InputError, match="student has 4 classes and the teacher 6"):
        DistillationTrainer(mine, theirs, config(tmp_path, eval_strategy="no"), train_dataset=Images(8))
    silent = DistillationTrainer(
        student(), teacher(classes=6), config(tmp_path, eval_strategy="no"), train_dataset=Images(8)
    )
    with pytest.raises(InputError, match="student has 4 classes and the teacher 6"):
        silent.train()


def test_empty_data_and_missing_splits(tmp_path):
    with pytest.raises(InputError, match="train_dataset is empty"):
        trainer(tmp_path, train=Images(0))
    with pytest.raises(InputError, match="eval_dataset is empty"):
        trainer(tmp_path, validation=Images(0))
    with pytest.raises(InputError, match="eval_strategy needs an eval_dataset"):
        trainer(tmp_path, eval_strategy="epoch")
    with pytest.raises(InputError, match="eval_on_start needs an eval_dataset"):
        trainer(tmp_path, eval_on_start=True)
    with pytest.raises(InputError, match="fewer than one batch of 8"):
        trainer(tmp_path, train=Images(5), dataloader_drop_last=True)
    with pytest.raises(InputError, match="persistent_workers"):
        trainer(tmp_path, dataloader_persistent_workers=True, dataloader_num_workers=1)


def test_labels_out_of_range_are_named(tmp_path):
    data = Images(8)
    data.labels[5] = CLASSES
    with pytest.raises(InputError, match="label"):
        trainer(tmp_path, train=data, method="sft", taught=False).train()


@pytest.mark.parametrize("method", ["sft", "abkd"])
def test_a_loss_that_is_not_a_number_ends_the_run_and_names_the_step(tmp_path, method):
    data = Images(40)
    data.images[17] = float("nan")
    run = trainer(tmp_path, train=data, method=method, train_sampling_strategy="sequential")
    with pytest.raises(TrainingError, match=r"stopped at step 3 .*(not finite|nan).*lower learning_rate") as caught:
        run.train()
    assert isinstance(caught.value, AbkdError)
    assert caught.value.exit_code == 1


def test_a_diverging_run_is_stopped(tmp_path):
    run = trainer(
        tmp_path, method="sft", taught=False, learning_rate=1e30, num_train_epochs=20, model=student(norm=False)
    )
    with pytest.raises(TrainingError, match="training stopped at step"):
        run.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.2}, "alpha and beta belong together"),
        ({"alpha": 0.2, "beta": 0.7, "divergence": {"name": "forward_kl"}}, "not both"),
        ({"divergence": {"alpha": 0.2}}, "'name' is missing"),
        ({"divergence": {"name": "forward_lk"}}, "did you mean 'forward_kl'"),
        ({"method": "abdk"}, "did you mean"),
        ({"method_settings": {"temprature": 2.0}}, "did you mean 'temperature'"),
        ({"temperature": 2.0, "method_settings": {"temperature": 2.0}}, "given twice"),
        ({"temperature": 0.0}, "temperature"),
        ({"optim": "adamw_torch", "nesterov": True}, 'need optim="sgd"'),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "above 0"),
        ({"lr_milestones": [3, 2]}, "growing epochs"),
        ({"lr_milestones": [2], "lr_scheduler_type": "cosine"}, "schedule of its own"),
        ({"lr_gamma": 0.0}, r"lr_gamma must be in"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, **options)


def test_plain_settings_are_checked_and_wrapped(tmp_path):
    made = DistillationConfig.from_settings({"learning_rate": 0.1, "use_cpu": True}, output_dir=str(tmp_path))
    assert (made.learning_rate, made.optim, made.report_to) == (0.1, "sgd", [])
    with pytest.raises(InputError, match=r"training\.learning_rat: unknown key; did you mean 'learning_rate'"):
        DistillationConfig.from_settings({"learning_rat": 0.1})
    with pytest.raises(InputError, match=r"training\.seed: set elsewhere"):
        DistillationConfig.from_settings({"seed": 1}, seed=2)
    with pytest.raises(InputError, match=r"training: .*everyday"):
        DistillationConfig.from_settings({"save_strategy": "everyday"})
    plain = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(InputError, match="got TrainingArguments"):
        DistillationTrainer(student(), teacher(), plain)


def test_collating_dicts_and_pairs():
    image = torch.rand(1, 2, 2)
    for sample in ({"pixel_values": image, "labels": 2}, {"image": image, "label": 2}, (image, 2)):
        batch = collate_images([sample, sample])
        assert batch["pixel_values"].shape == (2, 1, 2, 2)
        assert batch["labels"].tolist() == [2, 2]
    for wrong in ({"pixels": image}, image, (image,), "x"):
        with pytest.raises(InputError, match="expected samples"):
            collate_images([wrong])
    with pytest.raises(InputError, match="one shape"):
        collate_images([(image, 0), (torch.rand(1, 3, 3), 1)])


def test_a_student_of_transformers(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(
        ResNetConfig(
            num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=CLASSES, layer_type="basic"
        )
    )
    assert isinstance(model, nn.Module)
    run = trainer(tmp_path, model=model, train=Images(16), num_train_epochs=1)
    run.train()
    assert (tmp_path / "checkpoint-2" / "config.json").is_file()


def test_incomplete_batches_are_dropped_in_training_only(tmp_path):
    validation = Images(13)
    held = trainer(tmp_path, validation=validation, dataloader_drop_last=True, per_device_eval_batch_size=8)
    held.evaluate()
    assert min(validation.reads) == 1
    assert len(held.get_train_dataloader()) == 5
    assert len(held.get_test_dataloader(validation)) == 2
    assert held.args.dataloader_drop_last


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ((torch.zeros(1, 2, 2), 0.5), "whole number"),
        ((torch.zeros(1, 2, 2), "cat"), "whole number"),
        ((object(), 1), "tensors"),
    ],
)
def test_samples_that_are_no_images_with_labels(sample, said):
    with pytest.raises(InputError, match=said):
        collate_images([sample])


def test_an_objective_or_divergence_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="objective: expected"):
        DistillationTrainer(
            student(), None, config(tmp_path, eval_strategy="no"), train_dataset=Images(8), objective="kd"
        )
    with pytest.raises(InputError, match="divergence: expected"):
        trainer(tmp_path, divergence=abkd.AlphaBeta(0.8, 0.2))


def test_nothing_to_train_on_and_the_state_of_another_optimiser(tmp_path):
    with pytest.raises(InputError, match="train_dataset is None"):
        DistillationTrainer(student(), teacher(), config(tmp_path, eval_strategy="no")).train()
    trainer(tmp_path, num_train_epochs=1).train()
    with pytest.raises(InputError, match="another optimiser"):
        trainer(tmp_path, optim="adamw_torch").train(resume_from_checkpoint=True)
