"""Best-of-k: which of k random compositions it trains on, what that costs, and its controls."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from analysis.run_folder import RunFolder
from evo.errors import UserError
from tests.conftest import TINY
from tests.test_distributed import in_two_processes
from tests.test_evolved_mix import B, batches, build, composition, noise
from tests.test_resume import OFTEN, At, Killed, assert_same_run, die
from training.compose import cell_targets, compose, image_targets
from training.config import load_config, make_config
from training.losses import cell_losses, image_losses
from training.mixes.best_of import best_draws
from training.mixes.patchmix import PatchMix
from training.randomness import Streams
from training.run import set_up
from training.train import train

SCORES = st.floats(-5, 5, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


def best_of(*overrides, **events):
    return build("mix.draws=3", "search.compose_at=pixels", *overrides, name="best-of-k", **events)


def drawn(count):
    """The compositions that random PatchMix draws first: masks (k,B,2,2), pairings (k,B)."""
    patchmix = PatchMix(grid=2, generator=Streams(0).torch("mix"))
    found = [patchmix.draw(torch.zeros(B)) for _ in range(count)]
    return torch.stack([masks for masks, _ in found]), torch.stack([pairing for _, pairing in found])


def scored(mix, batch, masks, pairings, objective):
    """Row scores (k,B), one composition after the other."""
    images, labels = batch
    model, found = mix.context.model.eval(), []
    with torch.no_grad():
        for mask, pairing in zip(masks, pairings, strict=True):
            image_logits, cell_logits = model(mix.context.prepare(compose(images, mask, pairing)))
            if objective == "image_reducible":
                found.append(image_losses(image_logits, image_targets(labels, mask, pairing, 3)))
                reference = mix.reference(mix.context.prepare(compose(images, mask, pairing)))[0]
                found[-1] -= image_losses(reference, image_targets(labels, mask, pairing, 3))
            else:
                found.append(cell_losses(cell_logits, cell_targets(labels, mask, pairing)).mean((1, 2)))
    model.train()
    return torch.stack(found)


@given(st.integers(1, 5).flatmap(lambda k: st.lists(st.lists(SCORES, min_size=k, max_size=k), min_size=1, max_size=6)))
def test_each_row_keeps_its_best_draw_and_a_batch_the_best_mean(columns):
    scores = np.array(columns, np.float32).T
    finite = [[value if np.isfinite(value) else -np.inf for value in row] for row in scores.astype(float).tolist()]
    rows = [max(range(len(finite)), key=lambda draw: finite[draw][row]) for row in range(scores.shape[1])]
    assert best_draws(scores, whole=False).tolist() == rows
    chosen = best_draws(scores, whole=True)
    means = np.array(finite).mean(1)
    assert len(set(chosen.tolist())) == 1 and len(chosen) == scores.shape[1]
    assert means[chosen[0]] == means.max() or np.isclose(means[chosen[0]], means.max(), atol=1e-5)


@pytest.mark.parametrize(("keep", "objective"), [("rows", "hard"), ("batch", "hard"), ("rows", "image_reducible")])
def test_it_trains_on_what_the_live_model_scores_best(keep, objective):
    torch.manual_seed(5)
    reference = nn.Module() if objective == "hard" else build("mix.draws=1", name="best-of-k").context.model.eval()
    if objective != "hard":
        noise(reference)
    mix = best_of(f"mix.keep={keep}", f"search.objective={objective}",
                  reference=None if objective == "hard" else reference)  # fmt: skip
    (batch,) = batches(1)
    before = {name: tensor.clone() for name, tensor in mix.context.model.state_dict().items()}
    (item,) = mix([batch], 1)
    after = mix.context.model.state_dict()
    assert mix.context.model.training and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    masks, pairings = drawn(3)
    scores = scored(mix, batch, masks, pairings, objective)
    best = scores.argmax(0) if keep == "rows" else scores.mean(1).argmax().expand(B)
    assert len(set(best.tolist())) == (1 if keep == "batch" else 3)
    rows = torch.arange(B)
    assert torch.equal(item.images, compose(batch[0], masks[best, rows], pairings[best, rows]))
    assert torch.equal(item.cell_targets, cell_targets(batch[1], masks[best, rows], pairings[best, rows]))
    torch.testing.assert_close(item.targets, image_targets(batch[1], masks[best, rows], pairings[best, rows], 3))
    assert mix.forwards == 3 * B * (1 if objective == "hard" else 2) and mix.seconds > 0


def test_shuffled_takes_the_partners_of_rows_as_often_at_random_under_random_masks():
    whole = ["mix.sampler=box", "search.min_cells=1"]
    for seed in range(4):
        (batch,) = batches(1, seed)
        found = {}
        for keep in ("rows", "shuffled"):
            masks, partner = composition(next(best_of(f"mix.keep={keep}", *whole)([batch], 1)), batch)
            assert ((masks.sum((1, 2)) >= 1) & (masks.sum((1, 2)) <= np.where(partner < 0, 4, 3))).all()
            found[keep] = masks, partner
        shown = [np.where(partner < 0, np.arange(B), partner) for _, partner in found.values()]  # its own shows nothing
        assert np.array_equal(np.sort(shown[0]), np.sort(shown[1])) and not np.array_equal(*shown)
        assert not np.array_equal(found["rows"][0], found["shuffled"][0])


@pytest.mark.parametrize("overrides", [["mix.draws=1"], ["mix.draws=1", "mix.keep=shuffled"], ["search.start_epoch=3"]])
def test_one_draw_and_the_epochs_before_the_start_are_random_patchmix(overrides):
    mix, random = best_of(*overrides), build(name="patchmix")
    for batch in batches(4):
        for mine, other in zip(mix([batch], 2), random([batch], 2), strict=True):
            assert torch.equal(mine.images, other.images) and torch.equal(mine.targets, other.targets)
    assert mix.forwards == 0 and mix.seconds == 0
    list(best_of("search.start_epoch=3")(batches(1), 3))


def test_every_third_batch_is_selected_for():
    mix, spent = best_of("search.every=3", "search.start_epoch=2"), []
    for number, batch in enumerate(batches(8)):
        before = mix.forwards
        list(mix([batch], 1 if number == 0 else 2))
        spent.append((mix.forwards - before) // B)
    assert spent == [0, 3, 0, 0, 3, 0, 0, 3]


def test_a_larger_k_scores_better():
    def gained(k):
        mix, total = best_of(f"mix.draws={k}"), 0.0
        for batch in batches(6):
            (item,) = mix([batch], 1)
            with torch.no_grad():
                logits = mix.context.model.eval()(mix.context.prepare(item.images))[1]
            mix.context.model.train()
            total += float(cell_losses(logits, item.cell_targets).mean())
        return total

    assert gained(1) < gained(3) < gained(12)


@pytest.mark.parametrize("keep", ["rows", "batch"])
def test_the_rules_of_a_search_hold(keep):
    mix = best_of("search.self_pairing=false", "search.same_class=false", "search.min_cells=1", f"mix.keep={keep}")
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    images = batches(1)[0][0]
    masks, partner = composition(next(mix([(images, labels)], 1)), (images, labels))
    assert (partner >= 0).all() and (labels[partner] != labels).all()
    assert ((masks.sum((1, 2)) >= 1) & (masks.sum((1, 2)) <= 3)).all()


def test_losses_that_are_not_finite_stop_it_in_one_line():
    mix = best_of()
    with torch.no_grad():
        mix.context.model.cell_head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"best-of-k: 100 % of the rows have losses that are NaN or infinite"):
        list(mix(batches(1), 1))


@pytest.mark.parametrize("keep", ["rows", "batch", "shuffled"])
def test_resumed_at_any_batch_it_goes_on_the_same(keep):
    options = f"mix.keep={keep}", "search.every=2", "search.min_cells=1"

    def step(mix, number):
        (item,) = mix(batches(1, seed=number), 1)
        noise(mix.context.model)
        return item

    whole = best_of(*options)
    items = [step(whole, number) for number in range(5)]
    for stop in range(1, 5):
        first, second = best_of(*options), best_of(*options)
        for number in range(stop):
            step(first, number)
        second.context.model.load_state_dict(first.context.model.state_dict())
        second.restore({name: array.copy() for name, array in first.state().items()})
        for number in range(stop, 5):
            mine, other = step(second, number), items[number]
            assert torch.equal(mine.images, other.images) and torch.equal(mine.targets, other.targets)
        assert (second.forwards, second.batches) == (whole.forwards, whole.batches)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["search.objective=hard,diversity"],
            "best-of-k selects by one objective, got search.objective=hard,diversity",
        ),
        (["mix.keep=shuffled", "search.same_class=false"], "mix.keep=shuffled deals partners at random, which"),
        (
            ["mix.patch_weight=0", "search.objective=hard"],
            "mix.name=best-of-k needs mix.patch_weight above 0, got 0: without a patch loss",
        ),
        (["search.start_epoch=99"], "search.start_epoch must be at most train.epochs"),
        (["mix.draws=0"], "mix.draws: expected greater than or equal to 1, got 0"),
        (["mix.keep=best"], "mix.keep: expected 'rows', 'batch' or 'shuffled', got 'best'"),
    ],
)
def test_what_it_cannot_do_is_told_before_anything_is_loaded(overrides, words):
    with pytest.raises(UserError, match=words) as caught:
        make_config({}, ["mix.name=best-of-k", *overrides])
    assert "\n" not in str(caught.value)


def test_cells_that_nothing_trains_may_be_left_unread():
    for name in ("evolved", "best-of-k"):
        for more in ("model.head=shared", "search.objective=image_hard", "search.objective=diversity"):
            assert make_config({}, [f"mix.name={name}", "mix.patch_weight=0", more]).searches
    assert not any(make_config({}, [f"mix.name={name}"]).searches for name in ("plain", "patchmix", "cutmix"))


def tiny(*overrides):
    return load_config("digits", [*TINY, "mix.name=best-of-k", *overrides])


@pytest.mark.parametrize(
    "options",
    [("mix.keep=shuffled",), ("search.objective=image_reducible", "search.every=1", "model.head=shared")],
    ids=["shuffled", "reducible"],
)
def test_a_run_logs_what_it_spent_and_resumes(tmp_path, options):
    config = tiny(*options, OFTEN)
    result = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "cut", progress=At(13, die))
    train(config, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert result["search_forwards"] > 0 and result["search_seconds"] > 0
    assert result["image_forwards"] == 16 * result["steps"] + result["search_forwards"]
    assert RunFolder(tmp_path / "whole").result["search_forwards"] == result["search_forwards"]


def test_it_compares_with_the_weight_average_like_a_search(tmp_path):
    run = set_up(tiny("search.objective=reducible"), tmp_path / "run")
    assert run.average is not None and run.mix.reference is run.average.model


@pytest.mark.parametrize(
    "options", [("mix.keep=rows", "model.head=shared"), ("mix.keep=batch", "search.evaluation=full")]
)
def test_two_processes_select_alike(tmp_path, options):
    options = ("train.epochs=1", "mix.probability=1.0", "train.lr=0.01", "mix.name=best-of-k", *options)
    train(load_config("digits", [*TINY, *options]), tmp_path / "one")
    in_two_processes(tmp_path, options)
    one, two = (RunFolder(tmp_path / name) for name in ("one", "two"))
    assert two.events[0]["processes"] == 2
    for name in ("image_loss", "training_accuracy", "test_loss", "search_forwards"):
        np.testing.assert_allclose(two.epochs[name], one.epochs[name], rtol=1e-3, err_msg=name)


def test_the_command_tells_what_selecting_took(cli):
    options = [part for option in (*TINY, "mix.name=best-of-k", "run.name=picked") for part in ("-s", option)]
    status, text, _ = cli("train", "digits", *options)
    assert status == 0 and "s of it to select compositions\n" in text
    assert text.splitlines()[-1] == "see ./run report picked"  # no curves, no patterns: nothing evolved
