"""Stored arrays: they come back the same, and a file that is damaged or hostile is one error of one line."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from evo import storage
from evo.errors import UserError
from evo.genome import Population
from evo.packed import Masks
from tests.flips import flip_bits

KINDS = st.sampled_from(["bool", "int32", "uint64", "float32", "float64", "U3", ">i2", "complex64"])
ARRAYS = st.dictionaries(
    st.text("abc/_é", min_size=1, max_size=6),
    KINDS.flatmap(lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4))),
    max_size=4,
)


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@settings(max_examples=40)
@given(ARRAYS, st.booleans())
def test_arrays_come_back_the_same(tmp_path_factory, arrays, columns_first):
    path = tmp_path_factory.mktemp("storage") / "arrays.npz"
    if columns_first:
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    storage.write_arrays(path, arrays)
    again = storage.read_arrays(path, "thing")
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()


def test_searches_come_back_the_same_and_other_schemas_are_told(tmp_path):
    state = storage.flatten({"size": 3}, {"alive": {"masks": np.eye(2, dtype=bool)}})
    storage.write(tmp_path / "search.npz", state, {"best": np.arange(3)})
    again, extra = storage.read(tmp_path / "search.npz")
    meta, groups = storage.unflatten(again)
    assert meta == {"schema": 1, "size": 3} and np.array_equal(groups["alive"]["masks"], np.eye(2))
    assert extra["best"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="a saved search of schema 2, this version reads 1; update Evomix"):
        storage.unflatten({"meta": np.array('{"schema": 2}')})


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"meta": np.array("{")},
        {"meta": np.array("[1]")},
        {"meta": np.array("{}")},
        {"meta": np.array("3")},
        {"meta": np.zeros(3)},
        {"meta": np.array("[" * 100_000)},
        {"meta": np.array('{"schema": true}')},
    ],
)
def test_arrays_that_are_no_state_are_told_in_one_line(arrays):
    with pytest.raises(UserError, match="a saved search") as caught:
        storage.unflatten(arrays)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def population():
    rng = np.random.default_rng(0)
    masks = Masks.pack(rng.random((2, 3, 2, 2)) < 0.5)
    return Population(masks, np.argsort(rng.random((2, 3)), axis=1).astype(np.int32))


def save_search(path):
    storage.write(path, storage.flatten({"a": 1}, {"b": {"c": np.arange(4.0)}}), {"d": np.arange(3)})


def read_search(path):
    state, _ = storage.read(path)
    storage.unflatten(state)


FILES = {"search": (save_search, read_search), "population": (lambda path: population().save(path), Population.load)}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "packed"])
def test_a_bit_that_flipped_anywhere_leaves_a_sound_file_or_one_line(tmp_path, kind, method):
    path = tmp_path / "file.npz"
    save, load = FILES[kind]
    save(path)
    write_members(path, members_of(path), method)
    content, refused = path.read_bytes(), 0
    places = range(0, len(content), 1 + len(content) // 500)
    for flipped in flip_bits(content, places):
        path.write_bytes(flipped)
        try:
            load(path)
        except ValueError as error:
            refused += 1
            assert ("\n" not in str(error) and str(error).isprintable() and str(path) in str(error)) or kind != "search"
    assert refused > len(places) / 4


@pytest.mark.parametrize("kind", FILES)
def test_an_array_that_flipped_a_bit_before_it_was_summed_is_sound_or_one_line(tmp_path, kind):
    path = tmp_path / "file.npz"
    save, load = FILES[kind]
    save(path)
    members = members_of(path)
    for name, content in members.items():
        for flipped in flip_bits(content, range(0, len(content), 1 + len(content) // 40)):
            write_members(path, {**members, name: flipped})
            try:
                load(path)
            except ValueError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("kind", FILES)
def test_what_is_cut_off_missing_or_something_else_is_told(tmp_path, kind):
    path = tmp_path / "file.npz"
    save, load = FILES[kind]
    with pytest.raises(UserError, match="is not a saved .*: there is no such file"):
        load(path)
    save(path)
    content = path.read_bytes()
    members = members_of(path)
    for cut in (b"", content[:1], content[: len(content) // 2], content[:-1], b"{}", content[30:]):
        path.write_bytes(cut)
        with pytest.raises(UserError, match="is not a saved"):
            load(path)
    for name in members:
        write_members(path, {key: value for key, value in members.items() if key != name})
        try:
            load(path)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("grid", [3, 2**15, 2**40, 2**62, 0, -2])
def test_a_population_of_a_grid_its_words_do_not_hold_is_refused_before_room_is_made(tmp_path, grid):
    path = tmp_path / "population.npz"
    storage.write_arrays(path, {"schema": np.array(1), **population().arrays(), "grid": np.array(grid)})
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"G={grid}"):
        Population.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def npy(kind, shape, values=b""):
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values


@pytest.mark.parametrize(
    "content",
    [
        npy("<f8", (10**12,)),
        npy("<f8", (10**30, 10**30)),
        npy("<f8", (-1,), bytes(8)),
        npy("<f8", (-1, -1), bytes(8)),
        npy("<U0", (10**9,)),
        npy("|V0", (10**9,)),
        npy("|O", (1,), bytes(8)),
        npy("<f9", (1,), bytes(9)),
        npy("<U400000000", (3,), bytes(8)),
        npy("<f8", "(" * 4000),
        npy("<f8", "1" * 9000),
        b"\x93NUMPY\x03\x00" + bytes(20),
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f",
        b"",
    ],
)
def test_headers_that_lie_are_refused_before_room_is_made(tmp_path, content):
    path = tmp_path / "file.npz"
    write_members(path, {"a.npy": content})
    tracemalloc.start()
    with pytest.raises(UserError, match="is not a saved thing"):
        storage.read_arrays(path, "thing")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23  # Python's own parser takes some for a long header


def test_a_small_zip_of_a_huge_array_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "file.npz"
    np.savez_compressed(path, a=np.zeros(2**21))
    monkeypatch.setattr(storage, "LARGEST", 2**23)
    size = path.stat().st_size
    assert size < 2**16
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacks to 16 MiB, at most 8 are read"):
        storage.read_arrays(path, "thing")
    content = bytearray(path.read_bytes())  # and one that says it is small
    for place in (content.index(b"PK\x03\x04") + 22, content.index(b"PK\x01\x02") + 24):
        content[place : place + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a saved thing"):
        storage.read_arrays(path, "thing")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_arrays_packed_in_other_ways_are_refused(tmp_path, method):
    path = tmp_path / "file.npz"
    file = io.BytesIO()
    np.save(file, np.zeros(9))
    write_members(path, {"a.npy": file.getvalue()}, method)
    with pytest.raises(UserError, match=r"a\.npy is packed in another way than numpy packs arrays"):
        storage.read_arrays(path, "thing")
