"""The section `search`: the engine's settings (evo/settings.py), and when and on what the trainer searches."""

from __future__ import annotations

from dataclasses import fields
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, create_model

from evo.ends import has_end
from evo.objectives import parse_objectives
from evo.settings import SearchSettings, make_settings
from training.option_types import Place, Section, one_of

# A few dozen: more find little more, for as many times the time (runs/benchmarks/estimated_search.py).
PAIR_MASKS = 32
# The words of search.compose_at; between pixels and features are the stages of the network.
DEPTHS = ("auto", "pixels", "features")


def options_of(settings: type[SearchSettings]) -> dict[str, Any]:
    """Its fields as pydantic's: annotation and field of each by name."""
    hints = get_type_hints(settings)
    found: dict[str, Any] = {}
    for one in fields(settings):
        marks: list[Any] = [Field(**one.metadata["bounds"])] if one.metadata["bounds"] else []
        marks += one_of(one.metadata["names"]) if one.metadata["names"] else []
        if one.metadata["check"] is not None:
            marks.append(AfterValidator(lambda text, check=one.metadata["check"]: (check(text), text)[1]))
        kind = hints[one.name]
        if NoneType in get_args(kind):
            (inner,) = (part for part in get_args(kind) if part is not NoneType)
            kind = (Annotated[(inner, *marks)] if marks else inner) | None
        elif marks:
            kind = Annotated[(kind, *marks)]
        found[one.name] = kind, Field(one.default, description=one.metadata["description"])
    return found


def _depth() -> tuple[BeforeValidator, WithJsonSchema]:
    """Pixels, features, or the number of a stage."""

    def check(value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if whole or (isinstance(value, str) and value in DEPTHS):
            return value
        raise ValueError(
            f"expected {', '.join(DEPTHS)}, or the number of a stage of the network, from 1, got {value!r:.60}"
        )

    named, number = {"type": "string", "enum": list(DEPTHS)}, {"type": "integer", "minimum": 1}
    return BeforeValidator(check), WithJsonSchema({"anyOf": [named, number]})


if TYPE_CHECKING:

    class _EngineOptions(Section, SearchSettings): ...
else:
    _EngineOptions = create_model("_EngineOptions", __base__=Section, **options_of(SearchSettings))


class SearchOptions(_EngineOptions):
    """The engine's settings, of which two begin otherwise, and the schedule of searches."""

    # A search within training has to end by itself.
    generations: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        2, description="generations per search batch, T; null: no limit, where there is another end"
    )
    sampler: Annotated[str, *one_of(SearchSettings.list_names("sampler"))] | None = Field(  # type: ignore[assignment]
        None, description="what a search's first generation of masks is drawn from; else mix.sampler"
    )
    elites: int = Field(1, ge=1, description="genomes of each generation that are trained on, E")
    consume: Literal["each", "last"] = Field(
        "last", description="trained on are the elites of each generation in turn, or of a search's last one alone"
    )
    # One training batch where it has one elite: in runs/results/cifar10-50-p1 a search over three at once loses to mixing
    # at random, one over single batches does not.
    batch_size: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images per search batch; else train.batch_size x elites, where each generation's are trained on x "
        "generations",
    )
    # Within 1.35 times random PatchMix where every batch is mixed. Four genomes, dealt at temperature 0.5 and bred once, come
    # as far as the exact search of 8 genomes and 4 generations (runs/results/bench/estimates.json), whose gain in
    # accuracy is published (cifar10-1000-p1). No other objective is better (cifar10-1000-objectives).
    every: int = Field(
        2,
        ge=1,
        description="searches run on every R-th search batch; the others draw from the live bank of patterns (best-of-k "
        "selects for every R-th mixed batch; the others are random)",
    )
    start_epoch: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="epoch of the first search or selection, else the first after a tenth of the training; before it "
        "compositions are random",
    )
    stop_epoch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="epoch of the last search or selection; after it compositions are random"
    )
    bank_decay: float = Field(
        0.9, ge=0, le=1, description="share of the live bank's weights kept at each search that adds to it"
    )
    reference: Annotated[str, Place("the same run elsewhere")] = Field(
        "average",
        description="what reducible and image_reducible compare with: average (of the live model's weights), or a run",
    )
    reference_decay: float = Field(0.99, ge=0, lt=1, description="share of the weight average kept at each step")
    compose_at: Annotated[Literal["auto", "pixels", "features"] | int, *_depth()] = Field(
        "auto",
        description="where the compositions that a search scores are made: features: of the images' own last feature maps, "
        "which are forwarded once for a search; scores are estimates. pixels: each composed image is forwarded; scores are "
        "exact. A number between them: of the maps behind that stage of the network, the rest of which is forwarded for "
        "each row; nearer to exact, the earlier the stage. auto: features, or pixels where a trial before the first search "
        "finds that the estimates rank an image's compositions otherwise than exact scores",
    )
    verify: int = Field(
        0,
        ge=0,
        description="of a search's last generation so many of the fittest genomes by their estimated scores are forwarded "
        "exactly, and those truly fittest are trained on; 0: the estimates decide. Needs estimated scores",
    )
    pair_masks: Annotated[int, Field(ge=0, le=4096)] | None = Field(
        None,
        description="masks, drawn by the sampler, under which all pairs of a search batch are scored before its first "
        "generation, which is then dealt from these scores at search.temperature; 0: it is drawn at random. Else 32 where "
        "scores are estimated from features and the objective scores rows by themselves, 0 elsewhere",
    )
    forward_batch_size: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        None,
        description="images per forward of the search's probe, but for full evaluation; else 128 on a CPU, train.eval_batch_size "
        "elsewhere",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="what the search's probe computes in; auto: as in training"
    )
    channels_last: bool = Field(True, description="memory format of the images the probe forwards")
    compile: bool = Field(False, description="forward the probe's images through torch.compile")
    start: Annotated[str | None, Place("the same patterns elsewhere")] = Field(
        None, description="pattern file, or run, that search.start_share of the first generation comes from"
    )
    islands: int = Field(1, ge=1, le=1000, description="populations that breed apart")
    migrate_every: int = Field(5, ge=1, description="generations between migrations of islands")
    migrants: int = Field(1, ge=1, description="genomes that each island sends on")

    def settings(self, **changes: Any) -> SearchSettings:
        """The engine's settings among these, with changes by name. Raises UserError where they do not fit."""
        own = {one.name: getattr(self, one.name) for one in fields(SearchSettings)}
        return make_settings(None, own | changes)

    @property
    def pairs_by_scores(self) -> int:
        """Masks under which all pairs are scored: search.pair_masks, or its default."""
        if self.pair_masks is not None:
            return self.pair_masks
        return PAIR_MASKS if self.compose_at in ("auto", "features") and not self.relative else 0

    @property
    def relative(self) -> bool:
        """Whether an objective scores rows against a population."""
        return any(objective.relative for objective in parse_objectives(self.objective))

    @property
    def has_end(self) -> bool:
        """Whether a search with these options ends by itself."""
        return has_end(self)
