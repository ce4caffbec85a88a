"""The live search inside training: when it searches, what it draws between, exact resumption."""

import time

import numpy as np
import pytest
import torch

from evo.bank import PatternBank
from evo.bank_files import load_bank, save_bank
from evo.errors import UserError
from training.config import make_config
from training.mixes.batch import MixContext
from training.models.patch_model import build_model
from training.models.scaling import Prepare
from training.randomness import Streams
from training.registry import MIXES, load_entry

NAMES = ["a", "b", "c"]
B = 8


def context(*overrides, name="evolved", **events):
    options = [f"mix.name={name}", "model.grid=2", "model.width=8", f"train.batch_size={B}", "search.population=4",
               "search.generations=3", "search.every=1", "search.consume=each", "search.start_epoch=1",
               "search.objective=hard"]  # fmt: skip
    config = make_config({}, [*options, *overrides])
    torch.manual_seed(0)
    model = build_model(config.model, (1, 8, 8), 3)
    prepare = Prepare(torch.tensor([0.5]), torch.tensor([0.25]), torch.device("cpu"))
    return MixContext(config, model, NAMES, prepare, None, Streams(0), **events)


def build(*overrides, name="evolved", **events):
    given = context(*overrides, name=name, **events)
    return load_entry(MIXES, name, "mix")(given)


def batches(count, seed=1):
    """Image i of the group is all i, so that every mixed pixel tells where it came from."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.arange(count * B, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    labels = torch.randint(0, 3, (count * B,), generator=generator)
    return [(values[i : i + B].contiguous(), labels[i : i + B]) for i in range(0, count * B, B)]


def noise(model):
    """What a training step does to a search: other weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))


def composition(item, batch):
    """The masks (B,2,2) and partners (B,), numbered over the group, of a mixed batch; -1 where a row shows none."""
    source = item.images[:, 0, ::4, ::4].long()
    own = batch[0][:, 0, :1, :1].long()
    masks = source == own
    partner = torch.where(masks, -1, source).flatten(1).amax(1)
    assert ((source == own) | (source == partner.view(-1, 1, 1))).all()
    return masks.numpy(), partner.numpy()


def forwards_of(mix):
    counts = []
    mix.context.model.register_forward_hook(lambda *_: counts.append(1))
    return counts


def test_every_third_group_is_searched_and_the_others_cost_no_forward():
    mix = build("search.every=3", "search.compose_at=pixels")
    counts, searched = forwards_of(mix), []
    for _ in range(7):
        before = len(counts)
        assert len(list(mix(batches(mix.span), 1))) == mix.span == 3
        searched.append(len(counts) > before)
    assert searched == [True, False, False, True, False, False, True]
    assert mix.searches == 3 and mix.forwards > 0


def test_between_searches_masks_come_from_the_live_bank_and_pairings_are_permutations():
    mix = build("search.every=2")
    list(mix(batches(3), 1))
    known = {mask.tobytes() for mask in mix.live.masks}
    assert len(known) < 16  # else this test shows nothing
    given = batches(3)
    for item, batch in zip(mix(given, 1), given, strict=True):
        masks, partner = composition(item, batch)
        shown = partner >= 0
        assert len(set(partner[shown])) == shown.sum()
        assert {mask.tobytes() for mask in masks[shown]} <= known
        own, labels = batch[1].numpy(), batch[1].numpy()[partner % B]
        expected = np.where(masks, own[:, None, None], labels[:, None, None])
        assert np.array_equal(item.cell_targets.numpy()[shown], expected[shown])


@pytest.mark.parametrize(
    ("overrides", "fetched"),
    [
        ([], 0),
        (["search.self_pairing=false", "search.min_cells=1"], 0),
        (["search.same_class=false"], 1),
    ],
)
def test_labels_leave_the_device_only_where_partners_depend_on_them(overrides, fetched, monkeypatch):
    mix = build("search.every=2", *overrides)
    list(mix(batches(3), 1))
    calls = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: calls.append(1) or copy(tensor))
    list(mix(batches(3), 1))
    assert len(calls) == fetched


def test_before_the_start_epoch_compositions_are_those_of_random_patchmix():
    mix, random = build("search.start_epoch=3"), build(name="patchmix")
    for epoch in (1, 2):
        given = batches(3)
        for mine, other in zip(mix(given, epoch), random(given, epoch), strict=True):
            assert torch.equal(mine.images, other.images) and torch.equal(mine.targets, other.targets)
    assert mix.searches == 0 and mix.forwards == 0
    list(mix(batches(3), 3))
    assert mix.searches == 1


def test_after_the_stop_epoch_compositions_are_random_again():
    mix = build("search.start_epoch=2", "search.stop_epoch=2")
    for epoch, searches in ((1, 0), (2, 1), (3, 1)):
        assert len(list(mix(batches(3), epoch))) == 3 and mix.searches == searches
    with pytest.raises(UserError, match="search.stop_epoch must be at least search.start_epoch, got 1 and 2"):
        context("search.start_epoch=2", "search.stop_epoch=1")
    with pytest.raises(UserError, match="mix.stop_epoch must be at least search.start_epoch, got 1 and 2: no search"):
        context("search.start_epoch=2", "mix.stop_epoch=1")


RULES = ("search.self_pairing=false", "search.same_class=false", "search.min_cells=1")


@pytest.mark.parametrize("overrides", [["search.start_epoch=9"], []])
def test_rules_hold_for_compositions_that_no_search_made(overrides):
    mix = build("search.every=2", *RULES, *overrides)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    given = [(images, labels) for images, _ in batches(3)]
    list(mix(given, 1))
    for item, batch in zip(mix(given, 1), given, strict=True):
        masks, partner = composition(item, batch)
        first = int(batch[0][0, 0, 0, 0])
        assert (partner >= first).all() and (labels[partner - first] != labels).all()
        assert ((masks.sum((1, 2)) >= 1) & (masks.sum((1, 2)) <= 3)).all()


def test_the_live_bank_holds_the_last_elites_and_fades():
    searches = []
    mix = build("search.every=2", "search.bank_decay=0.5", on_search=searches.append)
    expected = PatternBank(2, 3, NAMES)
    for group in range(5):
        list(mix(batches(3), 1))
        if group % 2 == 0:
            last, labels = searches[-1].elites[-1], searches[-1].labels.numpy()
            expected.decay(0.5)
            expected.collect(last.masks[0], labels, labels[last.pairings[0]])
    assert len(searches) == 3
    for name in ("masks", "weights", "pairs"):
        assert np.array_equal(getattr(mix.live, name), getattr(expected, name))
    assert mix.live.pairs.sum() == 24 * (1 + 0.5 + 0.25)


@pytest.mark.parametrize("batch", [None, 3 * B])
def test_the_last_elites_alone_can_be_trained_on(batch):
    searches = []
    options = ["search.consume=last", "search.elites=2", f"search.batch_size={'null' if batch is None else batch}"]
    mix = build(*options, on_search=searches.append)
    steps = mix.span
    assert steps == (2 if batch is None else 3)  # one batch for each of the two elites
    given = batches(steps)
    items = list(mix(given, 1))
    assert len(searches[0].elites) == 3  # each generation is told of all the same
    last = searches[0].elites[-1]
    for step, item in enumerate(items):
        rank = 0 if step else 1  # the fittest comes last, and again where there are more steps than elites
        masks, partner = composition(item, given[step])
        rows, shown = slice(B * step, B * step + B), partner >= 0
        assert np.array_equal(masks[shown], last.masks[rank][rows][shown])
        assert np.array_equal(partner[shown], last.pairings[rank][rows][shown])
    assert mix.bank.weights.sum() == steps * B


@pytest.mark.parametrize(("consume", "steps"), [("auto", 2), ("last", 2), ("each", 6)])
def test_a_search_batch_has_a_training_batch_for_each_elite_that_is_trained_on(consume, steps):
    mix = build(f"search.consume={consume}", "search.elites=2")  # auto, of older versions, is last
    assert mix.span == steps
    assert make_config({}).search.consume == "last"


def test_every_generations_elites_are_trained_on_in_turn_once_the_search_has_ended():
    events, searches = [], []
    mix = build(
        "search.elites=2", on_generation=lambda record: events.append(record["generation"]), on_search=searches.append
    )
    given = batches(mix.span)
    for step, item in enumerate(mix(given, 1)):
        events.append("step")
        noise(mix.context.model)
        elites, rank = searches[0].elites[step // 2], 1 - step % 2  # the fitter of the two comes last
        masks, partner = composition(item, given[step])
        rows, shown = slice(B * step, B * step + B), partner >= 0
        assert np.array_equal(masks[shown], elites.masks[rank][rows][shown])
        assert np.array_equal(partner[shown], elites.pairings[rank][rows][shown])
    assert events == [1, 2, 3, *["step"] * 6]


def test_a_search_that_ends_early_has_its_generations_share_the_steps():
    searches, records = [], []
    mix = build(
        "search.budget=2",
        "search.generations=4",
        "search.compose_at=pixels",
        on_generation=records.append,
        on_search=searches.append,
    )
    given = batches(mix.span)
    items = list(mix(given, 1))
    assert len(items) == mix.span == 4 and 0 < len(records) < 4
    masks, partner = composition(items[3], given[3])
    shown = partner >= 0
    assert np.array_equal(masks[shown], searches[0].elites[-1].masks[0][3 * B :][shown])
    assert mix.forwards == sum(record["new_rows"] for record in records) <= 2 * 4 * B


@pytest.mark.parametrize(("epochs", "start"), [(1, 1), (9, 1), (10, 2), (240, 25)])
def test_by_default_searches_begin_after_a_tenth_of_the_training(epochs, start):
    searches = []
    options = ["search.start_epoch=null", f"train.epochs={epochs}"]
    mix = build(*options, on_search=searches.append)
    for epoch in (start - 1, start):
        assert not searches
        list(mix(batches(1), epoch))
    assert len(searches) == 1


def test_the_trainers_steps_are_not_the_searchs_time(monkeypatch):
    clock = [0.0]

    def tick():
        clock[0] += 0.001
        return clock[0]

    monkeypatch.setattr(time, "perf_counter", tick)
    mix = build("search.every=2")
    for _ in range(2):
        before = mix.seconds
        for _ in mix(batches(3), 1):
            clock[0] += 100
        assert 0 < mix.seconds - before < 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.every=3"],
        ["search.every=2", "search.same_class=false", "search.bank_decay=0.7"],
        ["search.every=2", "search.consume=last", "search.elites=2", "search.start_epoch=2"],
        ["search.every=1", "search.self_pairing=false"],
    ],
)
def test_resumed_at_any_group_it_goes_on_the_same(overrides):
    def group(mix, number):
        epoch = 1 if number < 2 else 2
        made = []
        for item in mix(batches(2 if number == 3 else 3, seed=number), epoch):
            made.append(item)
            noise(mix.context.model)
        return made

    whole = build(*overrides)
    items = [group(whole, number) for number in range(7)]
    for stop in range(1, 7):
        first = build(*overrides)
        for number in range(stop):
            group(first, number)
        state = {name: array.copy() for name, array in first.state().items()}
        second = build(*overrides)
        second.context.model.load_state_dict(first.context.model.state_dict())
        second.restore(state)
        for number in range(stop, 7):
            for mine, other in zip(group(second, number), items[number], strict=True):
                assert torch.equal(mine.images, other.images) and torch.equal(mine.targets, other.targets)
        for name, array in second.state().items():
            assert name == "seconds" or np.array_equal(array, whole.state()[name]), name


def pattern_file(path, names, seed=0):
    bank = PatternBank(2, len(names), names)
    rng = np.random.default_rng(seed)
    bank.collect(rng.random((30, 2, 2)) < 0.5, *rng.integers(0, len(names), (2, 30)))
    save_bank(bank, path)
    return path


@pytest.mark.parametrize("names", [NAMES, ["x", "y", "z"], ["only one"]])
def test_a_bank_waits_for_no_labels_whatever_its_classes(names, tmp_path, monkeypatch):
    mix = build(f"mix.bank={pattern_file(tmp_path / 'bank.npz', names)}", name="bank")
    known = {mask.tobytes() for mask in load_bank(tmp_path / "bank.npz").masks}
    calls, to_cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: calls.append(1) or to_cpu(tensor))
    given = batches(3)
    for item, batch in zip(mix(given, 1), given, strict=True):
        masks, partner = composition(item, batch)
        shown = partner >= 0
        assert len(set(partner[shown])) == shown.sum() > 0 and {mask.tobytes() for mask in masks[shown]} <= known
    assert not calls
    state = mix.state()
    expected = [item.images for item in mix(given, 1)]
    mix.restore(state)
    assert all(torch.equal(item.images, images) for item, images in zip(mix(given, 1), expected, strict=True))


@pytest.mark.parametrize(("option", "name"), [("mix.bank", "bank"), ("search.start", "evolved")])
def test_a_run_goes_on_only_with_the_pattern_file_it_began_with(option, name, tmp_path):
    path = pattern_file(tmp_path / "bank.npz", NAMES)
    state = build(f"{option}={path}", name=name).state()
    build(f"{option}={path}", name=name).restore(state)
    pattern_file(path, NAMES, seed=1)
    changed = build(f"{option}={path}", name=name)
    with pytest.raises(UserError, match=f"{option}: {path} has changed since the run began; restore the file, or"):
        changed.restore(state)
    older = {key: array for key, array in state.items() if key not in ("pattern_file", "start")}
    changed.restore(older)


def test_counts_towards_the_next_cut_of_the_patterns_are_kept():
    mix = build()
    list(mix(batches(3), 1))
    again = build()
    again.restore(mix.state())
    assert again.bank.uncut == mix.bank.uncut == 3 * B and again.live.uncut == mix.live.uncut
    older = {key: array for key, array in mix.state().items() if not key.endswith("uncut")}
    again.restore(older)
    assert again.bank.uncut == 0 and np.array_equal(again.bank.masks, mix.bank.masks)
