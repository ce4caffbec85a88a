"""Every option of a run, once: its type, bounds, default and one line of meaning.

The section `search` is in search_options.py. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from evo.operators import MASK_SAMPLERS
from training.option_types import (
    Idle,
    Place,
    Section,
    check_levels,
    device_name,
    folder_name,
    model_name,
    number_or_share,
    one_of,
)
from training.registry import DATASETS, MIXES, MODELS, MixKind
from training.search_options import SearchOptions


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
    validation: Annotated[int | float, *number_or_share()] | None = Field(
        None,
        description="training images that are tested on in the test set's place, to choose options by or where there is no "
        "test set: a number per class, those after the subset's, or a share of each class below 1, drawn with subset_seed "
        "(else 0) before the subset is taken",
    )
    levels: Annotated[tuple[float, float], BeforeValidator(check_levels)] | None = Field(
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
    name: Annotated[str, *model_name(MODELS)] = Field(
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
    batch_size: int = Field(64, ge=1, description="images per optimizer step, over all processes")
    accumulate: int = Field(1, ge=1, description="parts a batch is forwarded in, to save memory")
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
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
    eval_batch_size: Annotated[int, Idle("in evaluation mode each image is forwarded for itself")] = Field(
        500, ge=1, le=10**6, description="images per forward in tests and in the search's probe"
    )
    save_minutes: Annotated[float, Idle("a run that goes on from a checkpoint equals one that never stopped")] = Field(
        10.0, gt=0, description="minutes between checkpoints within an epoch"
    )


class RunOptions(Section):
    seed: int = Field(0, ge=0, lt=2**32, description="of every random stream")
    name: Annotated[Annotated[str, AfterValidator(folder_name)] | None, Idle("nothing reads it")] = Field(
        None, description="folder under runs/out; else recipe, mix and a number"
    )
    # The seed is not among these; the next two change the order of sums alone, and so their last bits.
    device: Annotated[str, AfterValidator(device_name), Idle("the same computation on another machine")] = Field(
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
