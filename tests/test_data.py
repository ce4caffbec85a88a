"""Data sets: digits, folders, Tiny ImageNet's tree, real CIFAR-10 where it is, subsets, augmentation."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evo.errors import UserError
from training.data import folder, image_set
from training.data.augment import GREY, augment
from training.data.decode import Decoder
from training.data.image_set import CPU, FileSet, ImageSet, ShardSet, UnreadableImage, subset_indices
from training.data.load import load_data, place, without_near_duplicates
from training.data.prefetch import AHEAD, prefetch
from training.options import DataOptions
from training.registry import DATASETS, load_entry


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_opens(name):
    assert callable(load_entry(DATASETS, name, "data set"))


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


def test_validation_images_follow_the_subset_in_the_tests_place():
    whole, _ = load_data(DataOptions())
    for order in ({}, {"subset_seed": 3}):
        training, validation = load_data(DataOptions(subset=5, subset_start=2, validation=3, **order))
        after, _ = load_data(DataOptions(subset=3, subset_start=7, **order))
        assert torch.equal(validation.images, after.images) and torch.bincount(validation.labels).tolist() == [3] * 10
        assert not any((training.images == image).flatten(1).all(1).any() for image in validation.images)
    most = int(torch.bincount(whole.labels).min())
    with pytest.raises(UserError, match=rf"training images, images {most}\.\.{most} of it were asked for"):
        load_data(DataOptions(subset=most, validation=1))


def test_near_duplicates_are_those_that_were_published():
    kept = without_near_duplicates("cifar10", 10_000)
    assert len(kept) == 10_000 - 286 and len(without_near_duplicates("cifar100", 10_000)) == 10_000 - 891
    assert {30, 32, 9999} <= set(kept.tolist()) and not {31, 40, 9951} & set(kept.tolist())


def test_statistics_are_the_channels():
    images = torch.randint(0, 256, (50, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = ImageSet(images, torch.zeros(50, dtype=torch.long), ["a"]).statistics()
    torch.testing.assert_close(mean, (images.float() / 255).mean((0, 2, 3)))
    torch.testing.assert_close(std, (images.float() / 255).std((0, 2, 3), correction=0))


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(3, 9), st.integers(3, 9), st.integers(0, 2), st.booleans(), st.integers(0, 999))
def test_augmented_pixels_are_shifted_and_mirrored_ones(count, height, width, crop, flip, seed):
    images = torch.arange(count * 2 * height * width).view(count, 2, height, width)
    given_images = images.clone()
    result = augment(images, crop, flip, 0, torch.Generator().manual_seed(seed))
    assert torch.equal(images, given_images) and result.shape == images.shape
    for image, changed in zip(images, result, strict=True):
        padded = torch.nn.functional.pad(image.float(), (crop,) * 4, mode="reflect").long() if crop else image
        views = [padded[:, y : y + height, x : x + width] for y in range(2 * crop + 1) for x in range(2 * crop + 1)]
        views += [view.flip(2) for view in views] if flip else []
        assert any(torch.equal(changed, view) for view in views)


def test_augmentation_uses_every_shift_and_both_sides():
    images = torch.arange(64).view(1, 1, 8, 8).expand(4000, 1, 8, 8)
    result = augment(images, 1, True, 0, torch.Generator().manual_seed(0))
    kinds, counts = torch.unique(result.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 18 and counts.min() > 4000 / 18 * 0.7


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
def test_cutout_erases_one_square_that_may_hang_over_the_border(count, height, width, side, seed):
    images = torch.full((count, 2, height, width), 7, dtype=torch.uint8)
    result = augment(images, 0, False, side, torch.Generator().manual_seed(seed))
    assert (images == 7).all()
    for image in result:
        erased = image == GREY
        assert torch.equal(erased[0], erased[1]) and ((image == 7) | erased).all()
        rows, columns = erased[0].any(1).nonzero().flatten(), erased[0].any(0).nonzero().flatten()
        assert erased[0].sum() == len(rows) * len(columns)  # a rectangle
        for places, length in ((rows, height), (columns, width)):
            assert places.tolist() == list(range(int(places[0]), int(places[-1]) + 1)) and len(places) <= side
            assert len(places) == side or places[0] == 0 or places[-1] == length - 1
            assert len(places) >= min(length, side // 2, 1)
    filled = augment(images, 0, False, side, torch.Generator().manual_seed(seed), fill=torch.tensor([1.0, 2.0]))
    assert torch.equal(filled == torch.tensor([1, 2]).view(2, 1, 1), result == GREY)


def test_cutouts_centre_is_any_pixel():
    result = augment(torch.zeros(4000, 1, 5, 5, dtype=torch.uint8), 0, False, 1, torch.Generator().manual_seed(0))
    counts = (result == GREY).sum((0, 1))
    assert counts.sum() == 4000 and counts.min() > 4000 / 25 * 0.6
    result = augment(torch.zeros(4000, 1, 5, 5, dtype=torch.uint8), 0, False, 3, torch.Generator().manual_seed(0))
    erased = (result == GREY).float().mean((0, 1))  # 2/5 x 2/5 in a corner, 3/5 x 3/5 within
    share = torch.tensor([0.4, 0.6, 0.6, 0.6, 0.4])
    torch.testing.assert_close(erased, share[:, None] * share, rtol=0, atol=0.04)


def test_without_cutout_the_stream_is_as_it_was():
    """What crop and mirror draw is part of a run's results: two draws, in this order."""
    images = torch.arange(3 * 36).view(3, 1, 6, 6)
    generator, expected = (torch.Generator().manual_seed(5) for _ in range(2))
    result = augment(images, 2, True, 0, generator)
    shift = torch.randint(-2, 3, (2, 3, 1), generator=expected)
    mirror = torch.rand(3, 1, generator=expected) < 0.5
    assert torch.equal(generator.get_state(), expected.get_state())
    padded = torch.nn.functional.pad(images.float(), (2,) * 4, mode="reflect").long()
    for index in range(3):
        row, column = (shift[:, index, 0] + 2).tolist()
        view = padded[index, :, row : row + 6, column : column + 6]
        assert torch.equal(result[index], view.flip(2) if mirror[index] else view)


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


def test_folders_without_images_and_broken_images_are_named(tree, capsys):
    for part in ("train", "val"):
        (tree / part / "empty").mkdir()
    with pytest.raises(UserError, match="no images in .*empty"):
        load_data(DataOptions(name="folder", root=str(tree)))
    for part in ("train", "val"):
        (tree / part / "empty").rmdir()
    (tree / "train" / "cat" / "broken.png").write_bytes(b"not an image")
    options = {"name": "folder", "root": str(tree), "image_size": 8}
    with pytest.raises(
        UserError,
        match=r"1 of 7 images cannot be read: .*broken.png \(text, .*'\); repair .*max_unreadable=0",
    ):
        load_data(DataOptions(**options))
    training = load_data(DataOptions(**options, max_unreadable=0.2))[0]
    assert training.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "1 of 7 images cannot be read" in capsys.readouterr().err
    for path in (tree / "train" / "cat").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no image that can be read is left of 1 classes: cat"):
        load_data(DataOptions(**options, max_unreadable=0.9))


def test_many_broken_images_are_counted_and_ten_are_named(tree):
    for index in range(12):
        (tree / "train" / "dog" / f"broken{index:02d}.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"12 of 18 images cannot be read: .*broken09.png \(an empty file.*\), \.\.\.;"
    ) as caught:
        load_data(DataOptions(name="folder", root=str(tree), image_size=8, max_unreadable=0.5))
    assert str(caught.value).count("/broken") == 10


def test_a_lazy_sets_unreadable_images_are_replaced_by_others_of_their_class(tree, monkeypatch):
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 10)
    (tree / "train" / "cat" / "0.png").write_bytes(b"")
    (tree / "train" / "dog" / "2.png").write_bytes(b"")
    options = {"name": "folder", "root": str(tree), "image_size": 8}
    lazy = load_data(DataOptions(**options, max_unreadable=0.4))[0]
    images, labels = lazy.batch(torch.arange(6))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(images[0], images[1]) and torch.equal(images[5], images[3])
    assert sorted(path.name for path in lazy.unreadable) == ["0.png", "2.png"]
    with pytest.raises(UserError, match="2 of 6 images cannot be read"):
        load_data(DataOptions(**options, max_unreadable=0.2))
    later = load_data(DataOptions(**options, max_unreadable=0.4))[0]
    (tree / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match="3 of 6 images cannot be read"):
        list(later.batches([torch.arange(6)]))


def test_test_classes_unlike_the_training_classes_are_named(tree):
    (tree / "val" / "dog").rename(tree / "val" / "wolf")
    with pytest.raises(UserError, match="classes of .*val are not those of .*train: missing dog; only there wolf"):
        load_data(DataOptions(name="folder", root=str(tree)))


def save(path, mode):
    """A picture whose left half is dark and right half bright, 16 wide and 8 high."""
    values = np.full((8, 16), 40, dtype=np.uint8)
    values[:, 8:] = 200
    grey = Image.fromarray(values)
    if mode == "I;16":
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    elif mode == "transparent palette":
        grey.convert("P").save(path, transparency=bytes(range(256)))
    elif mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # turn clockwise by 90 degrees to see it upright
        grey.rotate(90, expand=True).save(path, exif=exif)
    elif mode == "1":
        Image.fromarray(values > 100).save(path)
    else:
        grey.convert(mode).save(path)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("L", "jpg"), ("RGB", "jpg"), ("CMYK", "jpg"), ("turned", "jpg"), ("L", "png"), ("1", "png"), ("LA", "png"),
        ("P", "png"), ("transparent palette", "png"), ("RGBA", "png"), ("I;16", "png"), ("I;16", "tiff"),
        ("CMYK", "tiff"), ("RGB", "webp"), ("RGB", "bmp"), ("RGB", "ppm"),
    ],
)  # fmt: skip
def test_every_kind_of_image_is_decoded(tmp_path, mode, ending, recwarn):
    path = tmp_path / f"image.{ending}"
    save(path, mode)
    pixels = Decoder(8)(path)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == torch.uint8
    dark, bright = (0, 255) if mode == "1" else (40, 200)
    assert (pixels[:, :, :3].int() - dark).abs().max() <= 6 and (pixels[:, :, 5:].int() - bright).abs().max() <= 6
    assert not recwarn.list


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_truncated_files_are_unreadable(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match="image"):
        Decoder(8)(path)


def test_large_jpegs_are_shrunk_no_further_than_the_square(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((480, 320), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.save(tmp_path / "a.png")
    fast, whole = (Decoder(64)(tmp_path / name).float() for name in ("a.jpg", "a.png"))
    assert (fast - whole).abs().mean() < 4


def write_set(kind, count, tmp_path):
    """The same images as an ImageSet, a FileSet or a ShardSet."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    names = ["a", "b"]
    if kind == "memory":
        return ImageSet(images, labels, names, crop=1)
    if kind == "files":
        return FileSet(range(count), labels, names, (3, 4, 4), lambda index: images[index], crop=1)
    shards = []
    for number, part in enumerate(images.split(5)):
        np.save(tmp_path / f"{number}.npy", part.numpy())
        shards.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    scaling = ImageSet(images, labels, names).statistics()
    return ShardSet(shards, torch.arange(count), labels, names, scaling, crop=1)


@settings(max_examples=15)
@given(st.integers(1, 17), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_all_sets_give_the_same_batches(tmp_path_factory, count, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.randint(count, (size,), generator=generator) for size in sizes]
    kept = torch.randperm(count, generator=generator)[: max(1, count // 2)]
    folder = tmp_path_factory.mktemp("shards")
    expected, *others = (write_set(kind, count, folder) for kind in ("memory", "files", "shards"))
    for other in others:
        assert (len(other), other.shape, other.crop) == (count, (3, 4, 4), 1)
        for left, right in zip(expected.batches(chosen), other.batches(chosen), strict=True):
            assert torch.equal(left[0], right[0]) and torch.equal(left[1], right[1])
        few, many = other.select(kept).to(CPU), expected.select(kept)
        assert torch.equal(few.batch(torch.arange(len(kept)))[0], many.images) and torch.equal(few.labels, many.labels)


def test_batches_are_made_ahead_in_order_and_end_with_their_consumer():
    made, drawn = [], []

    def indices():
        for number in range(20):
            drawn.append(threading.current_thread())
            yield torch.tensor([number])

    def make(chosen):
        made.append(int(chosen))
        return chosen, chosen

    before = threading.active_count()
    batches = prefetch(make, indices())
    assert made == []
    assert [int(next(batches)[0]) for _ in range(4)] == [0, 1, 2, 3]
    batches.close()
    assert 4 <= len(made) <= 4 + AHEAD and made == sorted(made)
    assert threading.active_count() == before
    assert set(drawn) == {threading.current_thread()}
    assert [int(batch[0]) for batch in prefetch(make, indices())] == list(range(20))
    assert threading.active_count() == before


@pytest.mark.parametrize("where", ["make", "indices", "consumer"])
def test_errors_reach_the_consumer_and_threads_end(where):
    def indices():
        yield from torch.arange(5).split(1)
        if where == "indices":
            raise UserError("here")

    def make(chosen):
        if where == "make" and chosen == 3:
            raise UserError("here")
        return chosen, chosen

    before, seen = threading.active_count(), []
    with pytest.raises(UserError, match="here"):
        for number, _ in prefetch(make, indices()):
            seen.append(int(number))
            if where == "consumer" and number == 2:
                raise UserError("here")
    assert seen == list(range({"make": 3, "indices": 2, "consumer": 3}[where]))
    gc.collect()
    assert threading.active_count() == before


def test_resident_images_move_and_others_wait_in_the_hosts_memory(monkeypatch, tmp_path):
    device = torch.device("meta")  # stands in for a GPU: it takes tensors, and nothing can be read there
    monkeypatch.setattr(image_set, "free_memory", lambda device: 1000.0)
    small, large = write_set("memory", 5, tmp_path), write_set("memory", 20, tmp_path)  # 240 and 960 bytes
    assert small.to(device).images.device == device and small.to(device).device is None
    assert large.to(device).images.device == CPU and large.to(device).device == device
    assert small.to(device, "host").images.device == CPU
    assert large.to(device, "device").images.device == device
    options = DataOptions(resident="host")
    assert place(small, device, options).device == device and place(small, CPU, options).device is None
    for images, labels in large.to(device).batches([torch.tensor([3, 1]), torch.tensor([0])]):
        assert images.device == labels.device == device and images.shape[1:] == (3, 4, 4)


def test_augmentation_options_replace_the_sets_own(tree):
    options = {"name": "folder", "root": str(tree), "image_size": 16}
    training, test = load_data(DataOptions(**options))
    assert (training.crop, training.flip, training.cutout, test.cutout) == (2, True, 0, 0)
    training, test = load_data(DataOptions(**options, crop=0, flip=False, cutout=5))
    assert (training.crop, training.flip, training.cutout, test.cutout) == (0, False, 5, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subset_start": 3}, "data.subset_start has no effect without data.subset"),
        ({"subset_seed": 0}, "data.subset_seed has no effect without data.subset"),
        ({"validation": 2}, "data.validation has no effect without data.subset"),
        ({"exclude_near_duplicates": True}, "the near-duplicates of digits are not known; .* one of cifar10, cifar100"),
        ({"image_size": 16}, "images of digits have one size; leave it out, or take one of tiny-imagenet, folder"),
        ({"crop": 8}, "data.crop=8 is larger than images of 8 pixels allow; set 7 or less"),
        ({"cutout": 9}, "data.cutout=9 is larger than images of 8 pixels allow; set 8 or less"),
    ],
)
def test_options_without_effect_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        load_data(DataOptions(**options))


def test_one_process_downloads_while_others_wait(tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    def fetch(self):  # torchvision's looks for the files first, too
        raw = tmp_path / "FashionMNIST" / "raw"
        if raw.is_dir():
            return
        fetched.append(threading.current_thread())
        time.sleep(0.05)
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((10, 28, 28), np.uint8))
            write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(10, dtype=np.uint8))

    fetched = []
    monkeypatch.setattr(FashionMNIST, "download", fetch)
    options = DataOptions(name="fashion-mnist", root=str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        sizes = list(pool.map(lambda _: len(load_data(options)[0]), range(3)))
    assert sizes == [10] * 3 and len(fetched) == 1


def test_real_cifar10(data_root):
    if not (data_root / "cifar-10-batches-py" / "test_batch").is_file():
        pytest.skip("CIFAR-10 is not here (EVOMIX_DATA or data/)")
    training, test = load_data(DataOptions(name="cifar10", root=str(data_root), download=False, subset=3))
    assert training.shape == (3, 32, 32) and len(test) == 10_000
    assert torch.bincount(training.labels).tolist() == [3] * 10
    assert training.class_names[:2] == ["airplane", "automobile"]
    options = DataOptions(name="cifar10", root=str(data_root), download=False, exclude_near_duplicates=True)
    assert len(load_data(options)[1]) == 10_000 - 286
    assert training.labels[0] == 6 and training.images[0, :, 0, 0].tolist() == [59, 62, 63]  # the first image: a frog


def test_real_cifar100(data_root):
    if not (data_root / "cifar-100-python" / "train").is_file():
        pytest.skip("CIFAR-100 is not here (EVOMIX_DATA or data/)")
    training, test = load_data(DataOptions(name="cifar100", root=str(data_root), download=False, subset=2))
    assert training.shape == (3, 32, 32) and len(test) == 10_000
    assert torch.bincount(training.labels).tolist() == [2] * 100
    assert training.class_names[:2] == ["apple", "aquarium_fish"] and training.labels[0] == 19  # cattle
