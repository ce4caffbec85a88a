"""Every mixed pixel and every target is traced to its source."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.compose import cell_targets, compose, image_targets

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.complex128)
INTEGERS = (torch.int16, torch.int32, torch.int64)


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


def cropped(images):
    """The same images as a window into larger ones."""
    batch, channels, height, width = images.shape
    return images.new_zeros(batch, channels, height + 2, width + 3)[:, :, 1:-1, 2:-1].copy_(images)


def shifted(images):
    """The same images in memory that starts one element late."""
    return images.new_zeros(images.numel() + 1)[1:].view(images.shape).copy_(images)


LAYOUTS = {
    "contiguous": lambda images: images,
    "channels_last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "cropped": cropped,
    "shifted": shifted,
    "transposed": lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
}


@settings(max_examples=150)
@given(
    compositions(),
    st.sampled_from(list(LAYOUTS)),
    st.sampled_from([None, *LAYOUTS]),
    st.sampled_from(DTYPES),
    st.sampled_from(INTEGERS),
)
def test_every_pixel_comes_from_its_source(composition, layout, out_layout, dtype, integer):
    images, masks, pairing, rows = composition
    images = images.remainder(2 if dtype == torch.bool else 251).to(dtype)
    given_images = LAYOUTS[layout](images)
    out = None if out_layout is None else LAYOUTS[out_layout](torch.zeros(len(rows), *images.shape[1:], dtype=dtype))

    mixed = compose(given_images, masks, pairing.to(integer), rows=rows.to(integer), out=out)

    assert mixed.dtype == dtype and torch.equal(mixed, slow_compose(images, masks, pairing, rows))
    assert torch.equal(given_images, images)
    assert mixed is out if out is not None else mixed.is_contiguous() or layout == "channels_last"


@pytest.mark.parametrize(("threads", "at_once"), [(1, 1), (1, 60), (1, 10**6), (2, 1)])
def test_threads_together_and_one_in_parts_do_the_same(threads, at_once, monkeypatch):
    monkeypatch.setattr("training.compose.INDICES_AT_ONCE", at_once)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)

    @settings(max_examples=30)
    @given(compositions(), st.sampled_from(["contiguous", "channels_last"]))
    def check(composition, layout):
        images, masks, pairing, rows = composition
        mixed = compose(LAYOUTS[layout](images), masks, pairing, rows=rows)
        assert torch.equal(mixed, slow_compose(images, masks, pairing, rows))

    check()


@settings(max_examples=40)
@given(compositions(), st.sampled_from(list(LAYOUTS)), st.booleans())
def test_gradients_reach_the_images_that_pixels_came_from(composition, layout, into_out):
    images, masks, pairing, rows = composition
    leaf = images.clone().requires_grad_()
    weights = torch.rand(len(rows), *images.shape[1:], generator=torch.Generator().manual_seed(0))
    out = torch.zeros_like(weights) if into_out else None

    mixed = compose(LAYOUTS[layout](leaf), masks, pairing, rows=rows, out=out)

    assert torch.equal(mixed.detach(), slow_compose(images, masks, pairing, rows))
    (gradient,) = torch.autograd.grad((mixed * weights).sum(), leaf)
    # compose moves numbers about: its derivative sends a weight back to where its pixel came from.
    places = torch.arange(images.numel()).view(images.shape)
    sources = slow_compose(places, masks, pairing, rows)
    expected = torch.zeros(images.numel()).index_add_(0, sources.flatten(), weights.flatten())
    torch.testing.assert_close(gradient, expected.view(images.shape))
    with torch.no_grad():
        assert not compose(leaf, masks, pairing, rows=rows).requires_grad


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("with_rows", [False, True])
def test_compiled_whole_it_does_the_same(size, layout, with_rows):
    torch.compiler.reset()
    compiled = torch.compile(compose, fullgraph=True, backend="aot_eager")
    images = LAYOUTS[layout](torch.arange(6 * 3 * size * size, dtype=torch.float32).view(6, 3, size, size))
    generator = torch.Generator().manual_seed(0)
    masks, pairing = torch.rand(6, 4, 4, generator=generator) < 0.5, torch.randperm(6, generator=generator)
    rows = torch.tensor([5, 0, 0, 1, 2, 3]) if with_rows else None
    eager, mixed = compose(images, masks, pairing, rows=rows), compiled(images, masks, pairing, rows=rows)
    assert torch.equal(mixed, eager) and mixed.stride() == eager.stride()
    assert torch.equal(compiled(images, masks, pairing, rows=rows, out=torch.empty_like(images)), eager)


def test_targets_compile_whole():
    generator = torch.Generator().manual_seed(0)
    masks, pairing = torch.rand(6, 4, 4, generator=generator) < 0.5, torch.randperm(6, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for function, more in ((image_targets, (3,)), (cell_targets, ())):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(labels, masks, pairing, *more), function(labels, masks, pairing, *more))


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


@pytest.mark.parametrize("size", [8, 9])
def test_numbers_that_are_none_travel_bit_by_bit(size):
    images = torch.full((2, 1, size, size), float("nan"))
    images[1] = float("inf")
    masks = torch.tensor([[[True, False], [False, True]]]).expand(2, 2, 2)
    mixed = compose(images, masks, torch.tensor([1, 0]))
    assert torch.equal(mixed[0].isnan(), mixed[1].isinf()) and (mixed[0].isnan() | mixed[0].isinf()).all()


@pytest.mark.parametrize("size", [8, 9])
def test_no_images_give_none(size):
    empty, masks, pairing = torch.zeros(0, 3, size, size), torch.zeros(0, 4, 4, dtype=torch.bool), torch.arange(0)
    assert compose(empty, masks, pairing).shape == empty.shape
    assert image_targets(torch.arange(0), masks, pairing, 5).shape == (0, 5)
    assert cell_targets(torch.arange(0), masks, pairing).shape == (0, 4, 4)


@settings(max_examples=40)
@given(compositions(), st.integers(1, 9), st.sampled_from(INTEGERS))
def test_targets_follow_the_cells(composition, num_classes, integer):
    images, masks, pairing, rows = composition
    labels = torch.arange(len(images)) % num_classes
    pairing, rows, labels = pairing.to(integer), rows.to(integer), labels.to(integer)
    soft = image_targets(labels, masks, pairing, num_classes, rows=rows)
    hard = cell_targets(labels, masks, pairing, rows=rows)
    grid = masks.shape[1]
    expected = torch.zeros(len(rows), num_classes)
    for row in range(len(rows)):
        for i in range(grid):
            for j in range(grid):
                source = int(rows[row]) if masks[row, i, j] else int(pairing[row])
                assert hard[row, i, j] == labels[source]
                expected[row, int(labels[source])] += 1 / grid**2
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
        (torch.ones(3, 0, 0, dtype=torch.bool), torch.arange(3), "a grid of 0 does not fit images of 8x8"),
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


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (torch.zeros(2, 1, 8, 8), r"out must be \(3, 1, 8, 8\) torch.float32 on cpu, got \(2, 1, 8, 8\) torch.float32"),
        (torch.zeros(3, 1, 8, 8, dtype=torch.uint8), r"got \(3, 1, 8, 8\) torch.uint8 on cpu"),
        (torch.zeros(3, 1, 8, 8, device="meta"), r"torch.float32 on cpu, got .* on meta"),
    ],
)
def test_an_out_that_does_not_fit_is_refused(out, words):
    with pytest.raises(ValueError, match=words):
        compose(torch.zeros(3, 1, 8, 8), torch.ones(3, 2, 2, dtype=torch.bool), torch.arange(3), out=out)


def test_an_out_in_the_images_memory_is_refused():
    memory = torch.zeros(6, 1, 8, 8)
    masks, pairing = torch.ones(3, 2, 2, dtype=torch.bool), torch.arange(3)
    for out in (memory[:3], memory[2:5]):
        with pytest.raises(ValueError, match="out shares memory with images"):
            compose(memory[:3], masks, pairing, out=out)
    compose(memory[:3], masks, pairing, out=memory[3:])


@pytest.mark.parametrize("size", [8, 9])
def test_a_backward_pass_learns_that_out_was_written_to(size):
    masks, pairing, out = torch.ones(3, 4, 4, dtype=torch.bool), torch.arange(3), torch.zeros(3, 1, size, size)
    weight = torch.ones(1, requires_grad=True)
    loss = (compose(torch.rand(3, 1, size, size), masks, pairing, out=out) * weight).sum()
    compose(torch.rand(3, 1, size, size), masks, pairing, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        compose(torch.rand(3, 1, size, size), masks, pairing, out=torch.zeros(3, 1, size, size))


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("partner", [-1, 3])
def test_partners_outside_the_batch_are_refused(size, partner):
    with pytest.raises(IndexError):
        compose(torch.zeros(3, 1, size, size), torch.ones(3, 4, 4, dtype=torch.bool), torch.tensor([0, 1, partner]))
