"""The live search by estimated scores: what it is dealt from, what it forwards, and what is refused."""

import numpy as np
import pytest
import torch

from evo.errors import UserError
from evo.pair_table import PairTable
from tests.test_evaluation import batch, patch_model
from tests.test_evaluation import mix as evaluated
from tests.test_evolved_mix import B, batches, build
from training.config import make_config
from training.mixes.scoring import ForwardedScores
from training.models.patch_model import PatchModel
from training.search_options import PAIR_MASKS

FORWARDS = {"hard": 1, "image_reducible": 2}


def whole(given):
    return tuple(torch.cat(parts) for parts in zip(*given, strict=True))


@pytest.mark.parametrize("objective", FORWARDS)
def test_a_search_forwards_every_image_once_by_each_model(objective):
    reference = build().context.model.eval() if objective != "hard" else None
    mix = build(f"search.objective={objective}", "search.compose_at=features", reference=reference)
    list(mix(batches(mix.span), 1))
    spent = mix.scores.forwards
    assert spent == mix.span * B * FORWARDS[objective]
    list(mix(batches(mix.span, seed=2), 1))
    assert mix.scores.forwards == spent  # of the next batch, by new maps


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ([], PAIR_MASKS),
        (["search.pair_masks=7"], 7),
        (["search.pair_masks=0"], 0),
        (["search.compose_at=pixels"], 0),
        (["search.objective=learnable"], 0),
        (["search.objective=hard,diversity"], 0),
        (["search.objective=hard,image_hard"], PAIR_MASKS),
        (["search.islands=2"], PAIR_MASKS),
    ],
)
def test_the_first_generation_is_dealt_where_pairs_have_scores(options, masks):
    compose = [] if any("compose_at" in option for option in options) else ["search.compose_at=features"]
    mix = build(*compose, *options)
    search = mix.make_search(*whole(batches(2)))
    tables = [part.breeder.table for part in getattr(search, "searches", [search])]
    if masks:
        assert isinstance(tables[0], PairTable) and all(table is tables[0] for table in tables)
        assert tables[0].masks.cells.shape == (masks, 2, 2)
    else:
        assert tables == [None] * len(tables)


def test_what_is_dealt_is_fitter_than_what_is_drawn():
    best = {}
    for count in (0, PAIR_MASKS):
        lines = []
        mix = build(
            "search.compose_at=features",
            f"search.pair_masks={count}",
            "search.temperature=0.1",
            on_generation=lines.append,
        )
        mix.evolve(*whole(batches(3)))
        best[count] = lines[0]["best"]
    assert best[PAIR_MASKS] > best[0]


def test_rules_hold_for_what_is_dealt():
    mix = build(
        "search.compose_at=features", "search.self_pairing=false", "search.same_class=false", "search.min_cells=1"
    )
    images, labels = whole(batches(3))
    (elites, *_) = mix.evolve(images, labels)
    own = np.arange(len(labels))
    assert (elites.pairings[0] != own).all()
    assert (labels.numpy()[elites.pairings[0]] != labels.numpy()).all()
    kept = elites.masks[0].sum((1, 2))
    assert ((kept >= 1) & (kept <= 3)).all()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["search.pair_masks=8", "search.compose_at=pixels"],
            "search.pair_masks=8 scores all pairs of a batch, for which scores have to be estimated; set "
            "search.compose_at=features, now pixels, or search.pair_masks=0",
        ),
        (
            ["search.pair_masks=8", "search.objective=learnable"],
            "scores pairs by themselves, and search.objective=learnable scores rows against a population",
        ),
        (
            ["search.crossover=deal", "search.compose_at=pixels"],
            "search.crossover=deal deals from scores of all pairs, and there are none",
        ),
        (["search.crossover=0.5*rows+0.5*deal", "search.pair_masks=0"], "deals from scores of all pairs"),
        (["search.compose_at=pixel"], "search.compose_at"),
        (["search.temperature=-1"], "search.temperature"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(overrides, said):
    with pytest.raises(UserError) as refused:
        make_config({}, overrides)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_whose_samples_influence_each_other_is_forwarded_whole(capsys):
    given = evaluated("search.compose_at=features", model=patch_model(batch_statistics=True))
    given.evolve(*batch())
    assert given.evaluation == "full" and not given.estimates
    assert "every genome is forwarded whole" in capsys.readouterr().err


class Contrary(PatchModel):
    """A network whose map, of an image alone, says the opposite of what its losses say."""

    def place_logits(self, images):
        image_logits, cell_logits = super().place_logits(images)
        return -image_logits, -cell_logits


@pytest.mark.parametrize("name", ["evolved", "best-of-k"])
def test_scores_that_mislead_are_not_trusted_by_default(name, capsys):
    mix = build(name=name)
    assert mix.options.compose_at == "auto" and mix.trusted is None
    local(mix.context.model)
    list(mix(batches(mix.span), 1))
    assert mix.trusted and mix.estimates and capsys.readouterr().err == ""

    trials = []
    mix = build(name=name, on_check=lambda record, event="checked": trials.append((event, record)))
    local(mix.context.model)
    mix.context.model.__class__ = Contrary
    list(mix(batches(mix.span), 1))
    assert mix.trusted is False and not mix.estimates
    assert isinstance(mix.scores, ForwardedScores)
    said = capsys.readouterr().err
    assert said.startswith("search: scores estimated from feature maps rank") and "search.compose_at=pixels" in said
    list(mix(batches(mix.span), 1))
    assert capsys.readouterr().err == ""  # once
    ((event, record),) = trials
    assert event == "trial" and not record["trusted"] and record["rank_correlation"] < 0

    again = build(name=name)
    again.restore(mix.state())
    assert again.trusted is False


def local(model):
    """Let each place of the map see its cell alone."""
    torch.manual_seed(0)
    channels = model.image_head.in_features
    model.backbone = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Conv2d(1, channels, 1))
    with torch.no_grad():
        model.image_head.weight.mul_(20)
        model.cell_head.weight.mul_(20)


def test_who_asks_for_features_gets_them(capsys):
    mix = build("search.compose_at=features")
    mix.context.model.__class__ = Contrary
    list(mix(batches(mix.span), 1))
    assert mix.trusted is None and mix.estimates and capsys.readouterr().err == ""
