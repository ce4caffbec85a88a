"""The labels that PatchMix takes: every type of integer, rows of classes, smoothing; what is none of these is told."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from training.compose import cell_targets, image_targets
from training.losses import cell_losses, image_losses
from training.mixes import PatchMix

IMAGES, LABELS = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4])
INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


def seeded(**options):
    return PatchMix(generator=torch.Generator().manual_seed(1), **options)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_every_type_do_the_same(name):
    expected = seeded(num_classes=5)(IMAGES, LABELS, return_composition=True)
    labels = LABELS.to(getattr(torch, name))
    mixed, targets, masks, pairing = seeded(num_classes=5)(IMAGES, labels, return_composition=True)
    assert torch.equal(mixed, expected[0]) and torch.equal(targets, expected[1])
    assert torch.equal(image_targets(labels, masks, pairing.to(labels.dtype), 5), targets)
    cells, logits = cell_targets(LABELS, masks, pairing), torch.rand(5, 4, 4, 5)
    assert torch.equal(cell_targets(labels, masks, pairing).long(), cells)
    assert torch.equal(cell_losses(logits, cell_targets(labels, masks, pairing)), cell_losses(logits, cells))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64])
def test_rows_of_classes_of_every_type_do_the_same(dtype):
    rows = F.one_hot(LABELS, 5).to(dtype)
    targets = seeded()(IMAGES, rows)[1]
    assert targets.dtype == torch.float32 and torch.equal(targets, seeded(num_classes=5)(IMAGES, LABELS)[1])


def timms_targets(labels, masks, pairing, num_classes, smoothing):
    """As timm's mixup_target has it: smoothed rows first, then their mixture."""
    off = smoothing / num_classes
    rows = torch.full((len(labels), num_classes), off).scatter_(1, labels.view(-1, 1), 1 - smoothing + off)
    share = masks.float().mean((1, 2)).view(-1, 1)
    return share * rows + (1 - share) * rows[pairing]


@pytest.mark.parametrize("probability", [0, 1])
@pytest.mark.parametrize("smoothing", [0, 0.1, 0.5])
def test_labels_are_smoothed_as_by_timms_mixup(smoothing, probability):
    mix = seeded(num_classes=5, label_smoothing=smoothing, probability=probability)
    _, targets, masks, pairing = mix(IMAGES, LABELS, return_composition=True)
    torch.testing.assert_close(targets, timms_targets(LABELS, masks, pairing, 5, smoothing))
    torch.testing.assert_close(targets.sum(1), torch.ones(5))
    soft = seeded(label_smoothing=smoothing, probability=probability)(IMAGES, F.one_hot(LABELS, 5).float())[1]
    assert torch.equal(soft, targets)
    assert torch.equal(mix.eval()(IMAGES, LABELS)[1], torch.eye(5))  # nothing is smoothed in evaluation


def test_to_smooth_the_labels_or_the_loss_is_the_same():
    logits = torch.rand(5, 5)
    smoothed = image_losses(logits, seeded(num_classes=5, label_smoothing=0.1)(IMAGES, LABELS)[1])
    torch.testing.assert_close(smoothed, image_losses(logits, seeded(num_classes=5)(IMAGES, LABELS)[1], 0.1))


@pytest.mark.parametrize("name", ["patchmix", "bank", "evolved", "best-of-k"])
def test_the_trainers_mixes_leave_smoothing_to_its_loss(name, tmp_path):
    from tests.test_mixes import batches, context
    from training.registry import MIXES, load_entry

    given = context(name, tmp_path)
    smoothing = given.config.train.model_copy(update={"label_smoothing": 0.4})
    given = replace(given, config=given.config.model_copy(update={"train": smoothing}))
    mix = load_entry(MIXES, name, "mix")(given)
    assert mix.patchmix.label_smoothing == 0
    for item in mix(batches(mix.span), 1):
        shares = F.one_hot(item.cell_targets.flatten(1), 3).float().mean(1)
        torch.testing.assert_close(item.targets, shares)


COLUMN = r"must be integers without a second dimension, got .* \(5, 1\); give labels.squeeze\(1\)"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        *[(LABELS.view(5, 1).to(getattr(torch, name)), COLUMN) for name in (*INTEGERS, "bool")],
        (LABELS.view(5, 1, 1), r"with labels \(B,\) or \(B,K\), got .* and \(5, 1, 1\)"),
        (LABELS.to(torch.complex64), "labels must be .*got torch.complex64"),
        (LABELS.float(), r"labels \(B,\) must be integers, got torch.float32; give labels.long\(\)"),
        (torch.tensor([0, 1, -100, 2, 3]), r"labels must be 0\.\.4, got -100\.\.3; leave images without a label"),
        ((LABELS + 300).to(torch.uint16), r"labels must be 0\.\.4, got 300\.\.304$"),
        (torch.full((5, 5), float("nan")), r"soft labels \(B,K\) must be finite"),
        (torch.full((5, 5), float("inf")), r"soft labels \(B,K\) must be finite"),
        (torch.full((5, 5), 3), r"integer labels \(B,K\) must be one-hot, of 0 and 1, got 3\.\.3"),
        (torch.rand(5, 1), "num_classes is 5, labels have 1 columns"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_labels_that_are_none_are_refused(labels, words, training):
    with pytest.raises(ValueError, match=words):
        PatchMix(num_classes=5).train(training)(IMAGES, labels)


def test_functions_of_targets_refuse_them_as_well():
    masks, pairing = torch.ones(5, 4, 4, dtype=torch.bool), torch.arange(5)
    with pytest.raises(ValueError, match=COLUMN):
        image_targets(LABELS.view(5, 1), masks, pairing, 5)
    for labels in (LABELS.view(5, 1), torch.eye(5), LABELS.float()):
        with pytest.raises(ValueError, match=r"labels of cells must be integer \(B,\), got"):
            cell_targets(labels, masks, pairing)


@pytest.mark.parametrize("smoothing", [-0.1, 1, 1.5, float("nan"), "much", True, None])
def test_smoothing_that_is_none_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be 0\.\.1 and below 1, got"):
        PatchMix(label_smoothing=smoothing)
