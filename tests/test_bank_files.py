"""Pattern files: they come back the same, and strangers' files are a sound bank or one line."""

import json
import pickle
import time
import tracemalloc
import unicodedata
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo import bank_files as module
from evo.bank import PatternBank
from evo.bank_files import as_json, load_bank, save_bank
from evo.errors import BankError
from tests.flips import flip_bits
from tests.test_bank import filled


@settings(max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 7), st.integers(0, 60), st.integers(0, 2**31), st.sampled_from(["json", "npz"])
)
def test_files_come_back_the_same(tmp_path_factory, grid, classes, rows, seed, ending):
    path = tmp_path_factory.mktemp("bank") / f"bank.{ending}"
    bank = filled(grid, classes, rows, seed)
    save_bank(bank, path)
    again = load_bank(path)
    assert again.class_names == bank.class_names and again.grid == grid
    for name in ("masks", "weights", "pairs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def sound():
    bank = filled(2, 2, 5)
    return json.loads(as_json(bank))


def change(**values):
    return lambda data: data.update(values)


def change_pattern(**values):
    return lambda data: data["patterns"][0].update(values)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change(schema=2), "schema 2, this version reads 1"),
        (change(grid=0), "must be"),
        (change(grid="2"), "`grid` must be an integer"),
        (change(grid=True), "`grid` must be an integer"),
        (change(grid=3), "must be 3 rows of 3 characters"),
        (change(grid=10**9), "must be"),
        (change(patterns={}), "`patterns` a list"),
        (change(patterns=[1]), "TypeError"),
        (change(class_names="ab"), "`class_names` must be a list of strings"),
        (change(class_names=[1, 2]), "`class_names` must be a list of strings"),
        (change(pairs=[[1]]), r"pairs must be \(2, 2\)"),
        (change(pairs=[[1, 1], [1, "x"]]), "pairs must be numbers, got 'x'"),
        (change(pairs=[[1, 1], [1, -1]]), "pairs must be finite and not negative"),
        (change_pattern(mask=["#?", ".."]), "characters # or"),
        (change_pattern(mask=["##"]), "must be 2 rows of 2"),
        (change_pattern(weight=float("nan")), "weights must be finite"),
        (change_pattern(weight=-1), "weights must be finite and not negative"),
        (lambda data: data.pop("grid"), "KeyError: 'grid'"),
    ],
)
def test_unsound_json_is_refused_in_one_line(tmp_path, edit, words):
    data = sound()
    edit(data)
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BankError, match=words) as caught:
        load_bank(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pattern file ran code')",)


def test_nothing_in_a_file_can_run(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, schema=np.array(1), masks=np.array([Bomb()], dtype=object), class_names=np.array(["a"]))
    with pytest.raises(BankError, match="not a pattern bank"):
        load_bank(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BankError, match="not a pattern bank"):
        load_bank(path)


def test_huge_files_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "huge.npz"
    np.savez_compressed(path, schema=np.array(1), masks=np.zeros((4000, 30, 30), bool))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(BankError, match="unpacks to"):
        load_bank(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"PK\x03\x04"])
@pytest.mark.parametrize("ending", ["json", "npz"])
def test_other_files_are_refused(tmp_path, content, ending):
    path = tmp_path / f"bank.{ending}"
    path.write_bytes(content)
    with pytest.raises(BankError, match="not a pattern bank"):
        load_bank(path)


def test_missing_and_empty_banks(tmp_path):
    with pytest.raises(BankError, match="no pattern bank at"):
        load_bank(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"\.json or \.npz"):
        save_bank(filled(), tmp_path / "bank.txt")


def soundness(path):
    """Load what may be anything: a sound bank or one line."""
    try:
        bank = load_bank(path)
    except BankError as error:
        assert "\n" not in str(error) and str(error).isprintable()
        return None
    assert np.isfinite(bank.weights).all() and bank.masks.shape == (len(bank.weights), bank.grid, bank.grid)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in "".join(bank.class_names))
    return bank


@settings(max_examples=150)
@given(st.binary(max_size=300), st.sampled_from(["json", "npz"]))
def test_any_bytes_are_a_bank_or_one_line(tmp_path_factory, content, ending):
    path = tmp_path_factory.mktemp("fuzz") / f"bank.{ending}"
    path.write_bytes(content)
    soundness(path)


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["json", "npz"]))
def test_damaged_files_are_a_bank_or_one_line(tmp_path_factory, data, ending):
    path = tmp_path_factory.mktemp("fuzz") / f"bank.{ending}"
    save_bank(filled(3, 2, 8), path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    soundness(path)


ARRAYS = st.one_of(
    st.sampled_from(["bool", "int64", "float32", "float64", "uint8", "complex64", "U3", "S3", "datetime64[s]"]).flatmap(
        lambda kind: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: np.zeros(shape, kind))
    ),
    st.lists(st.text(max_size=4), max_size=3).map(lambda names: np.array(names, np.str_)),
    st.lists(st.floats(width=32), max_size=3).map(np.array),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["schema", "masks", "weights", "pairs", "class_names"]), ARRAYS))
def test_other_arrays_are_a_bank_or_one_line(tmp_path_factory, changed):
    path = tmp_path_factory.mktemp("fuzz") / "bank.npz"
    bank = filled(2, 2, 3)
    arrays = {"schema": np.array(1), "masks": bank.masks, "weights": bank.weights, "pairs": bank.pairs}
    np.savez(path, **{**arrays, "class_names": np.array(["a", "b"]), **changed})
    soundness(path)


def test_huge_shapes_are_refused_before_room_is_made(tmp_path):
    path = tmp_path / "bank.npz"
    cases = {"masks": ("|b1", (10**9, 64, 64)), "weights": ("<f8", (10**12,)), "pairs": ("<f8", (40_000, 40_000))}
    for name, (kind, shape) in cases.items():
        bank = filled(2, 2, 3)
        save_bank(bank, path)
        with zipfile.ZipFile(path) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist()}
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        members[f"{name}.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in members.items():
                archive.writestr(entry, content)
        tracemalloc.start()
        with pytest.raises(BankError, match=name):
            load_bank(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20, name


def test_deep_and_long_json_is_refused(tmp_path):
    path = tmp_path / "bank.json"
    path.write_text('{"schema": 1, "grid": ' + "[" * 100_000)
    with pytest.raises(BankError, match="nested more than 4 deep"):
        load_bank(path)
    path.write_text('{"schema": 1, "a": [' + "[]," * 300_000)
    with pytest.raises(BankError, match="more lists and objects"):
        load_bank(path)
    data = sound()
    data["class_names"] = ['[[[[[["\\[', "b"]  # brackets in a name nest nothing
    path.write_text(json.dumps(data))
    assert load_bank(path).class_names[0] == '[[[[[["\\['


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "\u202eabc", "\x00", "x" * 256, "\ud800"])
def test_names_that_a_terminal_would_obey_are_refused(tmp_path, name):
    data = sound()
    data["class_names"] = [name, "b"]
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BankError, match="without control characters") as caught:
        load_bank(path)
    assert str(caught.value).isprintable()


def test_newer_files_are_told_and_doubled_masks_are_summed(tmp_path):
    path, data = tmp_path / "bank.json", sound()
    path.write_text(json.dumps({**data, "schema": 3}))
    with pytest.raises(BankError, match="schema 3, this version reads 1; a newer Evomix made it"):
        load_bank(path)
    twice = {**data, "patterns": [*data["patterns"], data["patterns"][-1]]}
    path.write_text(json.dumps(twice))
    bank = load_bank(path)
    assert len(bank) == len(data["patterns"]) and (np.diff(bank.weights) <= 0).all()
    assert bank.weights.sum() == sum(pattern["weight"] for pattern in twice["patterns"])


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_names_of_folders_are_made_plain(tmp_path, ending):
    bank = PatternBank(2, 2, ["a\x1b[2J", "b" * 300])
    save_bank(bank, tmp_path / f"bank.{ending}")
    assert load_bank(tmp_path / f"bank.{ending}").class_names == ["a?[2J", "b" * 255]


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_a_bit_that_flipped_anywhere_leaves_a_sound_bank_or_one_line(tmp_path, ending):
    path = tmp_path / f"bank.{ending}"
    save_bank(filled(2, 2, 6), path)
    content, loaded = path.read_bytes(), 0
    places = range(0, len(content), 1 + len(content) // 500)
    for flipped in flip_bits(content, places, stride=5):
        path.write_bytes(flipped)
        loaded += soundness(path) is not None
    assert loaded < len(places) / 2


@pytest.mark.parametrize("name", module.MEMBERS)
def test_an_array_that_is_missing_is_told(tmp_path, name):
    path = tmp_path / "bank.npz"
    save_bank(filled(2, 2, 3), path)
    with np.load(path) as data:
        arrays = {key: array for key, array in data.items() if key != name}
    np.savez(path, **arrays)
    with pytest.raises(BankError, match=f"is not a pattern bank: KeyError: '{name}'"):
        load_bank(path)


@pytest.mark.parametrize(
    "text",
    ['"' + "a" * 2**21, '"' + '\\"' * 2**20, '{"' + "\\\\" * 2**20 + '": 1}', '"a"' * 2**19, "\\" * 2**21, '"\\'],
    ids=["a long string", "escaped quotes", "escapes", "many strings", "no string", "an end"],
)
def test_hostile_strings_take_little_time_and_memory(tmp_path, text):
    path = tmp_path / "bank.json"
    path.write_text(text)
    began = time.process_time()
    tracemalloc.start()
    with pytest.raises(BankError):
        load_bank(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(text) + 2**20 and time.process_time() - began < 30


def test_brackets_are_counted_outside_of_strings_alone():
    for text, depth in (('["[[[[[", {}]', 2), (r'["\"[[[[[", []]', 2), (r'["\\", [[[]]]]', 4), ('["[[[[', 1)):
        found = [token for token in module.BRACKETS.findall(text) if token in "[{"]
        module._check_depth(text)
        assert len(found) == depth, text
    with pytest.raises(ValueError, match="nested more than 4 deep"):
        module._check_depth(r'["\\", [[[[]]]]]')
