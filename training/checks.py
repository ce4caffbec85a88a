"""What options cannot say one by one: which of them do not go together."""

from __future__ import annotations

from evo.errors import UserError
from evo.objectives import RELATIVE, parse_objectives
from evo.operators import ALL_CROSSOVERS, TABLE_CROSSOVERS
from evo.variation import parse_shares
from training.options import Config
from training.search_options import SearchOptions


def check_config(config: Config, source: str, *, trains: bool = True) -> None:
    """Raise UserError where options contradict one another.

    source: where they come from, for the error. trains: check what only training needs as well.
    """
    if config.search.elites > config.search.population:
        raise UserError(
            f"{source}: search.elites must be at most search.population, got {config.search.elites} of "
            f"{config.search.population}"
        )
    if not config.search.has_end:
        raise UserError(
            f"{source}: a search needs an end, and search.generations is null; set search.generations, budget, patience, "
            "target or minutes"
        )
    _check_pairs(config.search, source)
    if config.search.consume == "each" and config.search.generations is None and config.search.batch_size is None:
        raise UserError(
            f"{source}: search.consume=each trains on a batch for each generation's elites; set search.generations, or "
            "search.batch_size"
        )
    if config.search.islands > 1 and config.search.migrants >= config.search.population:
        raise UserError(
            f"{source}: search.migrants must be below search.population, got {config.search.migrants} of "
            f"{config.search.population}"
        )
    if config.mix.kind.finds_patterns and config.search.verify:
        _check_verify(config.search, source)
    if trains:
        _check_training(config, source)


def _check_pairs(search: SearchOptions, source: str) -> None:
    """Refuse what needs scores of all pairs where there are none."""
    if search.pair_masks and search.compose_at not in ("auto", "features"):
        raise UserError(
            f"{source}: search.pair_masks={search.pair_masks} scores all pairs of a batch, for which scores have to be "
            f"estimated; set search.compose_at=features, now {search.compose_at}, or search.pair_masks=0"
        )
    if search.pair_masks and search.relative:
        raise UserError(
            f"{source}: search.pair_masks={search.pair_masks} scores pairs by themselves, and search.objective="
            f"{search.objective} scores rows against a population; set search.pair_masks=0, or leave out "
            f"{' and '.join(sorted(RELATIVE))}"
        )
    deals = TABLE_CROSSOVERS.keys() & parse_shares(search.crossover, ALL_CROSSOVERS, "crossover")
    if deals and not (search.pairs_by_scores and search.compose_at == "features"):
        raise UserError(
            f"{source}: search.crossover={search.crossover} deals from scores of all pairs, and there are none; set "
            "search.compose_at=features and search.pair_masks=32, or take another crossover, such as assignment"
        )


def _check_training(config: Config, source: str) -> None:
    """What single fields cannot say."""
    search = config.search
    train = config.train
    mix = config.mix
    if search.batch_size is not None and search.batch_size % train.batch_size:
        raise UserError(
            f"{source}: search.batch_size must be a multiple of train.batch_size, got {search.batch_size} and {train.batch_size}"
        )
    if config.searches and mix.patch_weight == 0 and config.model.head == "own" and _reads_cells(search.objective):
        raise UserError(
            f"{source}: mix.name={mix.name} needs mix.patch_weight above 0, got 0: without a patch loss the cells that "
            f"search.objective={search.objective} reads are never trained; or set model.head=shared, or an objective of "
            "image losses"
        )
    if config.searches and config.search_start > train.epochs:
        raise UserError(
            f"{source}: search.start_epoch must be at most train.epochs, got {config.search_start} of {train.epochs}: no "
            "search would run"
        )
    for key, stop in (("search.stop_epoch", search.stop_epoch), ("mix.stop_epoch", mix.stop_epoch)):
        if config.searches and stop is not None and stop < config.search_start:
            raise UserError(
                f"{source}: {key} must be at least search.start_epoch, got {stop} and {config.search_start}: no search "
                "would run"
            )
    if mix.kind.selects:
        _check_best_of(config, source)
    if mix.kind.needs_bank and not mix.bank:
        raise UserError(
            f"{source}: mix.name={mix.name} needs mix.bank, a pattern file (`./run patterns RUN` writes one), got none"
        )


def _reads_cells(objective: str) -> bool:
    """Whether an objective looks at cell losses: those that need image losses and `diversity` do not."""
    return any(part.needs_cells for part in parse_objectives(objective))


def _check_verify(search: SearchOptions, source: str) -> None:
    for option, value in (("compose_at", "pixels"), ("evaluation", "full")):
        if getattr(search, option) == value:
            raise UserError(
                f"{source}: search.verify={search.verify} forwards what was scored by estimate, and with search.{option}="
                f"{value} every score is exact; set search.verify=0, or another search.{option}"
            )
    genomes = search.population * search.islands
    if not search.elites <= search.verify <= genomes:
        raise UserError(
            f"{source}: search.verify must be 0, or from search.elites={search.elites} to the {genomes} genomes of a "
            f"generation, got {search.verify}"
        )


def _check_best_of(config: Config, source: str) -> None:
    search, mix = config.search, config.mix
    if len(parse_objectives(search.objective)) > 1:
        raise UserError(
            f"{source}: mix.name=best-of-k selects by one objective, got search.objective={search.objective}; take "
            "one, or a sum such as hard+0.5*contrast"
        )
    if mix.keep == "shuffled" and not (search.self_pairing and search.same_class):
        raise UserError(
            f"{source}: mix.keep=shuffled deals partners at random, which search.self_pairing=false and "
            "search.same_class=false do not allow; leave them out, or set mix.keep=rows"
        )
