"""PatchMix as a part of other people's loops."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset, default_collate

from evo.bank import PatternBank
from evo.bank_files import save_bank
from evo.operators import MASK_SAMPLERS
from training.compose import compose
from training.mixes import PatchMix


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Collate:
    """A collate_fn that can be pickled, which also tells the masks."""

    def __init__(self, mix):
        self.mix = mix

    def __call__(self, batch):
        return self.mix(*default_collate(batch), return_composition=True)


IMAGES = torch.arange(5 * 3 * 9 * 7, dtype=torch.float32).view(5, 3, 9, 7)
LABELS = torch.tensor([0, 1, 2, 3, 4])


def test_it_returns_the_composition_it_applied():
    mix = PatchMix(num_classes=5, grid=3, generator=seeded(0))
    before = IMAGES.clone()
    mixed, targets, masks, pairing = mix(IMAGES, LABELS, return_composition=True)
    assert torch.equal(IMAGES, before)
    assert sorted(pairing.tolist()) == [0, 1, 2, 3, 4]
    share = masks.float().mean((1, 2))
    for row in range(5):
        for y in range(9):
            for x in range(7):
                source = row if masks[row, y * 3 // 9, x * 3 // 7] else int(pairing[row])
                assert torch.equal(mixed[row, :, y, x], IMAGES[source, :, y, x])
        expected = torch.zeros(5)
        expected[row] += share[row]
        expected[pairing[row]] += 1 - share[row]
        torch.testing.assert_close(targets[row], expected)


def test_untouched_batches_are_the_same_and_p_is_a_share_of_calls():
    mix = PatchMix(num_classes=5, grid=3, probability=0.3, generator=seeded(0))
    touched = 0
    for _ in range(400):
        mixed, targets, masks, _ = mix(IMAGES, LABELS, return_composition=True)
        if masks.all() and mixed is IMAGES:
            assert torch.equal(targets, torch.eye(5))
        else:
            touched += 1
    assert 80 < touched < 160


def test_generators_decide_alone():
    one, two = (PatchMix(num_classes=5, grid=3, generator=seeded(4)) for _ in range(2))
    torch.manual_seed(0)
    first = one(IMAGES, LABELS)[0]
    torch.manual_seed(1)
    assert torch.equal(first, two(IMAGES, LABELS)[0])
    assert not torch.equal(first, two(IMAGES, LABELS)[0])


def test_without_a_generator_torchs_seed_decides():
    mix = PatchMix(num_classes=5, grid=3)
    torch.manual_seed(0)
    first = mix(IMAGES, LABELS)[0]
    torch.manual_seed(0)
    assert torch.equal(first, mix(IMAGES, LABELS)[0])


def test_one_image_and_soft_labels():
    mixed, targets = PatchMix(grid=3)(IMAGES[:1], torch.tensor([[0.25, 0.75]]))
    assert torch.equal(mixed, IMAGES[:1])
    torch.testing.assert_close(targets, torch.tensor([[0.25, 0.75]]))


def test_a_bank_is_drawn_from(tmp_path):
    made = PatternBank(3, 5, list("abcde"))
    made.collect(np.array([np.eye(3, dtype=bool)]), np.array([0]), np.array([1]))
    save_bank(made, tmp_path / "one.json")
    mix = PatchMix(bank=tmp_path / "one.json")
    _, _, masks, _ = mix(IMAGES, LABELS, return_composition=True)
    assert torch.equal(masks, torch.eye(3, dtype=torch.bool).expand(5, 3, 3))


@settings(max_examples=80)
@given(
    st.integers(0, 7),
    st.integers(1, 4),
    st.tuples(st.integers(4, 9), st.integers(4, 9)),
    st.sampled_from([torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    st.sampled_from(["int16", "int32", "int64", "uint8", "uint16", "one-hot", "soft"]),
    st.sampled_from(list(MASK_SAMPLERS)),
    st.booleans(),
)
def test_every_kind_of_batch_is_mixed(batch, grid, size, dtype, kind, sampler, channels_last):
    height, width = size
    images = torch.arange(batch * 3 * height * width).remainder(251).view(batch, 3, height, width).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    classes = torch.arange(batch).remainder(5)
    dense = torch.nn.functional.one_hot(classes, 5).float()
    if kind == "soft":
        dense = 0.9 * dense + 0.02
    labels = classes.to(getattr(torch, kind)) if "int" in kind else dense
    mix = PatchMix(num_classes=5, grid=grid, sampler=sampler, generator=seeded(batch))

    mixed, targets, masks, pairing = mix(images, labels, return_composition=True)

    assert sorted(pairing.tolist()) == list(range(batch)) and pairing.dtype == torch.int64
    assert masks.shape == (batch, grid, grid) and masks.dtype == torch.bool
    cell_of = [torch.arange(side) * grid // side for side in size]
    pixels = masks[:, cell_of[0]][:, :, cell_of[1]].unsqueeze(1)
    assert mixed.dtype == dtype and torch.equal(mixed, torch.where(pixels, images, images[pairing]))
    assert mixed.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    share = masks.float().mean((1, 2)).unsqueeze(1)
    assert targets.dtype == torch.float32 and targets.shape == (batch, 5)
    torch.testing.assert_close(targets, share * dense + (1 - share) * dense[pairing])


def test_switched_off_it_only_makes_soft_labels():
    mix = PatchMix(num_classes=5, grid=3)
    mix.mixup_enabled = False  # as timm's loop does after its mixup_off_epoch
    mixed, targets, masks, pairing = mix(IMAGES, LABELS, return_composition=True)
    assert mixed is IMAGES and torch.equal(targets, torch.eye(5))
    assert masks.all() and torch.equal(pairing, torch.arange(5))


def test_it_takes_a_pair_and_stands_among_torchvisions_transforms():
    from torchvision.transforms import v2

    with_pair, with_two = (PatchMix(num_classes=5, grid=3, generator=seeded(1)) for _ in range(2))
    expected = with_two(IMAGES, LABELS)
    for given_pair in ((IMAGES, LABELS), [IMAGES, LABELS]):
        with_pair.generator.manual_seed(1)
        found = with_pair(given_pair)
        assert type(found) is type(given_pair)
        assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    chosen = v2.RandomChoice([PatchMix(num_classes=5, grid=3), v2.CutMix(num_classes=5)])
    for _ in range(8):
        mixed, targets = chosen(IMAGES, LABELS)
        assert mixed.shape == IMAGES.shape and torch.allclose(targets.sum(1), torch.ones(5))
    composed = v2.Compose([v2.ToDtype(torch.float64), PatchMix(num_classes=5, grid=3)])
    assert composed(IMAGES, LABELS)[1].shape == (5, 5)


@pytest.mark.parametrize("generator", [None, 3], ids=["torch's generator", "its own"])
def test_workers_and_epochs_draw_differently_and_again_the_same(generator):
    def draws():
        torch.manual_seed(0)
        mix = PatchMix(num_classes=5, grid=4, generator=generator and seeded(generator))
        data = TensorDataset(torch.zeros(24, 1, 4, 4), torch.zeros(24, dtype=torch.int64))
        loader = DataLoader(data, 6, num_workers=2, collate_fn=Collate(mix), multiprocessing_context="fork")
        return [masks.numpy().tobytes() for _ in range(2) for _, _, masks, _ in loader]

    first = draws()
    assert len(set(first)) == len(first) == 8
    assert draws() == first


def test_another_generator_draws_differently_in_workers(monkeypatch):
    worker = type("Worker", (), {"seed": 5})
    monkeypatch.setattr("training.mixes.draws.get_worker_info", lambda: worker)
    one, same, other = (PatchMix(num_classes=5, grid=3, generator=seeded(seed)) for seed in (1, 1, 2))
    first = one.draw(LABELS)[0]
    assert torch.equal(first, same.draw(LABELS)[0]) and not torch.equal(first, other.draw(LABELS)[0])
    assert not torch.equal(first, one.draw(LABELS)[0])


def test_it_can_be_sent_to_workers_that_are_spawned(tmp_path):
    mix = PatchMix(num_classes=5, grid=3, sampler="box", generator=seeded(2))
    mix(IMAGES, LABELS)
    copy = pickle.loads(pickle.dumps(mix))
    assert torch.equal(copy(IMAGES, LABELS)[0], mix(IMAGES, LABELS)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": 0}, "grid must be at least 1, got 0"),
        ({"grid": 2.5}, "grid must be an integer, got 2.5"),
        ({"grid": True}, "grid must be an integer, got True"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": "ten"}, "num_classes must be an integer, got 'ten'"),
        ({"probability": 1.5}, r"probability must be 0\.\.1, got 1.5"),
        ({"probability": -0.1}, r"probability must be 0\.\.1, got -0.1"),
        ({"probability": float("nan")}, r"probability must be 0\.\.1, got nan"),
        ({"probability": "half"}, r"probability must be 0\.\.1, got 'half'"),
        ({"probability": True}, r"probability must be 0\.\.1, got True"),
        ({"sampler": "stars"}, "unknown sampler 'stars'; there are bernoulli, box"),
        ({"sampler": ["box"]}, r"unknown sampler \['box'\]"),
        ({"generator": 3}, "generator must be a torch.Generator on the CPU, got 3"),
        ({"bank": 3}, "bank must be a pattern file or a PatternBank, got int"),
        ({"bank": "none.json"}, "no pattern bank at none.json"),
        ({"bank": PatternBank(3, 5)}, "this pattern bank is empty"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        PatchMix(**options)


@pytest.mark.parametrize(
    ("options", "images", "labels", "words"),
    [
        ({"grid": 8, "num_classes": 5}, IMAGES, LABELS, "a grid of 8 does not fit images of 9x7; at most 7"),
        ({}, IMAGES, LABELS, "integer labels need num_classes"),
        ({"num_classes": 4}, IMAGES, LABELS, r"labels must be 0\.\.3, got 0\.\.4"),
        ({"num_classes": 5}, IMAGES, LABELS - 1, r"labels must be 0\.\.4, got -1\.\.3"),
        ({"num_classes": 5}, IMAGES, LABELS[:3], r"\(5, 3, 9, 7\) and \(3,\)"),
        ({"num_classes": 5}, IMAGES[0], LABELS, r"\(3, 9, 7\) and \(5,\)"),
        ({"num_classes": 5}, IMAGES, LABELS.float(), "must be integers, got torch.float32"),
        ({"num_classes": 5}, IMAGES, LABELS > 2, "must be integers, got torch.bool"),
        ({"num_classes": 5}, IMAGES, torch.eye(5)[:, :4], "num_classes is 5, labels have 4 columns"),
        ({"num_classes": 5}, IMAGES, None, "expected tensors of images and labels, got Tensor and NoneType"),
        ({"num_classes": 5}, IMAGES.numpy(), LABELS, "got ndarray and Tensor"),
    ],
)
@pytest.mark.parametrize("probability", [0, 1])
def test_batches_that_do_not_fit_are_refused(options, images, labels, words, probability):
    with pytest.raises(ValueError, match=words):
        PatchMix(probability=probability, **options)(images, labels)


@pytest.mark.parametrize("labels", [torch.tensor([0, 6, 3, 1, 5]), torch.eye(7)[:5], torch.full((5, 7), 1 / 7)])
def test_a_bank_of_other_classes_lends_its_masks_whatever_the_labels_are(labels):
    bank = PatternBank(3, 2)
    bank.collect(np.eye(3, dtype=bool)[None], np.array([0]), np.array([1]))
    images, targets, masks, pairing = PatchMix(num_classes=7, bank=bank)(IMAGES, labels, return_composition=True)
    assert torch.equal(masks, torch.eye(3, dtype=torch.bool).expand(5, 3, 3)) and sorted(pairing) == list(range(5))
    assert torch.equal(images, compose(IMAGES, masks, pairing)) and targets.shape == (5, 7)


def test_a_bank_says_what_does_not_fit():
    bank = PatternBank(8, 5)
    bank.collect(np.ones((1, 8, 8), bool), np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="a grid of 8 does not fit images of 9x7; at most 7"):
        PatchMix(bank=bank)(IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"labels must be 0\.\.4, got 1\.\.5"):
        PatchMix(bank=bank)(torch.zeros(5, 3, 8, 8), LABELS + 1)
