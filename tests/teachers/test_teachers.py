"""A teacher is frozen, and its memory never answers for another sample."""

import pytest
import torch
from torch import nn

from abkd.errors import InputError
from abkd.teachers import LiveTeacher, MemoryTeacher, as_teacher, fingerprint_of, logits_of


def small(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(12, 5))


def images(n=6, seed=1):
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


class Counting:
    """A teacher that counts what it is asked."""

    num_classes = 5

    def __init__(self):
        self.module = LiveTeacher.frozen(small())
        self.fingerprint = self.module.fingerprint
        self.seen = 0

    def __call__(self, inputs):
        self.seen += len(inputs)
        return self.module(inputs)

    def to(self, device):
        return self


def test_a_teacher_in_train_mode_or_with_gradients_is_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"train mode.*eval\(\)\.requires_grad_\(False\)"):
        LiveTeacher(small().requires_grad_(False))
    with pytest.raises(InputError, match=r"'2\.weight' asks for gradients.*requires_grad_"):
        LiveTeacher(small().eval())
    partly = small().eval().requires_grad_(False)
    partly[1].train()
    with pytest.raises(InputError, match="part '1' is in train mode"):
        as_teacher(partly)
    with pytest.raises(InputError, match="expected a torch module"):
        LiveTeacher(3)
    with pytest.raises(InputError, match="got str"):
        as_teacher("resnet56")


def test_frozen_makes_it_right_and_logits_have_no_gradient():
    teacher = LiveTeacher.frozen(small(0.5))
    inputs = images().requires_grad_(True)
    first, second = teacher(inputs), teacher(inputs)
    assert torch.equal(first, second)
    assert not first.requires_grad
    teacher.module.train()
    with pytest.raises(InputError, match="while it was teaching"):
        teacher(inputs)


def test_number_of_classes_where_it_is_known():
    assert LiveTeacher.frozen(small()).num_classes is None
    module = small()
    module.num_classes = 5
    assert LiveTeacher.frozen(module).num_classes == 5


def test_logits_of_what_models_return():
    logits = torch.zeros(2, 3)

    class Output:
        def __init__(self):
            self.logits = logits

    for output in (logits, {"logits": logits}, Output(), (logits, "hidden")):
        assert logits_of(output) is logits
    for output in ({"scores": logits}, "x", (), None):
        with pytest.raises(InputError, match="returns logits"):
            logits_of(output)


def test_fingerprint_changes_with_any_weight_and_with_the_structure():
    one, two = small(), small()
    assert fingerprint_of(one) == fingerprint_of(two)
    with torch.no_grad():
        two[2].bias[3] += 1e-7
    assert fingerprint_of(one) != fingerprint_of(two)
    assert fingerprint_of(one) != fingerprint_of(small(0.1))


def test_memory_answers_known_batches_and_equals_the_live_teacher():
    live = Counting()
    memory = MemoryTeacher(live)
    batch = images()
    first = memory(batch)
    assert live.seen == 6
    assert torch.equal(memory(batch), first)
    assert torch.equal(memory(batch[[4, 1]]), first[[4, 1]])
    assert live.seen == 6
    assert (memory.hits, memory.misses, len(memory)) == (8, 6, 6)
    assert torch.equal(first, live.module(batch))


def test_a_changed_pixel_is_another_image():
    live = Counting()
    memory = MemoryTeacher(live)
    batch = images()
    memory(batch)
    flipped = batch.flip(-1)
    assert torch.equal(memory(flipped), live.module(flipped))
    nudged = batch.clone()
    nudged[0, 0, 0, 0] = torch.nextafter(nudged[0, 0, 0, 0], torch.tensor(2.0))
    memory(nudged)
    assert live.seen == 18
    assert torch.equal(memory(batch.double().float()), memory(batch))


def test_a_primed_memory_adds_nothing_and_computes_mixed_batches_whole():
    live = Counting()
    memory = MemoryTeacher(live).prime([images(4), images(4, seed=2)])
    assert (live.seen, len(memory)) == (8, 8)
    memory.prime([images(4, seed=3)])
    memory(torch.cat([images(4), images(4, seed=3)]))
    assert (live.seen, len(memory)) == (16, 8)
    memory(torch.cat([images(4)[:2], images(4, seed=2)[2:]]))
    assert live.seen == 16


def test_memory_has_a_limit():
    live = Counting()
    memory = MemoryTeacher(live, max_bytes=3 * 5 * 4)
    memory(images())
    memory(images())
    assert (len(memory), live.seen) == (3, 12)
    with pytest.raises(InputError, match="max_bytes"):
        MemoryTeacher(live, max_bytes=-1)
    assert memory.num_classes == 5
    assert memory.to("cpu") is memory
