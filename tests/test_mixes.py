"""Every mix of the registry under its contract."""

import numpy as np
import pytest
import torch

from evo.bank import PatternBank
from evo.bank_files import save_bank
from evo.errors import UserError
from training.config import make_config
from training.mixes.batch import MixContext, generator_state, set_generator_state
from training.models.patch_model import build_model
from training.models.scaling import Prepare
from training.randomness import Streams
from training.registry import MIXES, load_entry

NAMES = ["a", "b", "c"]


def bank(names=NAMES, grid=2):
    made = PatternBank(grid, len(names), names)
    rng = np.random.default_rng(0)
    made.collect(rng.random((40, grid, grid)) < 0.5, rng.integers(0, len(names), 40), rng.integers(0, len(names), 40))
    return made


def context(mix, tmp_path, *more, **events):
    save_bank(bank(), tmp_path / "bank.json")
    overrides = [f"mix.name={mix}", f"mix.bank={tmp_path / 'bank.json'}", "model.grid=2", "model.width=8",
                 "train.batch_size=6", "search.population=4", "search.generations=3", "search.elites=2", "search.consume=each",
                 "search.start_epoch=1", "search.objective=hard", "search.every=2", *more]  # fmt: skip
    config = make_config({}, overrides)
    torch.manual_seed(0)
    model = build_model(config.model, (1, 8, 8), 3)
    prepare = Prepare(torch.tensor([0.5]), torch.tensor([0.25]), torch.device("cpu"))
    return MixContext(config, model, NAMES, prepare, None, Streams(0), **events)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=generator),
            torch.randint(0, 3, (6,), generator=generator),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", MIXES)
def test_mixes_keep_their_contract(name, tmp_path):
    mix = load_entry(MIXES, name, "mix")(context(name, tmp_path))
    given = batches(mix.span)
    kept = [images.clone() for images, _ in given]
    mixed = list(mix(given, 1))
    assert len(mixed) == mix.span and list(mix([], 1)) == []
    assert (mix.forwards > 0) == (mix.seconds > 0) == MIXES[name].scores
    for item, (images, _), before in zip(mixed, given, kept, strict=True):
        assert torch.equal(images, before)
        assert item.images.shape == images.shape and item.images.min() >= 0 and item.images.max() <= 255
        torch.testing.assert_close(item.targets.sum(1), torch.ones(6))
        assert (item.cell_targets is not None) == MIXES[name].trains_cells
        if item.cell_targets is not None:  # shares of labels among cells are the soft target
            shares = torch.nn.functional.one_hot(item.cell_targets.flatten(1), 3).float().mean(1)
            torch.testing.assert_close(shares, item.targets)


def test_alpha_shapes_the_shares_that_mixup_draws(tmp_path):
    def shares(alpha):
        mix = load_entry(MIXES, "mixup", "mix")(context("mixup", tmp_path, f"mix.alpha={alpha}"))
        return np.array([item.targets.max(1).values.mean() for _ in range(40) for item in mix(batches(1), 1)])

    assert (shares(0.01) > 0.99).mean() > 0.8  # all but unmixed
    assert (abs(shares(100) - shares(100).min()) < 0.2).all()  # close to halves, but for partners of one class


def test_the_switch_takes_mixup_for_some_batches_and_cutmix_for_others(tmp_path):
    mix = load_entry(MIXES, "mixup-or-cutmix", "mix")(context("mixup-or-cutmix", tmp_path))
    whole = [bool((item.images % 1 == 0).all()) for _ in range(40) for item in mix(batches(1), 1)]
    assert 8 < sum(whole) < 32  # CutMix moves pixels, MixUp averages them


@pytest.mark.parametrize("name", ["mixup-or-cutmix", "patchmix", "evolved", "bank", "best-of-k"])
def test_a_restored_mix_goes_on_the_same(name, tmp_path):
    first = load_entry(MIXES, name, "mix")(context(name, tmp_path))
    list(first(batches(first.span), 1))
    state = {key: value.copy() for key, value in first.state().items()}
    expected = list(first(batches(first.span), 1))
    second = load_entry(MIXES, name, "mix")(context(name, tmp_path))
    second.restore(state)
    for left, right in zip(expected, second(batches(first.span), 1), strict=True):
        assert torch.equal(left.images, right.images) and torch.equal(left.targets, right.targets)


def test_evolved_trains_on_each_generations_elites(tmp_path):
    records, searches = [], []
    mix = load_entry(MIXES, "evolved", "mix")(
        context("evolved", tmp_path, on_generation=records.append, on_search=searches.append)
    )
    assert mix.span == 6  # 3 generations x 2 elites
    given = batches(6)
    mixed = list(mix(given, 1))
    assert [record["generation"] for record in records] == [1, 2, 3]
    elites = searches[0].elites
    labels = torch.cat([labels for _, labels in given]).numpy()
    pairs = np.zeros((3, 3))
    for step, item in enumerate(mixed):
        generation, rank = elites[step // 2], 1 - step % 2  # the fitter of the two comes last
        rows = np.arange(6 * step, 6 * step + 6)
        own, partner = labels[rows], labels[generation.pairings[rank][rows]]
        expected = np.where(generation.masks[rank][rows], own[:, None, None], partner[:, None, None])
        assert np.array_equal(item.cell_targets.numpy(), expected)
        np.add.at(pairs, (own, partner), 1)
    assert mix.bank.weights.sum() == 36 and np.array_equal(mix.bank.pairs, pairs)


def test_evolved_takes_fewer_batches_at_an_epochs_end(tmp_path):
    searches = []
    mix = load_entry(MIXES, "evolved", "mix")(context("evolved", tmp_path, on_search=searches.append))
    assert len(list(mix(batches(1), 1))) == 1
    assert len(searches[0].labels) == 6


def test_a_bank_of_another_grid_is_refused_and_one_of_other_classes_lends_its_masks(tmp_path):
    given = context("bank", tmp_path)
    save_bank(bank(grid=3), tmp_path / "bank.json")
    with pytest.raises(UserError, match=r"are 3x3, the model's grid is 2; set -s model.grid=3"):
        load_entry(MIXES, "bank", "mix")(given)
    save_bank(bank(names=["x", "y"]), tmp_path / "bank.json")
    mix = load_entry(MIXES, "bank", "mix")(given)
    known = {mask.tobytes() for mask in bank(names=["x", "y"]).masks}
    masks, pairing = mix.patchmix.draw(torch.tensor([0, 1, 2, 0, 1, 2]))
    assert {mask.tobytes() for mask in masks.numpy()} <= known and sorted(pairing) == list(range(6))
    assert all(len(mixed.images) == 6 for mixed in mix(batches(2), 1))


def test_generator_states_travel_as_numbers():
    rng, other = np.random.default_rng(5), np.random.default_rng(0)
    rng.integers(0, 9, 3, dtype=np.uint8)
    set_generator_state(other, generator_state(rng))
    assert np.array_equal(rng.integers(0, 2**60, 9), other.integers(0, 2**60, 9))
