"""The live search inside training: when it searches, what it draws between, turns with steps, exact resumption."""

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from evo.bank import PatternBank
from evo.errors import UserError
from training.config import make_config
from training.mixes import MIXES, evolved
from training.mixes.batch import MixContext
from training.models.patch_model import build_model
from training.models.trained import Prepare
from training.randomness import Streams
from training.shelf import open_entry

NAMES = ["a", "b", "c"]
B = 8


def context(*overrides, name="evolved", **events):
    options = [f"mix.name={name}", "model.grid=2", "model.width=8", f"train.batch={B}", "search.population=4",
               "search.generations=3", "search.every=1", "search.consume=each", "search.start_epoch=1",
               "search.objective=hard"]  # fmt: skip
    config = make_config({}, [*options, *overrides])
    torch.manual_seed(0)
    model = build_model(config.model, (1, 8, 8), 3)
    prepare = Prepare(torch.tensor([0.5]), torch.tensor([0.25]), torch.device("cpu"))
    return MixContext(config, model, NAMES, prepare, None, Streams(0), **events)


def build(*overrides, name="evolved", **events):
    given = context(*overrides, name=name, **events)
    return open_entry(MIXES, name, "mix")(given)


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
    mix = build("search.every=3")
    counts, searched = forwards_of(mix), []
    for _ in range(7):
        before = len(counts)
        assert len(list(mix(batches(mix.span), 1))) == mix.span == 3
        searched.append(len(counts) > before)
    assert searched == [True, False, False, True, False, False, True]
    assert mix.searches == 3 and mix.forwards > 0


@pytest.mark.parametrize("pairing", ["random", "affinity", "assignment"])
def test_between_searches_masks_come_from_the_live_bank_and_pairings_are_permutations(pairing):
    mix = build("search.every=2", f"search.bank_pairing={pairing}")
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


@pytest.mark.parametrize("pairing", ["affinity", "assignment"])
def test_partners_follow_the_classes_that_searches_paired(pairing):
    mix = build("search.every=2", f"search.bank_pairing={pairing}")
    list(mix(batches(3), 1))
    mix.live.pairs = np.array([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    patterns = ([0, 1, 0, 1, 0, 1, 2, 2], [2, 2, 2, 2, 2, 2, 0, 1], [1, 1, 1, 1, 0, 0, 0, 0])
    given = [(images, torch.tensor(labels)) for (images, _), labels in zip(batches(3), patterns, strict=True)]
    for item, batch in zip(mix(given, 1), given, strict=True):
        _, partner = composition(item, batch)
        shown = partner >= 0
        labels = batch[1].numpy()
        assert np.array_equal(labels[partner[shown] % B], np.array([1, 0, 2])[labels[shown]])


@pytest.mark.parametrize(
    ("overrides", "fetched"),
    [
        ([], 0),
        (["search.self_pairing=false", "search.min_cells=1"], 0),
        (["search.bank_pairing=affinity"], 1),
        (["search.bank_pairing=assignment"], 1),
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


@pytest.mark.parametrize("overrides", [[], ["search.self_pairing=false", "search.same_class=false"]])
def test_a_search_over_a_share_of_the_rows_leaves_the_others_to_chance(overrides):
    found = []
    mix = build("search.rows=0.5", "mix.sampler=bernoulli", *overrides, on_search=found.append)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    given = [(images, labels) for images, _ in batches(3)]
    mixed = list(mix(given, 1))
    (record,) = found
    assert torch.equal(record.images, torch.cat([images[: B // 2] for images, _ in given]))
    assert mix.forwards <= 3 * B // 2 * 4 * 3  # P = 4 genomes of half the rows, at most all of them new, T = 3
    for step, (item, batch) in enumerate(zip(mixed, given, strict=True)):
        masks, partner = composition(item, batch)
        elites = record.elites[step]
        assert np.array_equal(masks[: B // 2] | (partner[: B // 2] < 0)[:, None, None], np.where(
            (partner[: B // 2] < 0)[:, None, None], True, elites.masks[0][step * B // 2 : (step + 1) * B // 2]
        ))  # fmt: skip
        others = partner[B // 2 :]
        shown = others[others >= 0]
        assert set(shown) <= set(range(step * B + B // 2, (step + 1) * B)) and len(set(shown)) == len(shown)
        searched = partner[: B // 2][partner[: B // 2] >= 0]
        assert (searched % B < B // 2).all()
        if overrides:
            assert (labels[partner[partner >= 0] % B] != labels[partner >= 0]).all()
        expected = np.where(masks, labels.numpy()[:, None, None], labels.numpy()[partner % B][:, None, None])
        assert np.array_equal(item.cell_targets.numpy()[partner >= 0], expected[partner >= 0])


def test_losses_may_be_those_of_the_weight_average():
    given = context("search.weights=average")
    noisy = copy.deepcopy(given.model)
    noise(noisy)
    mix = open_entry(MIXES, "evolved", "mix")(replace(given, average=noisy))
    asked, live = [], forwards_of(mix)
    noisy.register_forward_hook(lambda *_: asked.append(1))
    list(mix(batches(3), 1))
    assert asked and not live
    with pytest.raises(UserError, match="would compare the weight average with itself; set search.weights=live"):
        context("search.weights=average", "search.objective=reducible")


RULES = ("search.self_pairing=false", "search.same_class=false", "search.min_cells=1")


@pytest.mark.parametrize(
    "overrides",
    [["search.start_epoch=9"], *([f"search.bank_pairing={name}"] for name in ("random", "affinity", "assignment"))],
)
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


def test_a_search_starts_from_the_live_bank_where_it_is_carried(monkeypatch):
    starts = []

    class Watched(evolved.Search):
        def __init__(self, *arguments, **options):
            starts.append(options["start"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(evolved, "Search", Watched)
    for carry in (False, True):
        mix = build(f"search.carry={str(carry).lower()}")
        list(mix(batches(3), 1))
        list(mix(batches(3), 1))
        assert starts == [None, mix.live if carry else None] and (len(mix.live) > 0) == carry
        starts.clear()


@pytest.mark.parametrize("batch", [None, 3 * B])
def test_the_last_elites_alone_can_be_trained_on(batch):
    searches = []
    options = ["search.consume=last", "search.elites=2", f"search.batch={'null' if batch is None else batch}"]
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


@pytest.mark.parametrize(("rescore", "steps"), [("hold", 2), ("survivors", 6)])
def test_by_default_the_last_elites_are_trained_on_unless_generations_take_turns(rescore, steps):
    mix = build("search.consume=auto", "search.elites=2", f"search.rescore={rescore}")
    assert mix.span == steps  # a batch for each elite, or for each of every generation


@pytest.mark.parametrize(("epochs", "start"), [(1, 1), (9, 1), (10, 2), (240, 25)])
def test_by_default_searches_begin_after_a_tenth_of_the_training(epochs, start):
    searches = []
    options = ["search.start_epoch=null", f"train.epochs={epochs}"]
    mix = build(*options, on_search=searches.append)
    for epoch in (start - 1, start):
        assert not searches
        list(mix(batches(1), epoch))
    assert len(searches) == 1


class TestTurns:
    """search.rescore other than hold."""

    @pytest.mark.parametrize("rescore", ["survivors", "all", "none"])
    def test_steps_are_taken_between_generations_under_their_elites(self, rescore):
        events, searches = [], []
        mix = build(
            f"search.rescore={rescore}", "search.elites=2",
            on_generation=lambda record: events.append(record), on_search=searches.append,
        )  # fmt: skip
        given = batches(mix.span)
        items = []
        for item in mix(given, 1):
            events.append("step")
            items.append(item)
            noise(mix.context.model)
        order = ["step" if event == "step" else event["generation"] for event in events]
        assert order == [1, "step", "step", 2, "step", "step", 3, "step", "step"]
        second = [event for event in events if event != "step"][1]
        # survivors and all of them are forwarded anew under the new weights; `none` keeps what was measured before
        assert (second["age"] > 0) == (rescore == "none")
        for step, item in enumerate(items):
            elites, rank = searches[0].elites[step // 2], 1 - step % 2  # the fitter of the two comes last
            masks, partner = composition(item, given[step])
            rows = slice(B * step, B * step + B)
            shown = partner >= 0
            assert np.array_equal(masks[shown], elites.masks[rank][rows][shown])
            assert np.array_equal(partner[shown], elites.pairings[rank][rows][shown])

    def test_what_is_forwarded_is_counted_and_after_an_early_end_the_last_elites_serve(self):
        for budget in (None, 5):
            records, searches = [], []
            mix = build(
                "search.rescore=all", f"search.budget={'null' if budget is None else budget}",
                "search.generations=4", on_generation=records.append, on_search=searches.append,
            )  # fmt: skip
            assert mix.span == 4
            items = []
            for item in mix(batches(4), 1):
                items.append(item)
                noise(mix.context.model)
            masks, partner = composition(items[3], batches(4)[3])
            shown = partner >= 0
            assert np.array_equal(masks[shown], searches[0].elites[-1].masks[0][3 * B :][shown])
            assert mix.forwards == sum(record["new_rows"] for record in records)
            assert (mix.forwards > 5 * 4 * B) if budget is None else (mix.forwards <= 5 * 4 * B and len(records) < 4)

    def test_fewer_steps_than_generations_take_the_latest_elites(self):
        searches, records = [], []
        mix = build("search.rescore=survivors", on_generation=records.append, on_search=searches.append)
        (item,) = mix(batches(1), 1)
        assert len(records) == 3 and all(record.get("age", 0) == 0 for record in records)
        masks, partner = composition(item, batches(1)[0])
        shown = partner >= 0
        assert np.array_equal(masks[shown], searches[0].elites[-1].masks[0][shown])

    def test_there_must_be_steps_to_take_turns_with(self):
        with pytest.raises(UserError, match=r"has 1 steps of train.batch=8 and 3 generations; set search.batch"):
            build("search.rescore=none", f"search.batch={B}")
        with pytest.raises(UserError, match=r"search.rescore=all trains on every .*; set search.consume=each"):
            build("search.rescore=all", "search.consume=last")
        with pytest.raises(UserError, match=r"search.rescore=all .* 1 generations"):
            build("search.rescore=all", "search.generations=1", "search.elites=2")


@pytest.mark.parametrize("rescore", ["hold", "survivors"])
def test_the_trainers_steps_are_not_the_searchs_time(rescore, monkeypatch):
    clock = [0.0]

    def tick():
        clock[0] += 0.001
        return clock[0]

    monkeypatch.setattr(time, "perf_counter", tick)
    mix = build(f"search.rescore={rescore}", "search.every=2")
    for _ in range(2):
        before = mix.seconds
        for _ in mix(batches(3), 1):
            clock[0] += 100
        assert 0 < mix.seconds - before < 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.every=3"],
        ["search.every=2", "search.bank_pairing=affinity", "search.carry=true", "search.bank_decay=0.7"],
        ["search.every=2", "search.bank_pairing=assignment", "search.rescore=survivors", "search.start_epoch=2"],
        ["search.rescore=none", "search.carry=true", "search.self_pairing=false"],
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
    bank.collect(rng.random((30, 2, 2)) < 0.5, rng.integers(0, 3, 30), rng.integers(0, 3, 30))
    bank.save(path)
    return path


@pytest.mark.parametrize(("names", "fetched"), [(NAMES, 1), (["x", "y", "z"], 0)])
def test_a_bank_of_other_classes_waits_for_no_labels(names, fetched, tmp_path, monkeypatch):
    mix = build(f"mix.bank={pattern_file(tmp_path / 'bank.npz', names)}", name="bank")
    known = {mask.tobytes() for mask in PatternBank.load(tmp_path / "bank.npz").masks}
    calls, to_cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: calls.append(1) or to_cpu(tensor))
    given = batches(3)
    for item, batch in zip(mix(given, 1), given, strict=True):
        masks, partner = composition(item, batch)
        shown = partner >= 0
        assert len(set(partner[shown])) == shown.sum() > 0 and {mask.tobytes() for mask in masks[shown]} <= known
    assert len(calls) == 3 * fetched
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
