"""Every mix of the shelf under its contract, and PatchMix as a part of other people's loops."""

import numpy as np
import pytest
import torch

from evo.bank import PatternBank
from training.config import UserError, make_config
from training.mixes import MIXES, PatchMix
from training.mixes.batch import MixContext, generator_state, set_generator_state
from training.models.patch_model import build_model
from training.models.trained import Prepare
from training.randomness import Streams
from training.shelf import open_entry

NAMES = ["a", "b", "c"]


def bank(names=NAMES, grid=2):
    made = PatternBank(grid, len(names), names)
    rng = np.random.default_rng(0)
    made.collect(rng.random((40, grid, grid)) < 0.5, rng.integers(0, len(names), 40), rng.integers(0, len(names), 40))
    return made


def context(mix, tmp_path, **events):
    bank().save(tmp_path / "bank.json")
    overrides = [f"mix.name={mix}", f"mix.bank={tmp_path / 'bank.json'}", "model.grid=2", "model.width=8",
                 "train.batch=6", "search.population=4", "search.generations=3", "search.elites=2"]  # fmt: skip
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
    mix = open_entry(MIXES, name, "mix")(context(name, tmp_path))
    given = batches(mix.span)
    kept = [images.clone() for images, _ in given]
    mixed = list(mix(given, 1))
    assert len(mixed) == mix.span and list(mix([], 1)) == []
    for item, (images, _), before in zip(mixed, given, kept, strict=True):
        assert torch.equal(images, before)
        assert item.images.shape == images.shape and item.images.min() >= 0 and item.images.max() <= 255
        torch.testing.assert_close(item.targets.sum(1), torch.ones(6))
        assert (item.cell_targets is not None) == mix.cells
        if item.cell_targets is not None:  # shares of labels among cells are the soft target
            shares = torch.nn.functional.one_hot(item.cell_targets.flatten(1), 3).float().mean(1)
            torch.testing.assert_close(shares, item.targets)


@pytest.mark.parametrize("name", ["patchmix", "evolved", "bank"])
def test_a_restored_mix_goes_on_the_same(name, tmp_path):
    first = open_entry(MIXES, name, "mix")(context(name, tmp_path))
    list(first(batches(first.span), 1))
    state = {key: value.copy() for key, value in first.state().items()}
    expected = list(first(batches(first.span), 1))
    second = open_entry(MIXES, name, "mix")(context(name, tmp_path))
    second.restore(state)
    for left, right in zip(expected, second(batches(first.span), 1), strict=True):
        assert torch.equal(left.images, right.images) and torch.equal(left.targets, right.targets)


def test_evolved_trains_on_each_generations_elites(tmp_path):
    records, searches = [], []
    mix = open_entry(MIXES, "evolved", "mix")(
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
    mix = open_entry(MIXES, "evolved", "mix")(context("evolved", tmp_path, on_search=searches.append))
    assert len(list(mix(batches(1), 1))) == 1
    assert len(searches[0].labels) == 6


def test_a_bank_of_another_grid_is_refused_and_one_of_other_classes_lends_its_masks(tmp_path):
    given = context("bank", tmp_path)
    bank(grid=3).save(tmp_path / "bank.json")
    with pytest.raises(UserError, match=r"are 3x3, the model's grid is 2; set -s model.grid=3"):
        open_entry(MIXES, "bank", "mix")(given)
    bank(names=["x", "y"]).save(tmp_path / "bank.json")
    mix = open_entry(MIXES, "bank", "mix")(given)
    assert (mix.patchmix.bank.affinity() == 1).all() and len(mix.patchmix.bank) > 0


def test_generator_states_travel_as_numbers():
    rng, other = np.random.default_rng(5), np.random.default_rng(0)
    rng.integers(0, 9, 3, dtype=np.uint8)
    set_generator_state(other, generator_state(rng))
    assert np.array_equal(rng.integers(0, 2**60, 9), other.integers(0, 2**60, 9))


class TestPatchMix:
    images = torch.arange(5 * 3 * 9 * 7, dtype=torch.float32).view(5, 3, 9, 7)
    labels = torch.tensor([0, 1, 2, 3, 4])

    def test_it_returns_the_composition_it_applied(self):
        mix = PatchMix(num_classes=5, grid=3, generator=torch.Generator().manual_seed(0))
        before = self.images.clone()
        mixed, targets, masks, pairing = mix(self.images, self.labels, return_composition=True)
        assert torch.equal(self.images, before)
        assert sorted(pairing.tolist()) == [0, 1, 2, 3, 4]
        share = masks.float().mean((1, 2))
        for row in range(5):
            for y in range(9):
                for x in range(7):
                    source = row if masks[row, y * 3 // 9, x * 3 // 7] else int(pairing[row])
                    assert torch.equal(mixed[row, :, y, x], self.images[source, :, y, x])
            expected = torch.zeros(5)
            expected[row] += share[row]
            expected[pairing[row]] += 1 - share[row]
            torch.testing.assert_close(targets[row], expected)

    def test_untouched_batches_are_the_same_and_p_is_a_share_of_calls(self):
        mix = PatchMix(num_classes=5, grid=3, probability=0.3, generator=torch.Generator().manual_seed(0))
        touched = 0
        for _ in range(400):
            mixed, targets, masks, _ = mix(self.images, self.labels, return_composition=True)
            if masks.all() and mixed is self.images:
                assert torch.equal(targets, torch.eye(5))
            else:
                touched += 1
        assert 80 < touched < 160

    def test_generators_decide_alone(self):
        one, two = (PatchMix(num_classes=5, grid=3, generator=torch.Generator().manual_seed(4)) for _ in range(2))
        torch.manual_seed(0)
        first = one(self.images, self.labels)[0]
        torch.manual_seed(1)
        assert torch.equal(first, two(self.images, self.labels)[0])
        assert not torch.equal(first, two(self.images, self.labels)[0])

    def test_without_a_generator_torchs_seed_decides(self):
        mix = PatchMix(num_classes=5, grid=3)
        torch.manual_seed(0)
        first = mix(self.images, self.labels)[0]
        torch.manual_seed(0)
        assert torch.equal(first, mix(self.images, self.labels)[0])

    def test_one_image_and_soft_labels(self):
        mixed, targets = PatchMix(grid=3)(self.images[:1], torch.tensor([[0.25, 0.75]]))
        assert torch.equal(mixed, self.images[:1])
        torch.testing.assert_close(targets, torch.tensor([[0.25, 0.75]]))

    def test_a_bank_is_drawn_from(self, tmp_path):
        made = PatternBank(3, 5, list("abcde"))
        made.collect(np.array([np.eye(3, dtype=bool)]), np.array([0]), np.array([1]))
        made.save(tmp_path / "one.json")
        mix = PatchMix(bank=tmp_path / "one.json")
        _, _, masks, _ = mix(self.images, self.labels, return_composition=True)
        assert torch.equal(masks, torch.eye(3, dtype=torch.bool).expand(5, 3, 3))

    @pytest.mark.parametrize(
        ("options", "images", "labels", "words"),
        [
            ({"grid": 0}, None, None, "grid must be at least 1, got 0"),
            ({"probability": 1.5}, None, None, "probability must be 0..1, got 1.5"),
            ({"sampler": "stars"}, None, None, "unknown sampler 'stars'; there are bernoulli, box"),
            ({"grid": 8, "num_classes": 5}, images, labels, "a grid of 8 does not fit images of 9x7; at most 7"),
            ({}, images, labels, "integer labels need num_classes"),
            ({"num_classes": 4}, images, labels, r"labels must be 0\.\.3, got 0\.\.4"),
            ({"num_classes": 5}, images, labels[:3], r"\(5, 3, 9, 7\) and \(3,\)"),
            ({"num_classes": 5}, images, labels.float(), "must be integers, got torch.float32"),
            ({"num_classes": 5}, images, torch.eye(5)[:, :4], "num_classes is 5, labels have 4 columns"),
        ],
    )
    def test_values_that_do_not_fit_are_refused(self, options, images, labels, words):
        with pytest.raises(ValueError, match=words):
            PatchMix(**options)(images, labels)
