"""Held-out splits, small training sets, and augmentation that depends on (seed, epoch, index) alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from abkd.errors import InputError
from abkd.image.data import ImageDataset, base_and_new
from abkd.image.data._augment import augmented, fit
from abkd.image.data._sources import MemoryImages, of_array
from abkd.image.data._split import count_of, stratified


def images(count: int = 12, size: int = 16, channels: int = 3) -> MemoryImages:
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return MemoryImages(pixels, torch.arange(count) % 3)


def all_pixels(data: ImageDataset) -> Tensor:
    return torch.stack([data[index]["pixel_values"] for index in range(len(data))])  # type: ignore[misc]


# Splits


@pytest.mark.parametrize("count", [0, 1, 7, 30, 59, 60])
def test_stratified_keeps_every_share(count: int) -> None:
    labels = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)[torch.randperm(60)]
    chosen, rest = stratified(labels, count, seed=3)
    assert len(chosen) == count
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(60))
    for label, size in ((0, 30), (1, 20), (2, 10)):
        assert abs(int((labels[chosen] == label).sum()) - count * size / 60) < 1


def test_stratified_follows_the_seed() -> None:
    labels = torch.arange(100) % 10
    assert torch.equal(stratified(labels, 30, 1)[0], stratified(labels, 30, 1)[0])
    assert not torch.equal(stratified(labels, 30, 1)[0], stratified(labels, 30, 2)[0])


@pytest.mark.parametrize(("value", "expected"), [(0.1, 20), (1.0, 200), (0.0001, 1), (1, 1), (200, 200)])
def test_shares_and_counts(value: float, expected: int) -> None:
    assert count_of("validation", value, 200) == expected


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, 201, 1.5, True, "0.1", None, float("nan")])
def test_refuses_other_shares(value: Any) -> None:
    with pytest.raises(InputError, match="validation: expected"):
        count_of("validation", value, 200)


def test_base_and_new_classes() -> None:
    assert base_and_new(10) == (range(5), range(5, 10))
    assert base_and_new(101) == (range(51), range(51, 101))
    with pytest.raises(InputError, match="at least 2"):
        base_and_new(1)


# Augmentation


@pytest.mark.parametrize("augment", ["crop-flip", "imagenet"])
def test_depends_on_seed_epoch_and_index_alone(augment: str) -> None:
    data = ImageDataset(images(), range(12), (16, 16), augment=augment)
    first = all_pixels(data)
    torch.manual_seed(99)
    backwards = torch.stack([data[index]["pixel_values"] for index in reversed(range(12))])  # type: ignore[misc]
    assert torch.equal(first, backwards.flip(0))
    data.set_epoch(1)
    second = all_pixels(data)
    assert not torch.equal(first, second)
    data.set_seed(1)
    assert not torch.equal(second, all_pixels(data))
    data.set_seed(0)
    data.set_epoch(0)
    assert torch.equal(first, all_pixels(data))


def test_an_image_looks_the_same_in_a_smaller_training_set() -> None:
    whole = ImageDataset(images(), range(12), (16, 16), augment="crop-flip")
    part = ImageDataset(images(), [3, 8], (16, 16), augment="crop-flip")
    assert torch.equal(all_pixels(whole)[[3, 8]], all_pixels(part))


def test_the_random_state_of_the_run_is_left_alone() -> None:
    data = ImageDataset(images(), range(12), (16, 16), augment="imagenet")
    state = torch.get_rng_state()
    all_pixels(data)
    assert torch.equal(state, torch.get_rng_state())


def test_workers_see_the_epoch_and_change_nothing() -> None:
    data = ImageDataset(images(), range(12), (16, 16), augment="crop-flip")
    loader = DataLoader(data, batch_size=5, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        data.set_epoch(epoch)
        seen = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(seen, all_pixels(data))


def test_survives_copies_and_pickles() -> None:
    data = ImageDataset(images(), [1, 2, 5], (16, 16), augment="crop-flip", seed=4)
    data.set_epoch(2)
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert (other.seed, other.epoch, len(other)) == (4, 2, 3)
        assert torch.equal(all_pixels(other), all_pixels(data))


def test_crop_flip_shifts_by_at_most_an_eighth() -> None:
    image = torch.arange(1, 33, dtype=torch.uint8).expand(3, 32, 32).contiguous()  # columns are numbered
    shifts: set[int] = set()
    mirrored = 0
    for index in range(300):
        row = augmented(image, (32, 32), "crop-flip", (0, 0, index), crop=False)[0, 16].tolist()
        inside = [value for value in row if value]
        assert len(inside) >= 28
        mirrored += inside[0] > inside[-1]
        row = row[::-1] if inside[0] > inside[-1] else row
        shifts.add(row.index(min(inside)) - min(inside) + 1)
    assert shifts == set(range(-4, 5))
    assert 110 < mirrored < 190


def test_imagenet_crops_are_parts_of_the_image() -> None:
    image = torch.arange(200, dtype=torch.uint8).expand(3, 100, 200).contiguous()
    widths: list[int] = []
    for index in range(200):
        crop = augmented(image, (24, 20), "imagenet", (0, 0, index), crop=True)
        assert crop.shape == (3, 24, 20)
        widths.append(int(crop.max()) - int(crop.min()))
    assert min(widths) < 70
    assert 90 < max(widths) < 180


def test_a_long_thin_image_falls_back_to_its_centre() -> None:
    image = torch.zeros(3, 2, 400, dtype=torch.uint8)
    assert augmented(image, (8, 8), "imagenet", (0, 0, 0), crop=True).shape == (3, 8, 8)


def test_photographs_keep_their_proportions() -> None:
    image = torch.zeros(1, 64, 128, dtype=torch.uint8)
    image[:, 16:48, 48:80] = 255  # a square in the middle
    cut = fit(image, (56, 56), crop=True)
    bright = (cut[0] > 127).nonzero()
    extent = (bright.max(0).values - bright.min(0).values + 1).tolist()
    assert extent == [32, 32]
    stretched = fit(image, (56, 56), crop=False)
    bright = (stretched[0] > 127).nonzero()
    height, width = (bright.max(0).values - bright.min(0).values + 1).tolist()
    assert height == 2 * width


def test_items_are_pixels_in_0_to_1_and_labels() -> None:
    source = images()
    data = ImageDataset(source, [4, 2], (16, 16))
    item = data[0]
    assert item["labels"] == 1
    assert isinstance(item["labels"], int)
    torch.testing.assert_close(item["pixel_values"], source.images[4].float() / 255)
    assert data.labels.tolist() == [1, 2]
    assert data[-1]["labels"] == 2
    with pytest.raises(IndexError, match="out of range for 2 images"):
        data[2]


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 3), (5, 4, 6, 1), (5, 3, 4, 6), (5, 1, 4, 6)])
def test_arrays_of_any_order(shape: tuple[int, ...]) -> None:
    source = of_array(torch.zeros(shape, dtype=torch.uint8), [0, 1, 2, 0, 1], "made-up")
    assert source.images.shape[2:] == (4, 6)
    assert source.image(2).ndim == 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (torch.zeros(5, 4, 6), "as bytes"),
        (torch.zeros(5, 4, 6, 4, dtype=torch.uint8), "grey or RGB"),
        (torch.zeros(5, 6, dtype=torch.uint8), "grey or RGB"),
    ],
)
def test_arrays_that_are_not_images(array: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        of_array(array, [0] * 5, "made-up")
