"""Every option of a run, once: its type, bounds, default and one line of meaning.

A recipe is a YAML file with the sections below; `-s section.key=value` overrides it. Unknown keys, wrong
types and numbers out of bounds are refused before anything is loaded. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema

from evo.errors import UserError, did_you_mean
from evo.objectives import RELATIVE, parse_objectives
from evo.operators import ALL_CROSSOVERS, MASK_SAMPLERS, TABLE_CROSSOVERS
from evo.variation import parse_shares
from training import plain_yaml, removed
from training.options import Idle, Place, Section, check_name, one_of
from training.places import user_path
from training.registry import DATASETS, MIXES, MODELS, MixKind
from training.search_options import SearchOptions

PROJECT = Path(__file__).resolve().parent.parent
RECIPES = PROJECT / "runs" / "recipes"


def _model_name() -> tuple[AfterValidator, WithJsonSchema]:
    """A name in the registry of models, or timm:NAME, which is looked up when the model is built."""
    names = list(MODELS)

    def check(name: str) -> str:
        return name if re.fullmatch(r"timm:[\w.]+", name) else check_name(name, [*names, "timm:NAME"])

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": [*names, "timm:NAME"]})


def _folder_name(name: str) -> str:
    parts = name.split("/")
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", part) for part in parts):
        raise ValueError(f"expected a name of letters, digits and . _ - = + (parts joined by /), got {name!r:.60}")
    return name


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:N, got {name!r:.60}")
    return name


def _number_or_share() -> tuple[AfterValidator | BeforeValidator | WithJsonSchema, ...]:
    """A whole number from 1, or a share between 0 and 1."""

    def check(value: Any) -> int | float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if (whole and value >= 1) or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(
            f"expected a number of images per class, or a share between 0 and 1 such as 0.2, got {value!r:.60}"
        )

    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return BeforeValidator(check), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, share]})


def _levels(value: Any) -> Any:
    """Two numbers, black and white; JSON and YAML have lists."""
    numbers = isinstance(value, list | tuple) and [
        number for number in value if isinstance(number, int | float) and not isinstance(number, bool)
    ]
    if not numbers or len(value) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(f"expected two numbers [BLACK,WHITE], black below white, such as [0,4095], got {value!r:.60}")
    return float(numbers[0]), float(numbers[1])


class DataOptions(Section):
    name: Annotated[str, *one_of(DATASETS)] = Field("digits", description="data set")
    root: Annotated[str | None, Place("the same images elsewhere")] = Field(
        None, description="where its files are; else $EVOMIX_DATA, else data/"
    )
    download: Annotated[bool, Idle("the files are the same, whoever fetched them")] = Field(
        True, description="fetch the files if they are missing"
    )
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        None, description="pixels a side for folders of images; else 64 for tiny-imagenet, 224 for folder"
    )
    subset: Annotated[int, Field(ge=1)] | None = Field(None, description="training images per class")
    subset_start: int = Field(0, ge=0, description="first image of each class, in the training file's order")
    subset_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="draw the subset with this seed instead of taking it in order"
    )
    validation: Annotated[int | float, *_number_or_share()] | None = Field(
        None,
        description="training images that are tested on in the test set's place, to choose options by or where there is no "
        "test set: a number per class, those after the subset's, or a share of each class below 1, drawn with subset_seed "
        "(else 0) before the subset is taken",
    )
    levels: Annotated[tuple[float, float], BeforeValidator(_levels)] | None = Field(
        None,
        description="levels [BLACK,WHITE] of images with more than 8 bits a channel; else [0,65535] for 16 bits, and images "
        "of other kinds are refused",
    )
    exclude_near_duplicates: bool = Field(
        False, description="test without the images of CIFAR that have a near-duplicate among the training images"
    )
    crop: Annotated[int, Field(ge=0, le=512)] | None = Field(
        None, description="pixels a training crop may move; else the data set's custom (4 for CIFAR)"
    )
    flip: bool | None = Field(None, description="whether training images are mirrored; else the data set's custom")
    cutout: int = Field(0, ge=0, le=1024, description="pixels a side of the square erased from training images")
    resident: Annotated[Literal["auto", "device", "host"], Idle("the same images come from there")] = Field(
        "auto", description="where images wait: on the device, or in the host's memory; auto: on it where they fit"
    )
    max_unreadable: float = Field(
        0.0, ge=0, lt=1, description="share of image files that may be unreadable and are left out; more ends the run"
    )


class ModelOptions(Section):
    name: Annotated[str, *_model_name()] = Field(
        "resnet-small", description="backbone, or timm:NAME for any of timm's (extra `timm`)"
    )
    pretrained: bool = Field(False, description="start from the weights that timm or torchvision publishes")
    width: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        None, description="channels of the first stage, where the backbone lets one choose"
    )
    grid: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="cells along a side; else the side of the last feature map"
    )
    head: Literal["own", "shared"] = Field(
        "own", description="cells are classified by a linear layer of their own, or by the image's"
    )


class MixOptions(Section):
    name: Annotated[str, *one_of(MIXES)] = Field("evolved", description="how batches are mixed")
    # The three below: runs/results/cifar10-1000-settings, where no other weight or sampler has a higher mean (three
    # seeds, intervals of a point). To mix every batch gains on some images and loses on others (cifar10-1000-search,
    # cifar10-50; cifar10-1000-p1), and doubles a search's cost.
    probability: float = Field(0.5, ge=0, le=1, description="share of training steps that are mixed")
    stop_epoch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="epoch of the last mixed steps; after it no image is mixed"
    )
    patch_weight: float = Field(1.0, ge=0, le=100, description="weight of the mean cell loss")
    alpha: float = Field(
        1.0, gt=0, le=100, description="shares of mixup, cutmix and mixup-or-cutmix are drawn from Beta(alpha, alpha)"
    )
    sampler: Annotated[str, *one_of(MASK_SAMPLERS)] = Field(
        "box", description="what random PatchMix and the search's first generation draw from"
    )
    bank: Annotated[str | None, Place("the same patterns elsewhere")] = Field(
        None, description="pattern file for the mix `bank`"
    )
    draws: int = Field(4, ge=1, le=1000, description="compositions that best-of-k draws for a batch it selects for, k")
    keep: Literal["rows", "batch", "shuffled"] = Field(
        "rows",
        description="what best-of-k keeps of them: of every row the best mask and partner; the composition with the best "
        "mean; or, as a control, the partners of the best rows, dealt at random under random masks",
    )

    @property
    def kind(self) -> MixKind:
        """What the mix of this name is and does."""
        return MIXES[self.name]

    def probability_in(self, epoch: int) -> float:
        """Share of an epoch's steps that are mixed; epochs count from 1."""
        return self.probability if self.stop_epoch is None or epoch <= self.stop_epoch else 0.0


class TrainOptions(Section):
    epochs: int = Field(20, ge=1, le=100_000, description="passes over the training set")
    batch: int = Field(64, ge=1, description="images per optimiser step, over all processes")
    accumulate: int = Field(1, ge=1, description="parts a batch is forwarded in, to save memory")
    optimiser: Literal["sgd", "adamw", "muon"] = Field(
        "sgd", description="SGD with Nesterov momentum, AdamW, or Muon for matrices and filters with AdamW for the rest"
    )
    lr: float = Field(0.1, gt=0, le=100, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD and Muon, Nesterov's")
    beta1: float = Field(0.9, ge=0, lt=1, description="of AdamW: decay of the gradient's average")
    beta2: float = Field(0.999, ge=0, lt=1, description="of AdamW: decay of its square's average")
    adam_lr: float = Field(1e-3, gt=0, le=100, description="peak learning rate of the AdamW beside Muon")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="of every parameter, or as norm_decay says")
    norm_decay: bool = Field(True, description="whether biases and normalisation weights decay too")
    schedule: Literal["cosine", "onecycle", "step", "constant"] = Field(
        "cosine",
        description="learning rate after the warm-up: a cosine to 0; one cycle up and down to 0 (no other warm-up); "
        "times step_factor at each of step_at; as it is",
    )
    warmup: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    step_at: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=100)] = Field(
        [0.5, 0.75], description="shares of the run after which schedule=step lowers the learning rate"
    )
    step_factor: float = Field(0.1, gt=0, lt=1, description="what schedule=step multiplies it by")
    clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest norm of the gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of image and cell targets")
    ema: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="decay of a weight average that tests and transfers use in the live model's place"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast on CUDA, float32 elsewhere"
    )
    compile: Literal["auto", "yes", "no"] = Field(
        "auto", description="train through torch.compile; auto: on CUDA, where compilation works"
    )
    sync_norm: bool = Field(
        True,
        description="of several processes: batch normalisation over the whole batch, so that their number is "
        "of no matter; false: over each one's part",
    )
    evaluate_every: int = Field(1, ge=1, description="epochs between tests; the last ten are always tested")
    eval_batch: Annotated[int, Idle("in evaluation mode each image is forwarded for itself")] = Field(
        500, ge=1, le=10**6, description="images per forward in tests and in the search's probe"
    )
    save_minutes: Annotated[float, Idle("a run that goes on from a checkpoint equals one that never stopped")] = Field(
        10.0, gt=0, description="minutes between checkpoints within an epoch"
    )


class RunOptions(Section):
    seed: int = Field(0, ge=0, lt=2**32, description="of every random stream")
    name: Annotated[Annotated[str, AfterValidator(_folder_name)] | None, Idle("nothing reads it")] = Field(
        None, description="folder under runs/out; else recipe, mix and a number"
    )
    # The seed is not among these; the next two change the order of sums alone, and so their last bits.
    device: Annotated[str, AfterValidator(_device), Idle("the same computation on another machine")] = Field(
        "auto", description="auto (CUDA where there is one), cpu, mps, cuda, cuda:1, ..."
    )
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, Idle("the same computation, shared")] = Field(
        None, description="CPU threads of torch"
    )
    tensorboard: Annotated[bool, Idle("it is written from what is logged")] = Field(
        False, description="write TensorBoard's event files too (extra `tensorboard`)"
    )


class Config(Section):
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    mix: MixOptions = MixOptions()
    search: SearchOptions = SearchOptions()
    train: TrainOptions = TrainOptions()
    run: RunOptions = RunOptions()

    @property
    def searches(self) -> bool:
        """Whether the section `search` counts: the mix has the live model score compositions."""
        return self.mix.kind.scores

    @property
    def trains_cells(self) -> bool:
        """Whether training reaches what classifies the cells: a shared head learns from every image."""
        return (self.mix.kind.trains_cells and self.mix.patch_weight > 0) or self.model.head == "shared"

    @property
    def search_start(self) -> int:
        """The epoch, from 1, of the first search or selection."""
        return self.search.start_epoch or 1 + self.train.epochs // 10


def idle_options(kind: type[Idle] = Idle) -> dict[str, str]:
    """The options marked so, `section.key`, each with the reason."""
    return {
        f"{section}.{name}": mark.why
        for section, part in Config.model_fields.items()
        for name, field in getattr(part.annotation, "model_fields", {}).items()
        for mark in field.metadata
        if isinstance(mark, kind)
    }


def load_config(recipe: str, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe (a name in runs/recipes or a path) with overrides `section.key=value` applied.

    Raises UserError, one line per mistake.
    """
    path = recipe_path(recipe)
    return make_config(read_yaml(path), overrides, path.name)


def make_config(
    sections: Mapping[str, Any],
    overrides: Iterable[str] = (),
    source: str = "config",
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trains: bool = True,
) -> Config:
    """Check the sections of a recipe, after settings and overrides. Raises UserError, one line per mistake.

    settings: values by `section.key`. overrides: texts `section.key=value`. trains: check what only training needs as
    well.
    """
    merged = {name: dict(keys) if isinstance(keys, dict) else keys for name, keys in sections.items()}
    for key, value in settings.items():
        _put(merged, *_split(key, f"{source}: {key}"), value)
    written = dict(_apply(merged, override) for override in overrides)
    if refused := removed.refusals(merged):
        raise UserError("\n".join(f"{source}: {line}" for line in refused))
    merged = removed.without(merged)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise UserError("\n".join(_explain(detail, source, written) for detail in error.errors())) from None
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
    if config.search.consume == "each" and config.search.generations is None and config.search.batch is None:
        raise UserError(
            f"{source}: search.consume=each trains on a batch for each generation's elites; set search.generations, or "
            "search.batch"
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
    return config


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


def describe_options() -> str:
    """Every option, one a line: key, type and bounds, default, meaning."""
    schema = Config.model_json_schema()
    lines = []
    for section, reference in schema["properties"].items():
        options = schema["$defs"][reference["$ref"].rsplit("/", 1)[1]]["properties"]
        for name, option in options.items():
            default = json.dumps(option["default"])
            lines.append((f"{section}.{name}", _kind(option), default, option["description"]))
    widths = [max(len(line[column]) for line in lines) for column in (0, 2)]
    return "\n".join(
        f"{key:<{widths[0]}}  {default:<{widths[1]}}  {meaning} ({kind})" for key, kind, default, meaning in lines
    )


def _kind(option: Mapping[str, Any]) -> str:
    """A JSON schema's type in words, e.g. `integer, 1..64, or null`."""
    if "prefixItems" in option:
        return f"[{', '.join(_kind(part) for part in option['prefixItems'])}]"
    if "anyOf" in option:
        return ", or ".join(_kind(part) for part in option["anyOf"])
    if "enum" in option:
        return " | ".join(option["enum"])
    low = option.get("minimum", option.get("exclusiveMinimum"))
    high = option.get("maximum", option.get("exclusiveMaximum"))
    bounds = {
        "minimum": f">= {low}",
        "exclusiveMinimum": f"> {low}",
        "maximum": f"<= {high}",
        "exclusiveMaximum": f"< {high}",
    }
    return ", ".join([option["type"], *(text for key, text in bounds.items() if key in option)])


def recipe_path(recipe: str) -> Path:
    """The file a recipe's name or path stands for."""
    named = RECIPES / f"{recipe}.yaml"
    for path in (named, user_path(recipe)):
        if path.is_file():
            return path
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    raise UserError(f"no recipe {recipe!r}{did_you_mean(recipe, names)} (recipes: {', '.join(names)}; or give a path)")


def data_root(options: DataOptions) -> Path:
    """Where data sets are looked for."""
    return user_path(options.root or os.environ.get("EVOMIX_DATA") or PROJECT / "data")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping, as plain_yaml reads it. Raises UserError in one line."""
    try:
        data = plain_yaml.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected sections such as `train:` with keys below them, got {data!r:.60}")
    return data


def _apply(sections: dict[str, Any], override: str) -> tuple[str, str]:
    """Set what `section.key=value` says; return both as they are written."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"-s {override}: expected section.key=value, e.g. -s train.epochs=5")
    section, name = _split(key.strip(), f"-s {override}")
    if not text.strip():
        raise UserError(f"-s {override}: expected a value behind the =, got nothing; null stands for no value")
    try:
        value = text.strip() if _is_plain_text(section, name, text.strip()) else plain_yaml.read(text)
    except ValueError as error:
        raise UserError(f"-s {override}: {text!r} is not a value YAML can read ({error})") from None
    _put(sections, section, name, value)
    return f"{section}.{name}", text.strip()


def _split(key: str, said: str) -> tuple[str, str]:
    """Section and name of `section.key`. said: what the user wrote, for the error."""
    section, dot, name = key.partition(".")
    if not (dot and name):
        raise UserError(f"{said}: expected section.key=value, e.g. -s train.epochs=5")
    if section not in Config.model_fields:
        raise UserError(f"{said}: {_unknown(section, list(Config.model_fields))}")
    return section, name


def _put(sections: dict[str, Any], section: str, name: str, value: Any) -> None:
    keys = sections.setdefault(section, {})
    if not isinstance(keys, dict):
        raise UserError(f"{section}: expected keys below it, got {keys!r:.60}")
    keys[name] = value


def _is_plain_text(section: str, name: str, text: str) -> bool:
    """Whether a value of -s is taken letter by letter: the option is of text, and neither null nor quotes stand there.

    So a folder may be named 2024, 1e3, [a] or `my data #2`, which YAML would read as something else.
    """
    options = Config.model_fields[section].annotation
    field = getattr(options, "model_fields", {}).get(name)
    return field is not None and _of_text(field.annotation) and text != "null" and text[0] not in "\"'"


def _of_text(annotation: Any) -> bool:
    """Whether an option's type is text, or text and none."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Annotated:
        return _of_text(parts[0])
    return annotation is str or (bool(parts) and all(map(_of_text, parts)))


def _explain(detail: Any, source: str, written: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors. written: values of -s by their key, for 1e3 to be told as 1e3."""
    place = ".".join(str(part) for part in detail["loc"] if isinstance(part, str) and "[" not in part)
    if detail["type"] == "extra_forbidden":
        section = str(detail["loc"][0])
        in_section = len(detail["loc"]) > 1
        options = Config.model_fields[section].annotation if in_section else Config
        known = list(getattr(options, "model_fields", {}))
        prefix = f"{section}." if in_section else ""
        return f"{source}: {prefix}{_unknown(str(detail['loc'][-1]), known, prefix)}"
    if detail["type"] in ("model_type", "model_attributes_type"):
        return f"{source}: {place}: expected keys below it, got {detail['input']!r:.60}"
    if detail["type"] == "value_error":  # from a check of ours, which says what came
        return f"{source}: {place}: {detail['ctx']['error']}"
    given = detail["input"]
    hint = ""
    shown = written.get(place, repr(given)) if type(given) in (int, float) else repr(given)
    if detail["type"] in ("int_type", "float_type") and isinstance(given, str) and any(map(str.isdigit, given)):
        hint = "; write numbers in plain decimal digits, such as 30, 0.5 or 1e-3, without quotes"
    elif detail["type"] == "string_type" and given is not None:
        hint = "; put it in quotes"
    return f"{source}: {place}: {detail['msg']}, got {shown:.60}{hint}".replace("Input should be", "expected")


def _unknown(name: str, known: list[str], prefix: str = "") -> str:
    hint = did_you_mean(name, known, prefix=prefix) or f"; known: {', '.join(known)}"
    return f"{name} is not an option{hint}"


def _check_training(config: Config, source: str) -> None:
    """What single fields cannot say."""
    search = config.search
    train = config.train
    mix = config.mix
    if search.batch is not None and search.batch % train.batch:
        raise UserError(
            f"{source}: search.batch must be a multiple of train.batch, got {search.batch} and {train.batch}"
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
