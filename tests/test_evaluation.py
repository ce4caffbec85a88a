"""How the evolved mix has rows forwarded: new rows alone or whole genomes, in what precision, by which process."""

from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from pydantic import create_model
from torch import nn

from evo.bank import PatternBank
from evo.bank_files import save_bank
from evo.errors import UserError
from evo.operators import MASK_SAMPLERS
from evo.search import Rows
from evo.settings import SearchSettings, option
from training.compose import compose
from training.config import make_config
from training.distributed import World
from training.mixes import scoring
from training.mixes.batch import MixContext
from training.mixes.evolved import Evolved
from training.models.patch_model import PatchModel
from training.models.scaling import Prepare
from training.option_types import Section
from training.options import MixOptions
from training.randomness import Streams
from training.search_options import SearchOptions, options_of

B = 6


def patch_model(*, batch_statistics=False):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, track_running_stats=not batch_statistics)
    return PatchModel(nn.Sequential(nn.Conv2d(1, 5, 3, stride=2, padding=1), norm, nn.ReLU()), 5, 3, grid=2)


def mix(*overrides, model=None, **context):
    config = make_config(
        {},
        [
            f"train.batch_size={B}",
            "search.population=4",
            "search.generations=3",
            "search.objective=hard",
            "search.compose_at=pixels",
            *overrides,
        ],
    )
    prepare = Prepare(torch.tensor([0.5]), torch.tensor([0.25]), torch.device("cpu"))
    return Evolved(MixContext(config, model or patch_model(), ["a", "b", "c"], prepare, None, Streams(0), **context))


def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (B, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 3, (B,), generator=generator)


def genomes(count):
    """Every row of so many genomes."""
    rng = np.random.default_rng(0)
    pairings = np.argsort(rng.random((count, B)), axis=1).astype(np.int32)
    return Rows(np.tile(np.arange(B, dtype=np.int32), count), rng.random((count * B, 2, 2)) < 0.5, pairings.reshape(-1))


def calls_of(monkeypatch):
    """What the mix hands to the probe, which goes on to answer."""
    calls, probe = [], scoring.probe

    def recorded(model, images, labels, rows, **options):
        calls.append({"rows": len(rows.image), **options})
        return probe(model, images, labels, rows, **options)

    monkeypatch.setattr(scoring, "probe", recorded)
    return calls


def test_rows_are_evaluated_alone_where_samples_do_not_influence_each_other(capsys, monkeypatch):
    calls, records = calls_of(monkeypatch), []
    given = mix("search.forward_batch_size=5", on_generation=records.append)
    given.evolve(*batch())
    assert given.evaluation == "incremental" and capsys.readouterr().err == ""
    assert sum(call["rows"] for call in calls) == given.forwards < 7 * 4 * B
    assert {call["chunk"] for call in calls} == {5}
    assert not any("evaluation" in record for record in records)


@pytest.mark.parametrize("options", [["search.evaluation=full"], []])
def test_whole_genomes_share_a_forward_where_they_must(options, capsys, monkeypatch):
    """The losses of an elite are those of its rows forwarded together, whatever generation it is of."""
    calls, records = calls_of(monkeypatch), []
    model = patch_model(batch_statistics=True)
    given = mix(*options, model=model, on_generation=records.append)
    images, labels = batch()
    elites = given.evolve(images, labels)
    given.evolve(images, labels)
    said = capsys.readouterr().err
    if options:
        assert said == ""  # it was asked for
    else:
        assert said == (
            "search: samples influence each other in evaluation mode; every genome is forwarded whole "
            "(search.evaluation=full)\n"
        )
    assert all(record["evaluation"] == "full" for record in records)
    assert {call["chunk"] for call in calls} == {B} and all(call["rows"] % B == 0 for call in calls)
    model.eval()
    for generation in elites:
        pairing = torch.from_numpy(generation.pairings[0].astype(np.int64))
        masks = torch.from_numpy(generation.masks[0].copy())
        with torch.no_grad():
            _, cell_logits = model(given.context.prepare(compose(images, masks, pairing)))
        targets = torch.where(masks, labels[:, None, None], labels[pairing][:, None, None])
        losses = -cell_logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        np.testing.assert_allclose(generation.cell_losses[0], losses.numpy(), rtol=1e-4, atol=1e-5)


def test_incremental_evaluation_of_such_a_model_is_refused(capsys):
    given = mix("search.evaluation=incremental", model=patch_model(batch_statistics=True))
    with pytest.raises(
        UserError, match="search.evaluation=incremental: samples influence .*; set search.evaluation=full"
    ):
        given.evolve(*batch())


def test_the_reference_is_looked_at_as_well(capsys):
    given = mix("search.objective=reducible", reference=patch_model(batch_statistics=True).eval())
    given.evolve(*batch())
    assert given.evaluation == "full"
    assert capsys.readouterr().err.startswith("search: of the reference, samples influence each other")


def test_what_was_found_goes_into_the_checkpoint(capsys):
    first = mix(model=patch_model(batch_statistics=True))
    fresh = first.state()
    first.evolve(*batch())
    second = mix()
    second.restore(fresh)
    assert second.evaluation is None
    second.restore(first.state())
    assert second.evaluation == "full"
    second = mix()
    second.restore(fresh)
    second.evolve(*batch())
    third = mix()
    third.restore(second.state())
    assert third.evaluation == "incremental"


def test_options_reach_the_probe(monkeypatch):
    calls = calls_of(monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: lambda inputs: model(inputs))
    mix().evolve(*batch())
    mix("search.precision=bfloat16", "search.channels_last=false", "search.compile=true").evolve(*batch())
    plain, other = calls[0], calls[-1]
    assert plain["autocast"] is None and plain["channels_last"] is True and plain["forward"] is None
    assert plain["chunk"] == scoring.CPU_CHUNK and plain["reference"] is None
    assert other["autocast"] is torch.bfloat16 and other["channels_last"] is False and other["forward"] is not None


def test_precision_follows_training_unless_set(monkeypatch):
    def autocast(*overrides):
        config = make_config({}, overrides)
        prepare = Prepare(torch.tensor([0.5]), torch.tensor([0.25]), torch.device("cpu"))
        return Evolved(MixContext(config, patch_model(), ["a", "b", "c"], prepare, torch.bfloat16, Streams(0))).autocast

    assert autocast() is torch.bfloat16 and autocast("search.precision=float32") is None


@dataclass(frozen=True)
class Lone(World):
    """One of several processes, whose sums lack the others' part."""

    def sum(self, tensor):
        return tensor


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("evaluation", ["incremental", "full"])
@pytest.mark.parametrize("reference", [False, True])
def test_processes_share_rows_or_whole_genomes(size, evaluation, reference, monkeypatch):
    """The parts of all ranks add up to what one process measures; with batch statistics, if genomes stay whole."""
    model = patch_model(batch_statistics=evaluation == "full")
    torch.manual_seed(3)
    options = {"model": model, "reference": PatchModel(nn.Conv2d(1, 4, 4, 4), 4, 3, 2).eval() if reference else None}
    rows, (images, labels) = genomes(4), batch()

    def losses(world):
        given = mix(f"search.evaluation={evaluation}", world=world, **options)
        return given.forward_rows(images, labels, rows)

    whole, parts = losses(World()), [losses(Lone(rank, size)) for rank in range(size)]
    assert len(whole.cells) == 4 * B and (whole.reference_cells is not None) == reference
    for name, expected in whole._asdict().items():
        found = [getattr(part, name) for part in parts]
        if expected is None:
            assert found == [None] * size
        else:
            assert all(part.shape == expected.shape for part in found)
            np.testing.assert_allclose(np.sum(found, axis=0), expected, rtol=1e-5, atol=1e-6)


OTHER = {  # than the default, of every setting of the engine
    "population": 7, "generations": 5, "objective": "easy,contrast", "sampler": "connected", "evaluation": "full",
    "selection": "lexicase", "crossover": "rows+block/ox", "mask_mutation": "trade", "pairing_mutation": "scramble",
    "adaptive": True, "duplicates": "redraw", "min_cells": 2, "self_pairing": False, "same_class": False, "hold": True,
    "start_share": 0.75, "temperature": 0.75, "budget": 3.0, "patience": 3, "target": 1.5, "minutes": 2.0, "max_nonfinite": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("setting", [one.name for one in fields(SearchSettings)])
def test_every_setting_of_the_engine_is_an_option_that_reaches_the_search(setting):
    value = OTHER[setting]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert getattr(mix("search.population=4").make_search(*batch()).settings, setting) != value
    assert getattr(mix(f"search.{setting}={text}").make_search(*batch()).settings, setting) == value


def test_the_trainer_and_the_engine_have_the_same_defaults_and_words():
    """But where a search within training has to end by itself, and draws as the mix does."""
    options = SearchOptions()
    for one in fields(SearchSettings):
        own = type(options).model_fields[one.name]
        if one.name not in ("generations", "sampler"):
            assert getattr(options, one.name) == one.default
            assert own.description == one.metadata["description"]
    assert mix().make_search(*batch()).settings.sampler == SearchSettings().sampler == MixOptions().sampler


def test_a_new_setting_is_one_line():
    """A field of SearchSettings is all that an option takes."""

    @dataclass(frozen=True, kw_only=True)
    class More(SearchSettings):
        warmth: int | None = option(None, "how warm", ge=1)

    found = create_model("Options", __base__=Section, **options_of(More))
    assert found.model_validate({"warmth": 3}).warmth == 3 == More(warmth=3).warmth
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        found.model_validate({"warmth": 0})
    with pytest.raises(UserError, match="warmth must be at least 1, got 0"):
        More(warmth=0)
    assert found.model_fields["warmth"].description == "how warm"


@pytest.mark.parametrize("option", ["search.generations=null", "search.generations=null search.consume=each"])
def test_a_search_that_could_go_on_for_ever_is_refused(option):
    with pytest.raises(UserError, match="a search needs an end, and search.generations is null"):
        mix(*option.split())
    assert mix("search.generations=null", "search.minutes=1").make_search(*batch()).generations is None
    with pytest.raises(UserError, match=r"search.consume=each trains .* set search.generations, or search.batch_size"):
        mix("search.generations=null", "search.minutes=1", "search.consume=each")


def test_the_sampler_a_start_and_islands_reach_the_search(tmp_path):
    bank = PatternBank(2, 3)
    bank.collect(np.eye(2, dtype=bool)[None], np.array([0]), np.array([1]))
    save_bank(bank, tmp_path / "bank.json")
    search = mix("mix.sampler=box", f"search.start={tmp_path / 'bank.json'}").make_search(*batch())
    assert search.toolbox.sample.func is MASK_SAMPLERS["box"] and len(search.breeder.start) == 1
    other = mix("mix.sampler=box", "search.sampler=bernoulli").make_search(*batch())
    assert other.toolbox.sample.func is MASK_SAMPLERS["bernoulli"]
    options = ("search.islands=3", "search.migrate_every=7", "search.migrants=2", "search.budget=6")
    islands = mix(*options).make_search(*batch())
    assert [s.budget for s in islands.searches] == [2] * 3 and (islands.every, islands.migrants) == (7, 2)
    with pytest.raises(UserError, match="search.budget=2 image forwards per image is less than one for each of"):
        mix("search.islands=3", "search.budget=2").make_search(*batch())
    with pytest.raises(UserError, match="search: islands .* hold=False"):
        mix("search.islands=2", "search.hold=true").make_search(*batch())
