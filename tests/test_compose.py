"""Every mixed pixel and every target is traced to its source."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.compose import cell_targets, compose, image_targets

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


@st.composite
def compositions(draw):
    """images whose every pixel names its image and place, masks, pairing, rows."""
    batch, grid = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    height, width = draw(st.integers(grid, 14)), draw(st.integers(grid, 14))
    if draw(st.booleans()):
        height, width = -(-height // grid) * grid, -(-width // grid) * grid
    channels = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    count = draw(st.integers(1, 8))
    images = torch.arange(batch * channels * height * width, dtype=torch.float32).view(batch, channels, height, width)
    masks = torch.rand(count, grid, grid, generator=generator) < 0.5
    rows = torch.randint(batch, (count,), generator=generator)
    pairing = torch.randint(batch, (count,), generator=generator)
    return images, masks, pairing, rows


def slow_compose(images, masks, pairing, rows):
    grid = masks.shape[1]
    height, width = images.shape[2:]
    result = torch.empty(len(rows), *images.shape[1:], dtype=images.dtype)
    for row in range(len(rows)):
        for y in range(height):
            for x in range(width):
                own = bool(masks[row, y * grid // height, x * grid // width])
                source = int(rows[row]) if own else int(pairing[row])
                result[row, :, y, x] = images[source, :, y, x]
    return result


@settings(max_examples=60, deadline=None)
@given(compositions(), st.booleans(), st.booleans())
def test_every_pixel_comes_from_its_source(composition, channels_last, into_out):
    images, masks, pairing, rows = composition
    given_images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    before = given_images.clone()
    out = torch.empty(len(rows), *images.shape[1:]) if into_out else None

    mixed = compose(given_images, masks, pairing, rows=rows, out=out)

    assert torch.equal(mixed, slow_compose(images, masks, pairing, rows))
    assert torch.equal(given_images, before)
    assert out is None or mixed is out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("channels_last", [False, True])
def test_dtype_and_memory_format_are_kept(dtype, size, channels_last):
    images = torch.arange(6 * 3 * size * size).remainder(251).view(6, 3, size, size).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    masks, pairing = torch.rand(6, 4, 4, generator=generator) < 0.5, torch.randperm(6, generator=generator)
    mixed = compose(images, masks, pairing)
    assert mixed.dtype == dtype and mixed.stride() == images.stride()
    assert torch.equal(mixed, slow_compose(images, masks, pairing, torch.arange(6)))


@settings(max_examples=40, deadline=None)
@given(compositions(), st.integers(1, 9))
def test_targets_follow_the_cells(composition, num_classes):
    images, masks, pairing, rows = composition
    labels = torch.arange(len(images)) % num_classes
    soft = image_targets(labels, masks, pairing, num_classes, rows=rows)
    hard = cell_targets(labels, masks, pairing, rows=rows)
    grid = masks.shape[1]
    expected = torch.zeros(len(rows), num_classes)
    for row in range(len(rows)):
        for i in range(grid):
            for j in range(grid):
                source = int(rows[row]) if masks[row, i, j] else int(pairing[row])
                assert hard[row, i, j] == labels[source]
                expected[row, labels[source]] += 1 / grid**2
    torch.testing.assert_close(soft, expected)
    torch.testing.assert_close(soft.sum(1), torch.ones(len(rows)))


def test_soft_labels_are_mixed_by_the_same_shares():
    masks = torch.tensor([[[True, False], [False, False]]]).expand(2, 2, 2)
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    mixed = image_targets(labels, masks, torch.tensor([1, 0]), 3)
    torch.testing.assert_close(mixed, torch.tensor([[0.25, 0.375, 0.375], [0.75, 0.125, 0.125]]))


@pytest.mark.parametrize(
    ("masks", "pairing", "words"),
    [
        (torch.ones(3, 2, 2), torch.arange(3), "masks must be bool"),
        (torch.ones(2, 2, 2, dtype=torch.bool), torch.arange(2), r"masks must be bool \(3,G,G\)"),
        (torch.ones(3, 2, 2, dtype=torch.bool), torch.arange(4), r"pairing must be integer \(3,\)"),
        (torch.ones(3, 2, 2, dtype=torch.bool), torch.arange(3.0), "pairing must be integer"),
        (torch.ones(3, 9, 9, dtype=torch.bool), torch.arange(3), "a grid of 9 does not fit images of 8x8"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(masks, pairing, words):
    with pytest.raises(ValueError, match=words):
        compose(torch.zeros(3, 1, 8, 8), masks, pairing)


def test_the_numpy_searchs_masks_and_composes_agree_on_polarity():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    masks = torch.from_numpy(np.array([np.ones((2, 2), bool), np.zeros((2, 2), bool)]))
    mixed = compose(images, masks, torch.tensor([1, 0]))
    assert mixed.sum() == 0  # row 0 keeps its own zeros, row 1 takes its partner's
