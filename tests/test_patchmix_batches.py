"""PatchMix takes batches of any structure, as torchvision's CutMix does, and passes on what it does not mix."""

import operator
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo.bank import PatternBank
from training.compose import compose, image_targets
from training.mixes import PatchMix, structure

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS, INDEX, NAMES = torch.tensor([0, 1, 2, 3, 4]), torch.arange(10, 15), [f"{row}.jpg" for row in range(5)]
Named = namedtuple("Named", "image label path")
TWO = "might be the images to mix; wrap those that are"


def seeded(**options):
    return PatchMix(num_classes=5, generator=torch.Generator().manual_seed(1), **options)


MIXED, TARGETS = seeded()(IMAGES, LABELS)


def check(given, expected):
    """The same containers of the same types; tensors are equal, all else is the very object."""
    assert type(given) is type(expected)
    if isinstance(expected, dict | UserDict | MappingProxyType):
        assert list(given) == list(expected)
        for key in expected:
            check(given[key], expected[key])
    elif isinstance(expected, tuple | list):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            check(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(given, expected)
    else:
        assert given is expected


BATCHES = {  # each of images, labels -> a batch
    "a pair": lambda x, y: (x, y),
    "a list": lambda x, y: [x, y],
    "three tensors": lambda x, y: (x, y, INDEX),
    "more images": lambda x, y: (x, y, IMAGES),
    "file names": lambda x, y: [x, y, NAMES, INDEX, None, 3],
    "a named tuple": lambda x, y: Named(x, y, NAMES),
    "a dictionary": lambda x, y: {"pixel_values": x, "labels": y},
    "labels first": lambda x, y: {"labels": y, "path": NAMES, "image": x, "mask": torch.ones(5, 8, 8)},
    "other images beside": lambda x, y: {"depth": IMAGES, "Image": x, "label": y},
    "names of labels": lambda x, y: {"img": x, "label_names": NAMES, "Label": y},
    "one kind of label": lambda x, y: {"img": x, "fine_label": y, "index": INDEX},
    "a target": lambda x, y: {"x": x, "target": y},
    "an ordered dictionary": lambda x, y: OrderedDict(image=x, label=y),
    "a user's dictionary": lambda x, y: UserDict(pixel_values=x, labels=y),
    "a default dictionary": lambda x, y: defaultdict(list, image=x, label=y),
    "a read-only dictionary": lambda x, y: MappingProxyType({"image": x, "label": y}),
    "a dictionary of labels": lambda x, y: (x, {"labels": y, "id": INDEX}),
    "a dictionary of inputs": lambda x, y: ({"pixel_values": x, "id": INDEX}, y),
    "nested": lambda x, y: [({"rest": (NAMES, [INDEX]), "x": x},), y],
}


@pytest.mark.parametrize("kind", BATCHES)
def test_what_is_not_mixed_is_passed_on_in_place_and_order(kind):
    batch = BATCHES[kind](IMAGES, LABELS)
    before = IMAGES.clone()
    expected = BATCHES[kind](MIXED, TARGETS)
    check(seeded()(batch), expected)
    check(batch, BATCHES[kind](before, LABELS))  # nothing given is changed
    if isinstance(batch, tuple | list):
        check(tuple(seeded()(*batch)), tuple(expected))
    *rest, masks, pairing = seeded()(batch, return_composition=True)
    check(tuple(rest), tuple(expected) if isinstance(expected, tuple | list) else (expected,))
    assert torch.equal(compose(IMAGES, masks, pairing), MIXED)
    assert torch.equal(image_targets(LABELS, masks, pairing, 5), TARGETS)


@pytest.mark.parametrize("kind", ["three tensors", "a named tuple", "a user's dictionary"])
def test_batches_that_are_not_mixed_keep_their_structure_too(kind):
    for mix in (seeded().eval(), seeded(probability=0)):
        check(mix(BATCHES[kind](IMAGES, LABELS)), BATCHES[kind](IMAGES, torch.eye(5)))


def test_a_bank_mixes_batches_of_any_structure():
    bank = PatternBank(4, 5)
    bank.collect(np.array([np.eye(4, dtype=bool)]), np.array([0]), np.array([1]))
    mix = PatchMix(bank=bank, generator=torch.Generator().manual_seed(1))
    batch, masks, pairing = mix({"image": IMAGES, "label": LABELS, "path": NAMES}, return_composition=True)
    assert batch["path"] is NAMES and torch.equal(batch["image"], compose(IMAGES, masks, pairing))


def test_the_third_argument_is_passed_on_whatever_it_is():
    assert len(seeded()(IMAGES, LABELS, INDEX)) == 3
    assert seeded()(IMAGES, LABELS, torch.tensor(1))[2].item() == 1
    check(seeded()(images=IMAGES, labels=LABELS), (MIXED, TARGETS))
    check(seeded()(IMAGES, labels=LABELS), (MIXED, TARGETS))


def test_a_function_says_which_labels_are_meant():
    fine = seeded(labels_getter=operator.itemgetter("fine_label"))
    batch = {"img": IMAGES, "fine_label": LABELS, "coarse_label": INDEX}
    check(fine(batch), {"img": MIXED, "fine_label": TARGETS, "coarse_label": INDEX})
    check(seeded(labels_getter=lambda batch: batch[2])((NAMES, IMAGES, LABELS)), (NAMES, MIXED, TARGETS))
    check(seeded(labels_getter=lambda batch: batch[0][1])(((IMAGES, LABELS), INDEX)), ((MIXED, TARGETS), INDEX))


def test_torchvisions_tensors_stay_what_they_are_and_are_mixed_alike():
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    image, video = tv_tensors.Image(IMAGES), tv_tensors.Video(IMAGES.unsqueeze(1).expand(-1, 2, -1, -1, -1))
    (views, flow), targets, extra = seeded()((([image, image + 0], video), LABELS, IMAGES))
    assert type(flow) is tv_tensors.Video and torch.equal(flow[:, 1], MIXED) and flow.shape == video.shape
    assert type(views[0]) is tv_tensors.Image and torch.equal(views[0], MIXED)
    assert torch.equal(targets, TARGETS) and extra is IMAGES
    for given_batch in ((image, LABELS, INDEX), [IMAGES, LABELS, NAMES], {"image": IMAGES, "labels": LABELS}):
        ours, theirs = seeded()(given_batch), v2.CutMix(num_classes=5)(given_batch)
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
    for kind in (tv_tensors.Mask(torch.zeros(5, 8, 8)), tv_tensors.KeyPoints(torch.zeros(5, 1, 2), canvas_size=(8, 8))):
        with pytest.raises(ValueError, match=rf"batch\[2\] is a {type(kind).__name__}: PatchMix mixes tensors"):
            seeded()(IMAGES, LABELS, kind)
    with pytest.raises(ValueError, match=r"expected images \(B,T,C,H,W\) with labels"):
        seeded()(video[:, 0].as_subclass(tv_tensors.Video), LABELS)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((), "got nothing"),
        ((IMAGES,), "as two arguments or in a tuple, a list or a dictionary, got Tensor"),
        (((IMAGES, IMAGES), LABELS), rf"each of batch\[0\]\[0\], batch\[0\]\[1\] {TWO}"),
        (({"view1": IMAGES, "view2": IMAGES, "label": LABELS},), rf"each of batch\['view1'\], batch\['view2'\] {TWO}"),
        (({"img": IMAGES, "fine_label": LABELS, "coarse_label": LABELS},), "'fine_label', 'coarse_label' might be the"),
        (({"img": IMAGES, "labels": [0, 1]},), r"labels must be a tensor, got list in batch\['labels'\]"),
        (
            ({"img": IMAGES, "index": INDEX},),
            "found no labels in batch: expected an entry named labels, label, .*'index'",
        ),
        (({"img": IMAGES[0], "labels": LABELS},), r"found no images \(B,C,H,W\).*batch\['img'\] \(3, 8, 8\)"),
        ((IMAGES, NAMES, LABELS), "got Tensor, list and Tensor: the labels are the second item, unless"),
        (((IMAGES, LABELS), INDEX), r"batch\[1\] and batch\[0\]\[1\] might both be the labels"),
        ((INDEX, IMAGES, LABELS), r"expected images \(B,C,H,W\) with labels"),
    ],
)
def test_batches_in_which_they_cannot_be_told_are_refused(batch, words):
    with pytest.raises(ValueError, match=words):
        seeded()(*batch)


def test_functions_that_find_no_labels_are_refused():
    with pytest.raises(ValueError, match='labels_getter must be "default" or a function of the batch, got None'):
        PatchMix(labels_getter=None)
    with pytest.raises(ValueError, match="labels_getter must return a tensor, got list"):
        seeded(labels_getter=lambda batch: [0])(IMAGES, LABELS)
    with pytest.raises(ValueError, match="must return one of the batch's own tensors, got another one"):
        seeded(labels_getter=lambda batch: batch[1] + 0)(IMAGES, LABELS)


containers = st.recursive(
    st.sampled_from(["name", 1, None]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(containers, st.data())
def test_replacing_parts_changes_nothing_else(batch, data):
    found = dict(structure.parts(batch))
    chosen = data.draw(st.sets(st.sampled_from(sorted(found, key=repr)))) if found else set()
    before = repr(batch)
    now = structure.replace(batch, dict.fromkeys(chosen, "new"))
    assert repr(batch) == before and type(now) is type(batch if () not in chosen else "new")
    assert dict(structure.parts(now)) == {path: "new" if path in chosen else part for path, part in found.items()}
    assert all(structure.at(batch, path) is part for path, part in found.items())
