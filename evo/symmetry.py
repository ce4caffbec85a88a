"""Masks under the symmetries of the grid: 4 rotations, each mirrored, and the complement of each: 16 in all."""

from __future__ import annotations

import numpy as np

from evo.arrays import Array

SYMMETRIES = 16


def images(masks: Array) -> Array:
    """Turn masks into all their symmetric forms.

    Args:
        masks: (N,G,G) bool.

    Returns:
        (16,N,G,G) bool: the masks themselves first, then under each other symmetry.
    """
    turned = [np.rot90(form, turns, axes=(1, 2)) for form in (masks, masks[:, :, ::-1]) for turns in range(4)]
    return np.stack([*turned, *(~form for form in turned)])


def canonical(masks: Array) -> tuple[Array, Array]:
    """Find one form for all masks that are alike under a symmetry.

    The form is the first in reading order that keeps fewest cells at its beginning.

    Args:
        masks: (N,G,G) bool.

    Returns:
        The form of each mask, (N,G,G) bool, and how many masks are alike with it, (N,) int64: 2 to 16.

    Example:
        >>> corners = np.zeros((2, 2, 2), bool)
        >>> corners[0, 0, 0] = corners[1, 1, 1] = True
        >>> forms, sizes = canonical(corners)
        >>> bool((forms[0] == forms[1]).all()), sizes
        (True, array([8, 8]))
    """
    if not len(masks):
        return masks.copy(), np.zeros(0, np.int64)
    forms = images(masks)
    words = np.stack([_pack_words(form) for form in forms])
    first = words[0].copy()
    itself = np.zeros(len(masks), np.int64)
    chosen = np.zeros(len(masks), np.int64)
    for number, word in enumerate(words):
        before = _precedes(word, first)
        first[before] = word[before]
        chosen[before] = number
        itself += (word == words[0]).all(axis=1)
    return forms[chosen, np.arange(len(masks))], SYMMETRIES // itself


def orbits(masks: Array) -> tuple[Array, Array]:
    """Group masks that are alike under a symmetry.

    Args:
        masks: (N,G,G) bool.

    Returns:
        Where each group first stands, (U,) int64, and the group of each mask, (N,) int64.
    """
    form, _ = canonical(masks)
    words = _pack_words(form)
    _, index, inverse = np.unique(
        words[:, 0] if words.shape[1] == 1 else words, axis=0, return_index=True, return_inverse=True
    )
    return index, inverse.ravel()


def _pack_words(masks: Array) -> Array:
    """(N,W) uint64, ordered as the cells are in reading order."""
    packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
    octets = np.zeros((len(masks), -(-packed.shape[1] // 8) * 8), np.uint8)
    octets[:, : packed.shape[1]] = packed
    return octets.view(">u8").astype(np.uint64)


def _precedes(one: Array, two: Array) -> Array:
    """(N,) bool: whether words (N,W) of one come before those of two."""
    place = (one != two).argmax(axis=1)
    rows = np.arange(len(one))
    result: Array = one[rows, place] < two[rows, place]
    return result
