"""What moves the weights: torch's optimizers behind one face, and the learning rate's way through a run."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evo.errors import UserError
from training.models.patch_model import PatchModel
from training.options import TrainOptions

# As torch's OneCycleLR:
ONE_CYCLE_RISE = 0.3  # share of steps going up
ONE_CYCLE_START = 1 / 25  # first learning rate over the peak's


class Optimizer:
    """SGD, AdamW, or Muon with an AdamW beside it, over a model's trainable parameters.

    Muon (Jordan et al. 2024; torch 2.9 and later) takes the weights of the backbone's linear layers and
    convolutions, a filter (O,I,h,w) as a matrix of O rows; the heads, embeddings and all that has one dimension
    go to AdamW. Raises UserError where this torch has no Muon.
    """

    def __init__(self, model: PatchModel, options: TrainOptions) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.clip = options.clip
        self._filters: list[tuple[nn.Parameter, nn.Parameter]] = []  # (its own, as a matrix over the same memory)
        if options.optimizer == "muon":
            if not hasattr(torch.optim, "Muon"):
                raise UserError(
                    f"train.optimizer=muon needs torch 2.9 or later, this is {torch.__version__}; use sgd or adamw"
                )
            layers = _layer_weights(model.backbone)
            inner = [parameter for parameter in self.parameters if id(parameter) in layers]
            self._filters = [(parameter, nn.Parameter(_as_matrix(parameter.detach()))) for parameter in inner]
            chosen = {id(parameter) for parameter in inner}
            rest = [parameter for parameter in self.parameters if id(parameter) not in chosen]
            muon = torch.optim.Muon(
                [matrix for _, matrix in self._filters],
                lr=options.lr,
                momentum=options.momentum,
                weight_decay=options.weight_decay,
            )
            self.parts = [(muon, options.lr), (_adamw(rest, options, options.adam_lr), options.adam_lr)]
        elif options.optimizer == "adamw":
            self.parts = [(_adamw(self.parameters, options, options.lr), options.lr)]
        else:
            sgd = torch.optim.SGD(
                _decayed(self.parameters, options),
                lr=options.lr,
                momentum=options.momentum,
                nesterov=options.momentum > 0,
                fused=_on_cuda(self.parameters),
            )
            self.parts = [(sgd, options.lr)]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, factor: float) -> None:
        """One step at `factor` times each part's peak learning rate, the gradient clipped before."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for parameter, matrix in self._filters:
            matrix.grad = None if parameter.grad is None else _as_matrix(parameter.grad)
        for optimizer, peak in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()

    def learning_rates(self, factor: float) -> dict[str, float]:
        """At `factor` times the peaks: learning_rate, and of muon adam_learning_rate, that of the AdamW beside it."""
        names = ("learning_rate", "adam_learning_rate")
        return {name: peak * factor for name, (_, peak) in zip(names, self.parts, strict=False)}

    def state(self) -> dict[str, Tensor]:
        """Its tensors, for a checkpoint: PART.PARAMETER.NAME."""
        return {
            f"{part}.{number}.{name}": tensor
            for part, (optimizer, _) in enumerate(self.parts)
            for number, tensors in optimizer.state_dict()["state"].items()
            for name, tensor in tensors.items()
            if tensor is not None
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of `state`."""
        for part, (optimizer, _) in enumerate(self.parts):
            whole = optimizer.state_dict()
            whole["state"] = {}
            members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for key, tensor in tensors.items():
                owner, number, name = key.split(".", 2)
                if int(owner) == part:
                    whole["state"].setdefault(int(number), {})[name] = _laid_out(tensor, members[int(number)])
            optimizer.load_state_dict(whole)


def learning_rate_factor(step: int, total_steps: int, steps_per_epoch: int, options: TrainOptions) -> float:
    """The learning rate of a step, 0 <= step < total_steps, over its peak: linear warm-up, then the schedule."""
    if options.schedule == "onecycle":
        rise = max(1, round(ONE_CYCLE_RISE * total_steps))
        if step < rise:
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * half_cosine(1 - step / rise)
        return half_cosine((step - rise) / (total_steps - rise))
    warmup = min(options.warmup * steps_per_epoch, total_steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if options.schedule == "cosine":
        return half_cosine((step - warmup) / (total_steps - warmup))
    if options.schedule == "step":
        return options.step_factor ** bisect.bisect_right(sorted(options.step_at), step / total_steps)
    return 1.0


def half_cosine(share: float) -> float:
    """From 1 at share 0 down to 0 at share 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def _adamw(parameters: list[nn.Parameter], options: TrainOptions, lr: float) -> torch.optim.Optimizer:
    betas = (options.beta1, options.beta2)
    return torch.optim.AdamW(_decayed(parameters, options), lr=lr, betas=betas, fused=_on_cuda(parameters))


def _decayed(parameters: list[nn.Parameter], options: TrainOptions) -> list[dict[str, object]]:
    """Groups with and without weight decay: biases and normalisation have one dimension."""
    plain = [] if options.norm_decay else [parameter for parameter in parameters if parameter.ndim < 2]
    left = {id(parameter) for parameter in plain}
    decayed = [parameter for parameter in parameters if id(parameter) not in left]
    groups = ((decayed, options.weight_decay), (plain, 0.0))
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def _on_cuda(parameters: list[nn.Parameter]) -> bool:
    return all(parameter.is_cuda for parameter in parameters)


def _layer_weights(module: nn.Module) -> set[int]:
    """The ids of the weights of linear layers and convolutions."""
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    return {id(layer.weight) for layer in module.modules() if isinstance(layer, layers)}


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape in its memory layout, which a checkpoint does not keep and fused steps need."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _as_matrix(tensor: Tensor) -> Tensor:
    """(O,...) as (O,N) over the same memory where its layout allows: contiguous or channels last."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)
