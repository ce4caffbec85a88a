"""Pattern banks: files that come back the same, draws that follow weights and affinities, strangers' files."""

import json
import pickle
import unicodedata
from itertools import permutations
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo import bank as module
from evo.bank import Pairing, PatternBank
from evo.errors import BankError


def filled(grid=3, classes=4, rows=50, seed=0):
    bank = PatternBank(grid, classes, [f'class {k} "é"' for k in range(classes)])
    rng = np.random.default_rng(seed)
    bank.collect(rng.random((rows, grid, grid)) < 0.3, rng.integers(0, classes, rows), rng.integers(0, classes, rows))
    return bank


@settings(max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 7), st.integers(0, 60), st.integers(0, 2**31), st.sampled_from(["json", "npz"])
)
def test_files_come_back_the_same(tmp_path_factory, grid, classes, rows, seed, ending):
    path = tmp_path_factory.mktemp("bank") / f"bank.{ending}"
    bank = filled(grid, classes, rows, seed)
    bank.save(path)
    again = PatternBank.load(path)
    assert again.class_names == bank.class_names and again.grid == grid
    for name in ("masks", "weights", "pairs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_collecting_counts_rows_and_pairs():
    bank = PatternBank(2, 2)
    kept = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]]], bool)
    bank.collect(kept, np.array([0, 0, 1]), np.array([1, 1, 0]))
    bank.collect(kept[:1], np.array([0]), np.array([0]))
    assert bank.weights.tolist() == [3, 1] and np.array_equal(bank.masks[0], kept[0])
    assert bank.pairs.tolist() == [[1, 2], [1, 0]]
    assert bank.top(1).weights.tolist() == [3] and len(bank) == 2
    with pytest.raises(ValueError, match="this bank's masks are 2x2"):
        bank.collect(np.zeros((1, 3, 3), bool), np.array([0]), np.array([0]))


def test_affinity_is_lift_over_chance():
    bank = PatternBank(2, 2)
    bank.pairs = np.array([[1.0, 3.0], [3.0, 1.0]])
    np.testing.assert_allclose(bank.affinity(), [[0.5, 1.5], [1.5, 0.5]])
    bank.pairs = np.zeros((2, 2))
    assert (bank.affinity() == 1).all()


def test_draws_follow_weights():
    bank = PatternBank(2, 1)
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]]], bool)
    bank.restore(masks, np.array([3.0, 1.0]), np.ones((1, 1)))
    drawn = np.concatenate([bank.draw(np.zeros(50, int), np.random.default_rng(s))[0] for s in range(40)])
    assert (drawn == masks[0]).all((1, 2)).mean() == pytest.approx(0.75, abs=0.03)


def test_pairings_are_permutations_that_follow_affinity():
    bank = filled(classes=2)
    bank.pairs = np.array([[1.0, 9.0], [9.0, 1.0]])
    labels = np.arange(40) % 2
    other, fixed = [], []
    for seed in range(30):
        _, pairing = bank.draw(labels, np.random.default_rng(seed))
        assert sorted(pairing) == list(range(40)) and pairing.dtype == np.int32
        other.append((labels[pairing] != labels).mean())
        fixed.append((pairing == np.arange(40)).mean())
    assert np.mean(other) > 0.75 and np.mean(fixed) < 0.1
    bank.pairs[:] = 1
    by_chance = [(labels[bank.draw(labels, np.random.default_rng(s))[1]] != labels).mean() for s in range(30)]
    assert np.mean(by_chance) == pytest.approx(0.5, abs=0.08)


def test_decay_keeps_a_share_and_drops_what_has_faded():
    bank = PatternBank(2, 2)
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]]], bool)
    bank.collect(masks[[0, 0, 0, 1]], np.zeros(4, int), np.ones(4, int))
    bank.decay(0.5)
    assert bank.weights.tolist() == [1.5, 0.5] and bank.pairs.tolist() == [[0, 2], [0, 0]]
    bank.collect(masks[1:], np.array([1]), np.array([1]))  # after a decay it counts in full
    assert bank.weights.tolist() == [1.5, 1.5]
    bank.restore(masks, np.array([3.0, 0.09]), np.ones((2, 2)))
    bank.decay(0.5)
    assert bank.weights.tolist() == [1.5] and np.array_equal(bank.masks, masks[:1])
    bank.decay(0)
    assert len(bank) == 0 and not bank.pairs.any()
    with pytest.raises(ValueError, match=r"a share of 0..1 of its weights, got 1.5"):
        bank.decay(1.5)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 30), st.sampled_from(["json", "npz"]))
def test_which_patterns_are_dropped_does_not_depend_on_who_looks_when(tmp_path_factory, seed, most, ending):
    path = tmp_path_factory.mktemp("bank") / f"bank.{ending}"
    rng = np.random.default_rng(seed)
    alone, watched = PatternBank(2, 1), PatternBank(2, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PATTERNS", most)
        for _ in range(12):
            masks = rng.random((int(rng.integers(1, 8)), 2, 2)) < 0.5
            own = np.zeros(len(masks), int)
            for bank in (alone, watched):
                bank.collect(masks, own, own)
            if rng.random() < 0.5:  # a checkpoint, and a run that goes on from it
                watched.save(path)
                again = PatternBank(2, 1)
                again.restore(watched.masks, watched.weights, watched.pairs, watched.uncut)
                watched = again
        alone.save(path)
        loaded = PatternBank.load(path)
    assert alone.uncut == watched.uncut < most and len(alone) <= most + alone.uncut and len(loaded) <= most
    for name in ("masks", "weights", "pairs"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(watched, name))
    assert np.array_equal(loaded.masks, alone.masks[:most])
    assert most < 16 or alone.weights.sum() == alone.pairs.sum()  # all there are have room


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from(get_args(Pairing)))
def test_drawn_pairings_are_permutations(count, classes, seed, how):
    bank = filled(classes=classes, seed=seed)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    before = labels.copy()
    masks, pairing = bank.draw(labels, rng, how)
    assert masks.shape == (count, 3, 3) and pairing.dtype == np.int32
    assert sorted(pairing) == list(range(count)) and np.array_equal(labels, before)


def test_affinity_draws_each_permutation_by_the_product_of_its_affinities():
    bank = PatternBank(2, 3)
    bank.pairs = np.array([[1.0, 4.0, 2.0], [3.0, 1.0, 1.0], [1.0, 2.0, 5.0]])
    labels = np.array([0, 1, 2, 0])
    lift = bank.affinity() + module.SMALLEST_LIFT
    every = list(permutations(range(4)))
    expected = np.array([np.prod([lift[labels[row], labels[partner]] for row, partner in enumerate(p)]) for p in every])
    expected /= expected.sum()
    rng, counts = np.random.default_rng(0), dict.fromkeys(every, 0)
    for _ in range(3000):
        counts[tuple(int(j) for j in bank.draw_pairing(labels, rng, "affinity"))] += 1
    drawn = np.array([counts[p] for p in every]) / 3000
    assert np.abs(drawn - expected).max() < 0.03 and 0.5 * np.abs(drawn - expected).sum() < 0.06


def test_assignment_follows_affinities_in_large_batches_too():
    bank = filled(classes=2)
    bank.pairs = np.array([[1.0, 9.0], [9.0, 1.0]])
    labels = np.arange(300) % 2
    by = {how: bank.draw_pairing(labels, np.random.default_rng(0), how) for how in get_args(Pairing)}
    other = {how: (labels[pairing] != labels).mean() for how, pairing in by.items()}
    assert min(other["assignment"], other["affinity"]) > 0.8 and 0.35 < other["random"] < 0.65


def test_random_pairing_needs_no_labels_and_others_need_known_ones():
    bank = filled(classes=3)
    rng = np.random.default_rng(0)
    unknown = np.full(5, -1)
    assert sorted(bank.draw_pairing(unknown, rng, "random")) == list(range(5))
    for how in ("affinity", "assignment"):
        with pytest.raises(ValueError, match="this bank knows 3 classes"):
            bank.draw_pairing(unknown, rng, how)
    with pytest.raises(ValueError, match=r"unknown pairing 'best'; there are random, affinity, assignment"):
        bank.draw_pairing(unknown, rng, "best")
    with pytest.raises(ValueError, match="this pattern bank is empty"):
        PatternBank(2, 2).draw_masks(3, rng)


@settings(max_examples=40)
@given(st.integers(1, 100), st.integers(0, 60), st.integers(0, 2**31))
def test_kinds_of_rows_are_those_of_numpy(cells, count, seed):
    rows = np.random.default_rng(seed).random((count, cells)) < 0.1
    index, inverse = module._distinct(rows)
    _, expected_index, expected = np.unique(np.packbits(rows, axis=1), axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(index, expected_index) and np.array_equal(inverse, expected.ravel())


def sound():
    bank = filled(2, 2, 5)
    return json.loads(bank._as_json())


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
        PatternBank.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pattern file ran code')",)


def test_nothing_in_a_file_can_run(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, schema=np.array(1), masks=np.array([Bomb()], dtype=object), class_names=np.array(["a"]))
    with pytest.raises(BankError, match="not a pattern bank"):
        PatternBank.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BankError, match="not a pattern bank"):
        PatternBank.load(path)


def test_huge_files_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "huge.npz"
    np.savez_compressed(path, schema=np.array(1), masks=np.zeros((4000, 30, 30), bool))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(BankError, match="unpacks to"):
        PatternBank.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"PK\x03\x04"])
@pytest.mark.parametrize("ending", ["json", "npz"])
def test_other_files_are_refused(tmp_path, content, ending):
    path = tmp_path / f"bank.{ending}"
    path.write_bytes(content)
    with pytest.raises(BankError, match="not a pattern bank"):
        PatternBank.load(path)


def test_missing_and_empty_banks(tmp_path):
    with pytest.raises(BankError, match="no pattern bank at"):
        PatternBank.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="empty"):
        PatternBank(2, 2).draw(np.zeros(3, int), np.random.default_rng(0))
    with pytest.raises(ValueError, match="labels up to 9"):
        filled().draw(np.array([9]), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\.json or \.npz"):
        filled().save(tmp_path / "bank.txt")


def test_banks_merge_filter_and_describe_themselves():
    one, two = filled(2, 3, 40, 1), filled(2, 3, 30, 2)
    merged = PatternBank.merge([one, two])
    together = PatternBank(2, 3, one.class_names)
    for bank in (one, two):
        for mask, weight in zip(bank.masks, bank.weights, strict=True):
            together.collect(np.repeat(mask[None], int(weight), 0), *np.zeros((2, int(weight)), int))
    assert dict(zip(map(bytes, merged.masks), merged.weights, strict=True)) == dict(
        zip(map(bytes, together.masks), together.weights, strict=True)
    )
    assert np.array_equal(merged.pairs, one.pairs + two.pairs) and (np.diff(merged.weights) <= 0).all()
    heavy = merged.heavier_than(5)
    assert heavy.weights.min() >= 5 and heavy.weights.sum() == merged.weights[merged.weights >= 5].sum()
    name = one.class_names[1]
    assert np.array_equal(one.of_classes([name]).pairs, one.pairs * np.array([[0], [1], [0]]))
    with pytest.raises(BankError, match="there is no class 'none' among the patterns' classes"):
        one.of_classes(["none"])
    text = merged.describe()
    assert f"{len(merged)} patterns of 2x2 cells, from 70 rows of 3 classes" in text
    assert "no patterns" in PatternBank(2, 3).describe()
    for other, words in ((PatternBank(3, 3, one.class_names), "of one grid"), (PatternBank(2, 2), "same classes")):
        with pytest.raises(BankError, match=words):
            PatternBank.merge([one, other])
    with pytest.raises(BankError, match="got none"):
        PatternBank.merge([])


def soundness(path):
    """Load what may be anything: a sound bank or one line."""
    try:
        bank = PatternBank.load(path)
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
    filled(3, 2, 8).save(path)
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
    import tracemalloc
    import zipfile

    path = tmp_path / "bank.npz"
    cases = {"masks": ("|b1", (10**9, 64, 64)), "weights": ("<f8", (10**12,)), "pairs": ("<f8", (40_000, 40_000))}
    for name, (kind, shape) in cases.items():
        bank = filled(2, 2, 3)
        bank.save(path)
        with zipfile.ZipFile(path) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist()}
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        members[f"{name}.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in members.items():
                archive.writestr(entry, content)
        tracemalloc.start()
        with pytest.raises(BankError, match=name):
            PatternBank.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20, name


def test_deep_and_long_json_is_refused(tmp_path):
    path = tmp_path / "bank.json"
    path.write_text('{"schema": 1, "grid": ' + "[" * 100_000)
    with pytest.raises(BankError, match="nested more than 4 deep"):
        PatternBank.load(path)
    path.write_text('{"schema": 1, "a": [' + "[]," * 300_000)
    with pytest.raises(BankError, match="more lists and objects"):
        PatternBank.load(path)
    data = sound()
    data["class_names"] = ['[[[[[["\\[', "b"]  # brackets in a name nest nothing
    path.write_text(json.dumps(data))
    assert PatternBank.load(path).class_names[0] == '[[[[[["\\['


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "\u202eabc", "\x00", "x" * 256, "\ud800"])
def test_names_that_a_terminal_would_obey_are_refused(tmp_path, name):
    data = sound()
    data["class_names"] = [name, "b"]
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BankError, match="without control characters") as caught:
        PatternBank.load(path)
    assert str(caught.value).isprintable()


def test_newer_files_are_told_and_doubled_masks_are_summed(tmp_path):
    path, data = tmp_path / "bank.json", sound()
    path.write_text(json.dumps({**data, "schema": 3}))
    with pytest.raises(BankError, match="schema 3, this version reads 1; a newer Evomix made it"):
        PatternBank.load(path)
    twice = {**data, "patterns": [*data["patterns"], data["patterns"][-1]]}
    path.write_text(json.dumps(twice))
    bank = PatternBank.load(path)
    assert len(bank) == len(data["patterns"]) and (np.diff(bank.weights) <= 0).all()
    assert bank.weights.sum() == sum(pattern["weight"] for pattern in twice["patterns"])


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_names_of_folders_are_made_plain(tmp_path, ending):
    bank = PatternBank(2, 2, ["a\x1b[2J", "b" * 300])
    bank.save(tmp_path / f"bank.{ending}")
    assert PatternBank.load(tmp_path / f"bank.{ending}").class_names == ["a?[2J", "b" * 255]
