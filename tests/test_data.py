"""Data sets: digits, folders, Tiny ImageNet's tree, real CIFAR-10 where it is, subsets, augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.config import DataOptions, UserError
from training.data import DATASETS, folder
from training.data.augment import augment
from training.data.image_set import FileSet, ImageSet, subset_indices
from training.data.load import load_data
from training.shelf import open_entry


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_opens(name):
    assert callable(open_entry(DATASETS, name, "data set"))


def test_digits_are_scikit_learns():
    training, test = load_data(DataOptions())
    assert training.shape == (1, 8, 8) and (len(training), len(test)) == (1437, 360)
    assert training.images.dtype == torch.uint8 and training.images.max() == 255
    assert training.labels[:10].tolist() == list(range(10))
    assert training.images[0, 0, 0].tolist() == [round(v * 255 / 16) for v in (0, 0, 5, 13, 9, 1, 0, 0)]


def test_subsets_are_in_order_or_drawn():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0])
    names = ["a", "b"]
    first = subset_indices(labels, DataOptions(subset=2), names)
    assert first.tolist() == [0, 1, 2, 3]
    later = subset_indices(labels, DataOptions(subset=2, subset_start=2), names)
    assert later.tolist() == [4, 5, 6, 7]
    drawn = subset_indices(labels, DataOptions(subset=2, subset_seed=1), names)
    assert sorted(labels[drawn].tolist()) == [0, 0, 1, 1]
    assert torch.equal(drawn, subset_indices(labels, DataOptions(subset=2, subset_seed=1), names))
    assert any(
        not torch.equal(drawn, subset_indices(labels, DataOptions(subset=2, subset_seed=s), names)) for s in range(5)
    )
    with pytest.raises(UserError, match="class 'b' has 4 training images, images 2..4 of it were asked for"):
        subset_indices(labels, DataOptions(subset=3, subset_start=2), names)


def test_statistics_are_the_channels():
    images = torch.randint(0, 256, (50, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = ImageSet(images, torch.zeros(50, dtype=torch.long), ["a"]).statistics()
    torch.testing.assert_close(mean, (images.float() / 255).mean((0, 2, 3)))
    torch.testing.assert_close(std, (images.float() / 255).std((0, 2, 3), correction=0))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(3, 9), st.integers(3, 9), st.integers(0, 2), st.booleans(), st.integers(0, 999))
def test_augmented_pixels_are_shifted_and_mirrored_ones(count, height, width, crop, flip, seed):
    images = torch.arange(count * 2 * height * width).view(count, 2, height, width)
    given_images = images.clone()
    result = augment(images, crop, flip, torch.Generator().manual_seed(seed))
    assert torch.equal(images, given_images) and result.shape == images.shape
    for image, changed in zip(images, result, strict=True):
        padded = torch.nn.functional.pad(image.float(), (crop,) * 4, mode="reflect").long() if crop else image
        views = [padded[:, y : y + height, x : x + width] for y in range(2 * crop + 1) for x in range(2 * crop + 1)]
        views += [view.flip(2) for view in views] if flip else []
        assert any(torch.equal(changed, view) for view in views)


def test_augmentation_uses_every_shift_and_both_sides():
    images = torch.arange(64).view(1, 1, 8, 8).expand(4000, 1, 8, 8)
    result = augment(images, 1, True, torch.Generator().manual_seed(0))
    kinds, counts = torch.unique(result.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 18 and counts.min() > 4000 / 18 * 0.7


def write_images(root, classes, count=3, size=(12, 10)):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


@pytest.fixture
def tree(tmp_path):
    write_images(tmp_path / "train", ["cat", "dog"])
    write_images(tmp_path / "val", ["cat", "dog"], count=2)
    return tmp_path


def test_folders_are_read(tree):
    training, test = load_data(DataOptions(name="folder", root=str(tree), image_size=8))
    assert isinstance(training, ImageSet)
    assert training.shape == (3, 8, 8) and training.class_names == ["cat", "dog"]
    assert training.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(test) == 4


def test_sets_larger_than_memory_are_decoded_when_asked_for(tree, monkeypatch):
    options = DataOptions(name="folder", root=str(tree), image_size=8, subset=2)
    in_memory = load_data(options)[0]
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 10)
    lazy = load_data(options)[0]
    assert isinstance(lazy, FileSet) and len(lazy) == 4 and lazy.shape == (3, 8, 8)
    indices = torch.tensor([3, 0])
    for left, right in zip(lazy.batch(indices), in_memory.batch(indices), strict=True):
        assert torch.equal(left, right)


def test_tiny_imagenets_tree_is_read(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    write_images(root / "train", ["n01", "n02"])
    write_images(root / "val", ["images"], count=2)
    (root / "val" / "val_annotations.txt").write_text("0.png\tn02\t0\t0\t9\t9\n1.png\tn01\t0\t0\t9\t9\n")
    training, test = load_data(DataOptions(name="tiny-imagenet", root=str(tmp_path)))
    assert training.shape == (3, 64, 64) and test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "cifar10"}, "no sound files in .*cifar-10-batches-py, and data.download is false"),
        ({"name": "cifar100"}, "no sound files in .*cifar-100-python, and data.download is false"),
        ({"name": "fashion-mnist"}, "no sound files in .*FashionMNIST"),
        ({"name": "tiny-imagenet"}, "looked for .*tiny-imagenet-200/train .* get http"),
        ({"name": "folder"}, "looked for .*/train/CLASS.* name the tree with data.root"),
    ],
)
def test_missing_files_say_where_and_how(tmp_path, options, words):
    with pytest.raises(UserError, match=words) as caught:
        load_data(DataOptions(root=str(tmp_path), download=False, **options))
    assert "\n" not in str(caught.value)


def write_idx(path, array):
    """The format of MNIST's files: magic, dimensions, bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(head + array.tobytes())


def test_fashion_mnist_is_read_from_its_files(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    training, test = load_data(DataOptions(name="fashion-mnist", root=str(tmp_path), download=False, subset=1))
    assert training.shape == test.shape == (1, 28, 28) and len(training) == 10 and len(test) == 20
    assert np.array_equal(test.images[:, 0].numpy(), images) and test.labels.tolist() == labels.tolist()
    assert training.class_names[0] == "T-shirt/top" and training.flip


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def refuse(self):
        raise OSError("no route\nto host")

    monkeypatch.setattr(CIFAR10, "download", refuse)
    with pytest.raises(UserError, match=r"could not be downloaded there \(no route to host\)"):
        load_data(DataOptions(name="cifar10", root=str(tmp_path)))


def test_folders_without_images_and_broken_images_are_named(tree):
    (tree / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="no images in .*empty"):
        load_data(DataOptions(name="folder", root=str(tree)))
    (tree / "train" / "empty").rmdir()
    (tree / "train" / "cat" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="broken.png cannot be read as an image"):
        load_data(DataOptions(name="folder", root=str(tree)))


def test_real_cifar10(data_root):
    if not (data_root / "cifar-10-batches-py" / "test_batch").is_file():
        pytest.skip("CIFAR-10 is not here (EVOMIX_DATA or data/)")
    training, test = load_data(DataOptions(name="cifar10", root=str(data_root), download=False, subset=3))
    assert training.shape == (3, 32, 32) and len(test) == 10_000
    assert torch.bincount(training.labels).tolist() == [3] * 10
    assert training.class_names[:2] == ["airplane", "automobile"]
    assert training.labels[0] == 6 and training.images[0, :, 0, 0].tolist() == [59, 62, 63]  # the first image: a frog


def test_real_cifar100(data_root):
    if not (data_root / "cifar-100-python" / "train").is_file():
        pytest.skip("CIFAR-100 is not here (EVOMIX_DATA or data/)")
    training, test = load_data(DataOptions(name="cifar100", root=str(data_root), download=False, subset=2))
    assert training.shape == (3, 32, 32) and len(test) == 10_000
    assert torch.bincount(training.labels).tolist() == [2] * 100
    assert training.class_names[:2] == ["apple", "aquarium_fish"] and training.labels[0] == 19  # cattle
