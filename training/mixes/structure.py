"""Where in a batch the images and the labels are, and the same batch with others in their places.

A batch is what a DataLoader yields or torchvision's batch transforms take: tuples, lists and dictionaries (any
Mapping), one in another, with tensors, file names and whatever else in them. A path is the keys and positions that
lead from the batch to one of its parts: (0,) is the first item, (1, "labels") an entry of the second.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

Path = tuple[Any, ...]
LabelsGetter = Callable[[Any], Any]

IMAGE_NAMES = ("pixel_values", "images", "image", "imgs", "img", "inputs", "input", "x")
LABEL_NAMES = ("labels", "label", "targets", "target", "y")  # the first that there is
NOT_MIXED = ("BoundingBoxes", "Mask", "KeyPoints")  # of torchvision's tensors: those that would have to change, too


def parts(batch: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in a batch that is no container, depth first, with its path."""
    if isinstance(batch, Mapping):
        for key in batch:
            yield from parts(batch[key], (*path, key))
    elif isinstance(batch, tuple | list):
        for position, item in enumerate(batch):
            yield from parts(item, (*path, position))
    else:
        yield path, batch


def at(batch: Any, path: Path) -> Any:
    """The part that a path leads to."""
    for step in path:
        batch = batch[step]
    return batch


def replace(batch: Any, values: Mapping[Path, Any]) -> Any:
    """The batch with `values` in the places their paths lead to: new containers of the same types around them.

    Nothing given is changed; what is not replaced is the very object.
    """
    if not values:
        return batch
    if () in values:
        return values[()]
    below: dict[Any, dict[Path, Any]] = {}
    for path, value in values.items():
        below.setdefault(path[0], {})[path[1:]] = value
    changed = {step: replace(batch[step], inner) for step, inner in below.items()}
    if isinstance(batch, MutableMapping):
        entries = copy.copy(batch)
        entries.update(changed)
        return entries
    if isinstance(batch, Mapping):
        return type(batch)({**batch, **changed})  # type: ignore[call-arg]
    items = [changed.get(position, item) for position, item in enumerate(batch)]
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def find(batch: Any, labels_getter: LabelsGetter | None) -> tuple[list[Path], Path]:
    """The paths of the images, one or more, and of the labels. Raises ValueError where they cannot be told.

    Labels: what labels_getter returns of the batch, by identity. Without one the second item of a tuple or list, or
    of a dictionary there (as of a batch that is one) the entry named as LABEL_NAMES says, in any case of letters, or
    the only tensor whose name contains `label`.
    Images: torchvision's tv_tensors Image and Video, all of them, wherever they are. Where there are none, the first
    item of a tuple or list, if it is a tensor (B,C,H,W); else the only tensor of four dimensions, or of several the
    only one named as IMAGE_NAMES has it.
    """
    found = dict(parts(batch))
    for path, part in found.items():
        _check_kind(path, part)
    labels = _found_labels(batch, found) if labels_getter is None else _given_labels(batch, found, labels_getter)
    images = [path for path, part in found.items() if _is_image(part)]
    if labels in images:
        raise ValueError(f"the labels, {shown(labels)}, are a {type(found[labels]).__name__} of torchvision")
    images = images or [_found_images(batch, found, labels)]
    if labels_getter is None:
        _check_single(batch, images, labels)
    return images, labels


def shown(path: Path) -> str:
    """A path as Python writes it."""
    return "batch" + "".join(f"[{step!r}]" for step in path)


def _given_labels(batch: Any, found: dict[Path, Any], getter: LabelsGetter) -> Path:
    labels = getter(batch)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels_getter must return a tensor, got {type(labels).__name__}")
    for path, part in found.items():
        if part is labels:
            return path
    raise ValueError("labels_getter must return one of the batch's own tensors, got another one")


def _found_labels(batch: Any, found: dict[Path, Any]) -> Path:
    if isinstance(batch, Mapping):
        return _named_labels(batch, ())
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(
            "expected images and labels, as two arguments or in a tuple, a list or a dictionary, "
            f"got {_kinds(batch) if isinstance(batch, tuple | list) else type(batch).__name__}"
        )
    if isinstance(batch[1], Mapping):
        return _named_labels(batch[1], (1,))
    if not isinstance(batch[1], Tensor):
        raise ValueError(
            f"expected tensors of images and labels, got {_kinds(batch)}: the labels are the second item, unless "
            "PatchMix(labels_getter=...) says where they are"
        )
    return (1,)


def _named_labels(entries: Mapping[Any, Any], path: Path) -> Path:
    names = {key: key.lower() for key in entries if isinstance(key, str)}
    for wanted in LABEL_NAMES[:2]:
        for key, name in names.items():
            if name == wanted:
                return _tensor_entry(entries, key, path)
    like = [key for key, name in names.items() if "label" in name and isinstance(entries[key], Tensor)]
    if len(like) == 1:
        return (*path, like[0])
    if like:
        raise ValueError(
            f"each of {', '.join(map(repr, like))} might be the labels; say which with "
            f"PatchMix(labels_getter=operator.itemgetter({like[0]!r})), or another function of the batch"
        )
    for wanted in LABEL_NAMES[2:]:
        for key, name in names.items():
            if name == wanted:
                return _tensor_entry(entries, key, path)
    raise ValueError(
        f"found no labels in {shown(path)}: expected an entry named {', '.join(LABEL_NAMES)}, got "
        f"{', '.join(map(repr, entries)) or 'none'}; say which they are with PatchMix(labels_getter=...)"
    )


def _tensor_entry(entries: Mapping[Any, Any], key: str, path: Path) -> Path:
    if not isinstance(entries[key], Tensor):
        raise ValueError(f"labels must be a tensor, got {type(entries[key]).__name__} in {shown((*path, key))}")
    return (*path, key)


def _found_images(batch: Any, found: dict[Path, Any], labels: Path) -> Path:
    tensors = {path: part for path, part in found.items() if isinstance(part, Tensor) and path != labels}
    if (0,) in tensors and isinstance(batch, tuple | list):
        first = tensors[0,]
        if first.ndim == 4 or not any(tensor.ndim == 4 for tensor in tensors.values()):
            return (0,)
    four = [path for path, tensor in tensors.items() if tensor.ndim == 4]
    if len(four) > 1:
        named = [path for path in four if isinstance(path[-1], str) and path[-1].lower() in IMAGE_NAMES]
        if len(named) != 1:
            raise ValueError(
                f"each of {', '.join(map(shown, four))} might be the images to mix; wrap those that are, one or "
                "several, in torchvision.tv_tensors.Image"
            )
        four = named
    if not four and isinstance(batch, tuple | list):
        raise ValueError(f"expected tensors of images and labels, got {_kinds(batch)}")
    if not four:
        shapes = ", ".join(f"{shown(path)} {tuple(tensor.shape)}" for path, tensor in tensors.items())
        raise ValueError(f"found no images (B,C,H,W) beside the labels, {shown(labels)}; got {shapes or 'no tensors'}")
    return four[0]


def _check_single(batch: Any, images: list[Path], labels: Path) -> None:
    """Refuse ((images, labels), index): its second item, an integer too, would pass for the labels."""
    for path in images:
        if len(path) < 2 or path[0] == labels[0] or not isinstance(batch, tuple | list):
            continue
        inner = batch[path[0]]
        try:
            other = (path[0], *_found_labels(inner, {}))
        except ValueError:
            continue
        if len(at(batch, other)) == len(at(batch, labels)) and other not in images:
            raise ValueError(
                f"{shown(labels)} and {shown(other)} might both be the labels; say which with "
                "PatchMix(labels_getter=...)"
            )


def _is_image(part: Any) -> bool:
    kinds = sys.modules.get("torchvision.tv_tensors")  # who has such a tensor has imported it
    return kinds is not None and isinstance(part, kinds.Image | kinds.Video)


def _check_kind(path: Path, part: Any) -> None:
    kinds, pillow = sys.modules.get("torchvision.tv_tensors"), sys.modules.get("PIL.Image")
    refused = [] if kinds is None else [getattr(kinds, name) for name in NOT_MIXED if hasattr(kinds, name)]
    if pillow is not None:
        refused.append(pillow.Image)
    if isinstance(part, tuple(refused)):
        raise ValueError(
            f"{shown(path)} is a {type(part).__name__}: PatchMix mixes tensors of images only, and does not change PIL "
            "images, bounding boxes, masks or keypoints along; leave it out of the batch"
        )


def _kinds(batch: tuple[Any, ...] | list[Any]) -> str:
    kinds = [type(item).__name__ for item in batch]
    return " and ".join([", ".join(kinds[:-1]), kinds[-1]]) if len(kinds) > 1 else (kinds or ["an empty one"])[0]
