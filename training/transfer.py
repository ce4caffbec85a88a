"""Transfer: how good a trained backbone is on other data.

linear: softmax regression on standardised features, its weight decay chosen on held-out training images
(Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019).
knn: the 20 nearest training images by cosine vote, weighted with exp(similarity / 0.07); nothing is chosen
(Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018; k as in
Caron et al., DINO, ICCV 2021).
finetune: all weights are trained on, from a head of zeros, with SGD and augmented images; learning rate and
weight decay are chosen on held-out training images.

What is chosen is then fitted again on all training images. The test images decide nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo.errors import UserError
from training.config import Config
from training.data.augment import augment
from training.data.image_set import AnyImageSet
from training.data.load import load_data, place
from training.devices import autocast_type, memory_format_of
from training.models.patch_model import PatchModel, build_model
from training.models.scaling import Prepare
from training.models.trained import load_trained, without_fetching
from training.optimizers import half_cosine
from training.options import DataOptions, TrainOptions
from training.randomness import Streams

METHODS = ("linear", "knn", "finetune")
HELD_OUT = 5  # one image of so many of each class is held out where something is chosen
LINEAR_DECAYS = tuple(10.0**power for power in range(0, -7, -1))  # from the simplest classifier on
LBFGS_ITERATIONS = 200
LBFGS_LIMIT = 2**27  # numbers in features and logits; above it mini-batches, which need no copies of them
SGD_EPOCHS = 20
SGD_STEPS = 2000
SGD_BATCH = 1024
SGD_MOMENTUM = 0.9
NEIGHBOURS = 20
TEMPERATURE = 0.07
KNN_CHUNK = 2**25  # similarities at once: 128 MiB
TUNE_RATES = (0.01, 0.03, 0.1)
TUNE_DECAYS = (5e-4, 0.0)
TRIAL_STEPS = 2000  # of each trial at most, so that choosing costs a bounded time on large sets
TRIAL_IMAGES = 10_000  # held-out images that a trial is tested on, at most

Labelled = tuple[Tensor, Tensor]  # features (M,D) float32, labels (M,)
Classifier = tuple[Tensor, Tensor]  # weight (K,D), bias (K,)
Say = Callable[[str], None]


def _quietly(line: str) -> None: ...


@dataclass(frozen=True)
class Source:
    """The backbone of a run with this config and folder. weights: `model`, `ema`, or `untrained`: as built."""

    config: Config
    folder: Path
    weights: str


@dataclass(frozen=True)
class Backbone:
    """A source's model in evaluation mode, for images of `shape` (C,H,W)."""

    model: PatchModel
    prepare: Prepare
    shape: tuple[int, int, int]
    autocast: torch.dtype | None


@dataclass(frozen=True)
class Target:
    """A data set to transfer to."""

    name: str
    options: DataOptions
    training: AnyImageSet
    test: AnyImageSet

    @cached_property
    def content(self) -> list[str]:
        """What tells its training and test images from others."""
        return [self.training.identity(), self.test.identity()]

    def to(self, device: torch.device) -> Target:
        """The data set with its batches on `device`, the images as data.resident says."""
        training, test = (place(part, device, self.options) for part in (self.training, self.test))
        return replace(self, training=training, test=test)


@dataclass(frozen=True)
class Outcome:
    """accuracy: percent of `test_images`. chosen: the values that held-out images decided, by name."""

    accuracy: float
    test_images: int
    chosen: dict[str, float] = field(default_factory=dict)


def open_source(source: Source, config: Config, device: torch.device) -> Backbone:
    """Load a run's checkpoint. config: of the transfer; its train.precision counts if set, else the run's.

    Raises UserError where the run has no sound checkpoint.
    """
    given = "precision" in config.train.model_fields_set
    autocast = autocast_type((config if given else source.config).train.precision, device)
    weights = "model" if source.weights == "untrained" else source.weights
    trained = load_trained(source.config, source.folder, device, weights)
    model = trained.model
    if source.weights == "untrained":
        torch.manual_seed(Streams(source.config.run.seed).number("weights"))  # as the run began
        model = build_model(without_fetching(source.config), trained.image_shape, len(trained.class_names))
        model.to(device, memory_format=memory_format_of(model, device)).eval()  # type: ignore[call-overload]
    return Backbone(model, trained.prepare, trained.image_shape, autocast)


def open_target(name: str, options: DataOptions) -> Target:
    """Load a data set; on the CPU. Raises UserError where it cannot be learnt from and tested on."""
    training, test = load_data(options)
    for what, part, least in (("training", training, HELD_OUT), ("test", test, 1)):
        if len(part) < least:
            raise UserError(f"{name}: transfer needs at least {least} {what} images, got {len(part)}")
    names = training.class_names
    there = set(training.labels.unique().tolist())
    missing = [label for label in test.labels.unique().tolist() if label not in there]
    if missing or test.class_names != names:
        odd = [str(names[label]) if label < len(names) else str(label) for label in missing]
        odd += [other for other in test.class_names if other not in names]
        raise UserError(f"{name}: classes with test images but no training image: {', '.join(odd)!s:.200}")
    empty = [label for index, label in enumerate(names) if index not in there]
    if empty:
        raise UserError(f"{name}: classes without a training image: {', '.join(empty):.200}")
    return Target(name, options, training, test)


def measure(
    backbone: Backbone, target: Target, jobs: Sequence[tuple[str, int]], config: Config, say: Say = _quietly
) -> Iterator[Outcome]:
    """The outcome of each (method, seed) in turn, on the backbone's device; features are computed once.

    config: of the transfer. say: told what goes on. Raises UserError where features or losses are not finite.
    """
    num_classes = len(target.training.class_names)
    features: tuple[Labelled, Labelled] | None = None
    for method, seed in jobs:
        if method == "finetune":
            yield fine_tune(backbone, target, config.train, seed, say)
            continue
        if features is None:
            batch = config.train.eval_batch_size
            training = backbone_features(backbone, target.training, batch, lambda line: say(f"training {line}"))
            features = training, backbone_features(backbone, target.test, batch, lambda line: say(f"test {line}"))
        say("fitting")
        if method == "linear":
            yield linear_probe(*features, num_classes, seed)
        else:
            yield nearest_neighbours(*features, num_classes)


@torch.no_grad()
def backbone_features(backbone: Backbone, images: AnyImageSet, batch: int = 500, say: Say = _quietly) -> Labelled:
    """Features (M,D) float32 and labels (M,) of a whole set."""
    features, labels = [], []
    for pixels, classes in images.batches(torch.arange(len(images)).split(batch)):
        with torch.autocast(pixels.device.type, backbone.autocast, enabled=backbone.autocast is not None):
            inputs = backbone.prepare(fitted(pixels, backbone.shape))
            features.append(backbone.model.features(inputs).float())
        labels.append(classes)
        say(f"features: {min(len(labels) * batch, len(images)):,}/{len(images):,} images")
    found = torch.cat(features)
    if not bool(found.isfinite().all()):
        raise UserError("the backbone's features are not finite: the run has diverged; take another run")
    return found, torch.cat(labels)


def fitted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images (B,c,h,w) of 0..255 as float (B,C,H,W): resized, grey ones repeated, colours averaged."""
    channels, height, width = shape
    images = images.float()
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images


def held_out(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices (held, kept) on the CPU, each in random order; held has a fifth of each class, at least one of two.

    labels: (M,). Where every class has a single image, a fifth of all are held.
    """
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=generator)
    grouped = order[labels[order].argsort(stable=True)]  # by class, at random within it
    counts = labels.bincount()
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[grouped]]
    share = torch.where(counts > 1, (counts // HELD_OUT).clamp(min=1), 0)
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[grouped] = rank < share[labels[grouped]]
    if not is_held.any():
        is_held[order[: len(order) // HELD_OUT]] = True
    return order[is_held[order]], order[~is_held[order]]


# Linear probe


def linear_probe(
    training: Labelled, test: Labelled, num_classes: int, seed: int = 0, solver: str | None = None
) -> Outcome:
    """Softmax regression on features: loss in nats + weight_decay / 2 x squared norm of the weights.

    Features are scaled to mean 0 and deviation 1 of the training images'. solver: `lbfgs`, `sgd`, or None:
    L-BFGS where features and logits are at most LBFGS_LIMIT numbers.
    """
    features, labels = training
    mean = features.mean(0)
    std = features.std(0).clamp(min=1e-6)
    features = (features - mean) / std
    test_features = (test[0] - mean) / std
    streams = Streams(seed)
    held, kept = (part.to(labels.device) for part in held_out(labels, streams.torch("held out")))
    if solver is None:
        solver = "lbfgs" if features.numel() + 2 * len(labels) * num_classes <= LBFGS_LIMIT else "sgd"
    if solver == "lbfgs":
        decay, start = _choose_by_lbfgs(features, labels, held, kept, num_classes)
        final = fit_lbfgs(features, labels, num_classes, decay, start)
    else:
        order = streams.torch("order")
        tried = fit_sgd(features, labels, kept, num_classes, LINEAR_DECAYS, order)
        scores = [accuracy(classifier, features[held], labels[held]) for classifier in tried]
        decay = LINEAR_DECAYS[scores.index(max(scores))]
        everything = torch.arange(len(labels), device=labels.device)
        (final,) = fit_sgd(features, labels, everything, num_classes, (decay,), order)
    return Outcome(accuracy(final, test_features, test[1]), len(test[1]), {"weight_decay": decay})


def _choose_by_lbfgs(
    features: Tensor, labels: Tensor, held: Tensor, kept: Tensor, num_classes: int
) -> tuple[float, Classifier]:
    """The decay that is best on held-out rows, of equals the largest, and its classifier.

    Each fit starts from the one before, which is what makes the weak decays cheap; two in a row that are no
    better end the search.
    """
    fitted_on, tested_on = (features[kept], labels[kept]), (features[held], labels[held])
    classifiers: list[Classifier] = []
    scores: list[float] = []
    for decay in LINEAR_DECAYS:
        classifiers.append(fit_lbfgs(*fitted_on, num_classes, decay, classifiers[-1] if classifiers else None))
        scores.append(accuracy(classifiers[-1], *tested_on))
        best = scores.index(max(scores))
        if len(scores) - 1 - best == 2:
            break
    return LINEAR_DECAYS[best], classifiers[best]


def fit_lbfgs(
    features: Tensor, labels: Tensor, num_classes: int, weight_decay: float, start: Classifier | None = None
) -> Classifier:
    """Softmax regression on features (M,D), from `start`, else from zeros."""
    if start is None:
        start = features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes)
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=LBFGS_ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(torch.addmm(bias, features, weight.T), labels)
        loss = loss + 0.5 * weight_decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


@torch.no_grad()
def fit_sgd(
    features: Tensor,
    labels: Tensor,
    rows: Tensor,
    num_classes: int,
    weight_decays: Sequence[float],
    generator: torch.Generator,
) -> list[Classifier]:
    """Softmax regressions on the `rows` (M,) of features, one for each decay, side by side in one pass.

    Nesterov SGD; the learning rate falls by a cosine from 1 / L, L the largest curvature that the loss can
    have: half the largest eigenvalue of the features' second moments, plus the decay.
    """
    decays = features.new_tensor(weight_decays).view(-1, 1, 1)  # (R,1,1)
    some = features[rows[:10_000]]
    largest = torch.linalg.eigvalsh(some.T @ some / len(some))[-1]
    rates = 1 / (0.5 * (largest + 1) + decays)
    weight = features.new_zeros(len(decays), num_classes, features.shape[1])  # (R,K,D)
    bias = features.new_zeros(len(decays), num_classes, 1)  # (R,K,1)
    speeds = torch.zeros_like(weight), torch.zeros_like(bias)
    steps = max(SGD_EPOCHS * (len(rows) // SGD_BATCH), SGD_STEPS)
    for step, chosen in enumerate(_shuffled(rows, SGD_BATCH, steps, generator)):
        given, wanted = features[chosen], labels[chosen]  # (B,D), (B,)
        logits = torch.addmm(bias.flatten(), given, weight.flatten(0, 1).T).unflatten(1, bias.shape[:2])  # (B,R,K)
        error = (logits.softmax(2) - F.one_hot(wanted, num_classes)[:, None]) / len(wanted)
        slope = (error.flatten(1).T @ given).view_as(weight) + decays * weight
        rate = rates * half_cosine(step / steps)
        for tensor, speed, gradient in zip((weight, bias), speeds, (slope, error.sum(0)[..., None]), strict=True):
            speed.mul_(SGD_MOMENTUM).add_(gradient)
            tensor.sub_(rate * gradient.add(speed, alpha=SGD_MOMENTUM))
    return list(zip(weight, bias[..., 0], strict=True))


def accuracy(classifier: Classifier, features: Tensor, labels: Tensor) -> float:
    """Percent of features (M,D) that a linear classifier puts into their class."""
    weight, bias = classifier
    return 100 * int(((features @ weight.T + bias).argmax(1) == labels).sum()) / len(labels)


def _shuffled(rows: Tensor, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of up to `size` rows, of one random order after another; only whole batches where there are."""
    while steps > 0:
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        whole = max(size, len(rows) // size * size)
        for chosen in rows[order[:whole]].split(size)[:steps]:
            yield chosen
            steps -= 1


# Nearest neighbours


@torch.no_grad()
def nearest_neighbours(
    training: Labelled,
    test: Labelled,
    num_classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    chunk: int = KNN_CHUNK,
) -> Outcome:
    """Votes of the nearest training features by cosine similarity s, each of weight exp(s / temperature).

    chunk: similarities that are held at once.
    """
    bank = F.normalize(training[0])
    labels = training[1]
    neighbours = min(neighbours, len(labels))
    hits = torch.zeros((), dtype=torch.int64, device=labels.device)
    rows = max(1, chunk // len(labels))
    for queries, wanted in zip(test[0].split(rows), test[1].split(rows), strict=True):
        similarity, nearest = (F.normalize(queries) @ bank.T).topk(neighbours)  # (B,k)
        weights = ((similarity - 1) / temperature).exp()
        votes = weights.new_zeros(len(queries), num_classes).scatter_add_(1, labels[nearest], weights)
        hits += (votes.argmax(1) == wanted).sum()
    return Outcome(100 * int(hits) / len(test[1]), len(test[1]))


# Fine-tuning


def fine_tune(backbone: Backbone, target: Target, options: TrainOptions, seed: int, say: Say = _quietly) -> Outcome:
    """Train a copy of the backbone with a new head on the target's training images, test it on the others.

    The learning rate is chosen first, at the first weight decay, then the weight decay. options: epochs,
    batch, eval_batch_size, momentum, label_smoothing; lr and weight_decay where they were set: these are then not
    chosen. Raises UserError where the loss does not stay finite.
    """
    rates, decays = tried_rates(options), tried_decays(options)
    held, kept = held_out(target.training.labels, Streams(seed).torch("held out"))
    validation = target.training.select(held[:TRIAL_IMAGES])
    scores: dict[tuple[float, float], float] = {}

    def try_out(rate: float, decay: float) -> float:
        if (rate, decay) not in scores:
            what = f"trial {len(scores) + 1}/{len(rates) + len(decays) - 1}, lr {rate:g}, weight decay {decay:g}: "
            steps = min(TRIAL_STEPS, _steps(len(kept), options))
            model, loss = _train(
                backbone, target.training, kept, rate, decay, steps, options, seed, lambda line: say(what + line)
            )
            tested = image_accuracy(backbone, model, validation, options.eval_batch_size)
            scores[rate, decay] = tested if math.isfinite(loss) else -1.0
        return scores[rate, decay]

    rate, decay = rates[0], decays[0]
    if len(rates) > 1:
        rate = max(rates, key=lambda rate: try_out(rate, decay))
    if len(decays) > 1:
        decay = max(decays, key=lambda decay: try_out(rate, decay))
    everything = torch.arange(len(target.training))
    what = f"lr {rate:g}, weight decay {decay:g}: "
    steps = _steps(len(everything), options)
    model, loss = _train(
        backbone, target.training, everything, rate, decay, steps, options, seed, lambda line: say(what + line)
    )
    if not math.isfinite(loss):
        raise UserError(
            f"{target.name}: the loss of fine-tuning became {loss}; set a lower -s train.lr, it was {rate:g}"
        )
    tested = image_accuracy(backbone, model, target.test, options.eval_batch_size)
    return Outcome(tested, len(target.test), {"lr": rate, "weight_decay": decay})


def tried_rates(options: TrainOptions) -> tuple[float, ...]:
    """Learning rates to choose from: the one that was set, else TUNE_RATES."""
    return (options.lr,) if "lr" in options.model_fields_set else TUNE_RATES


def tried_decays(options: TrainOptions) -> tuple[float, ...]:
    """Weight decays to choose from: the one that was set, else TUNE_DECAYS."""
    return (options.weight_decay,) if "weight_decay" in options.model_fields_set else TUNE_DECAYS


def _steps(count: int, options: TrainOptions) -> int:
    return options.epochs * max(1, count // options.batch_size)


def _train(
    backbone: Backbone,
    images: AnyImageSet,
    rows: Tensor,
    rate: float,
    decay: float,
    steps: int,
    options: TrainOptions,
    seed: int,
    say: Say,
) -> tuple[PatchModel, float]:
    """A copy of the backbone trained on `rows` (M,) of the images, and the sum of its losses in nats."""
    streams = Streams(seed)
    torch.manual_seed(streams.number("global"))  # dropout, where a backbone has it
    order, crops = streams.torch("order"), streams.torch("crops")
    model = copy.deepcopy(backbone.model)
    device = next(model.parameters()).device
    model.image_head = nn.Linear(model.image_head.in_features, len(images.class_names)).to(device)
    nn.init.zeros_(model.image_head.weight)
    nn.init.zeros_(model.image_head.bias)
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=options.momentum, weight_decay=decay, nesterov=options.momentum > 0
    )
    total = torch.zeros((), device=device)  # read once, at the end
    batches = images.batches(_shuffled(rows, options.batch_size, steps, order))
    for step, (pixels, labels) in enumerate(batches):
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate * _cosine(step, steps)
        moved = augment(pixels, images.crop, images.flip, images.cutout, crops)
        loss = F.cross_entropy(_logits(backbone, model, moved), labels, label_smoothing=options.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        say(f"step {step + 1}/{steps}")
    return model.eval(), float(total)


def _cosine(step: int, steps: int) -> float:
    """A warm-up over the first tenth of the steps, then a cosine to 0: the share of the peak learning rate."""
    warmup = steps // 10
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return half_cosine((step - warmup) / (steps - warmup))


def _logits(backbone: Backbone, model: PatchModel, pixels: Tensor) -> Tensor:
    """Image logits (B,K) float32 of images (B,c,h,w) of any size."""
    with torch.autocast(pixels.device.type, backbone.autocast, enabled=backbone.autocast is not None):
        return model.image_head(model.features(backbone.prepare(fitted(pixels, backbone.shape)))).float()


@torch.no_grad()
def image_accuracy(backbone: Backbone, model: PatchModel, images: AnyImageSet, batch: int) -> float:
    """Percent of a set's images that the model puts into their class."""
    hits = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
    for pixels, labels in images.batches(torch.arange(len(images)).split(batch)):
        hits += (_logits(backbone, model, pixels).argmax(1) == labels).sum()
    return 100 * int(hits) / len(images)
