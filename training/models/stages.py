"""Where a backbone can be cut: into the layers up to the end of a stage, and the rest.

A stage ends where the width or the size of the map changes, and the stem belongs to the first. Of transformers, and of
networks whose map never changes, each block is a stage. Whatever a backbone is made of, a cut is offered only where its
layers, called one after another, are seen to give what the backbone gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evo.errors import UserError

Layer = Callable[[Tensor], Tensor]

AS_EXACT = 1e-3  # of the largest number of the map: how far rounding may take layers called one by one from the whole


@dataclass(frozen=True)
class Cut:
    """A backbone in two: `rest(first(images))` is its last feature map.

    first: images (N,C,H,W) -> map (N,D,h,w). rest: that map -> the last one. share: of the multiplications of the
    backbone's convolutions and linear layers, those of `first`.
    """

    first: Layer
    rest: Layer
    share: float


def cut_backbone(backbone: nn.Module, depth: int, shape: tuple[int, int, int], name: str = "this network") -> Cut:
    """Cut a backbone behind its stage `depth`.

    backbone: images -> last feature map; it is left as it is. depth: from 1, and below the number of stages: behind the
    last one lies the map itself. shape: (C,H,W) of the images. name: of the network, for errors. Raises UserError, with
    the depths that there are, where it cannot be cut so.
    """
    with _looked_at(backbone, shape) as images:
        cuts = _cuts(backbone, images)
        if not 1 <= depth <= len(cuts):
            raise UserError(_lacking(depth, len(cuts), name))
        first, rest = cuts[depth - 1]
        return Cut(first, rest, _share(backbone, first, rest, images[:1]))


def count_stages(backbone: nn.Module, shape: tuple[int, int, int]) -> int:
    """Behind how many stages `cut_backbone` can cut; 0 where it cannot."""
    with _looked_at(backbone, shape) as images:
        return len(_cuts(backbone, images))


@contextmanager
def _looked_at(backbone: nn.Module, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """Two random images on a backbone's device, while it is in evaluation mode; behind, it is as it was."""
    was_training = [(module, module.training) for module in backbone.modules()]
    device = next((parameter.device for parameter in backbone.parameters()), torch.device("cpu"))
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    backbone.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield images
    finally:
        for module, training in was_training:
            module.training = training


def _cuts(backbone: nn.Module, images: Tensor) -> list[tuple[Layer, Layer]]:
    """All cuts in order, each as two callables."""
    expected = backbone(images)
    tokens = _as_tokens(backbone, expected)
    if tokens is not None:
        found = [(tokens.first(number), tokens.rest(number)) for number in range(1, len(tokens.blocks))]
    else:
        layers = _as_layers(backbone, images, expected)
        ends = _stage_ends(layers, images)
        found = [(nn.Sequential(*layers[:end]), nn.Sequential(*layers[end:])) for end in ends]
    try:
        return found if found and _is_same(found[0][1](found[0][0](images)), expected) else []
    except Exception:  # tokens that are handed on otherwise: each network fails in its own way
        return []


def _lacking(depth: int, last: int, name: str) -> str:
    has = {0: "has no stages to compose behind", 1: "can be composed behind stage 1"}.get(
        last, f"can be composed behind stages 1 to {last}"
    )
    instead = "take search.compose_at=pixels (exact) or features (the last map)"
    return f"search.compose_at={depth}: {name} {has}; {instead if last == 0 else f'take one of them, or {instead[5:]}'}"


def _share(backbone: nn.Module, first: Layer, rest: Layer, image: Tensor) -> float:
    """Of the multiplications of a backbone's convolutions and linear layers, the share that `first` does."""
    counts = [0, 0]
    part = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        weight: Any = module.weight
        counts[part] += output.numel() * weight[0].numel()

    layers = [module for module in backbone.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        image = first(image)
        part = 1
        rest(image)
    finally:
        for handle in handles:
            handle.remove()
    return counts[0] / max(1, sum(counts))


def _is_same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(
        (found - expected).abs().amax() <= AS_EXACT * expected.abs().amax().clamp(min=1e-6)
    )


# --- convolutions: layers one after another


def _as_layers(backbone: nn.Module, images: Tensor, expected: Tensor) -> list[nn.Module]:
    """The layers that, called one after another, give the backbone's map; empty where none do."""
    layers: list[nn.Module] = []
    found = images
    for layer in _flat(_in_order(backbone)):
        if type(layer).__name__ == "Permute":  # behind it lie maps (N,h,w,D)
            return []
        try:
            found = layer(found)
        except Exception:  # each network that is no sequence fails in its own way
            return []
        layers.append(layer)
        if not isinstance(found, Tensor) or found.ndim != 4:
            return []
        if _is_same(found, expected) and not isinstance(backbone, nn.Sequential):
            return layers
    return layers if _is_same(found, expected) else []


def _in_order(backbone: nn.Module) -> Iterator[nn.Module]:
    """Children of a network that calls them in their order, the stages in a list one by one."""
    network = getattr(backbone, "network", backbone)  # timm's, in our TimmBackbone
    if isinstance(network, nn.Sequential):
        yield network
        return
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child


def _flat(layers: Iterator[nn.Module]) -> Iterator[nn.Module]:
    """Layers, with those inside a Sequential one by one."""
    for layer in layers:
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            yield from _flat(layer.children())
        else:
            yield layer


def _stage_ends(layers: Sequence[nn.Module], images: Tensor) -> list[int]:
    """Behind how many layers each stage but the last ends."""
    shapes = [images.shape[1:]]
    for layer in layers:
        images = layer(images)
        shapes.append(images.shape[1:])
    blocks = [number for number, layer in enumerate(layers) if _is_block(layer)]
    weighted = [number for number, layer in enumerate(layers) if _has_weights(layer)]
    if not weighted:
        return []
    stem = blocks[0] if blocks else weighted[0]
    ends: list[int] = []
    for number in range(stem + 1, len(layers)):
        if shapes[number + 1] == shapes[number]:
            continue
        if ends and not any(ends[-1] <= layer < number for layer in weighted):
            ends.pop()  # a pool, then a wider layer: one stage ends
        ends.append(number)
    return ends or blocks[1:]


def _has_weights(layer: nn.Module) -> bool:
    """Whether it multiplies by a matrix or a kernel, as norms do not."""
    return any(parameter.ndim > 1 for parameter in layer.parameters())


def _is_block(layer: nn.Module) -> bool:
    return _has_weights(layer) and any(True for _ in layer.children())


# --- transformers: tokens


@dataclass(frozen=True)
class _Tokens:
    """A vision transformer in parts. embed: images -> tokens (N,prefix+h*w,D). A map that is handed on has the tokens
    that belong to no place, such as the class token, in further channels that are alike in all places: of a composed
    map they are the mean over places, and so each image's in its share.
    """

    embed: Callable[[Tensor], Tensor]
    blocks: list[Any]
    finish: Callable[[Tensor], Tensor]
    prefix: int
    sides: tuple[int, int]

    def first(self, depth: int) -> Layer:
        def forward(images: Tensor) -> Tensor:
            tokens = self.embed(images)
            for block in self.blocks[:depth]:
                tokens = block(tokens)
            places = tokens[:, self.prefix :].transpose(1, 2).unflatten(2, self.sides)  # (N,D,h,w)
            if self.prefix:
                others = tokens[:, : self.prefix].flatten(1)[:, :, None, None].expand(-1, -1, *self.sides)
                places = torch.cat([places, others], 1)  # (N,D+prefix*D,h,w)
            return places.contiguous()

        return forward

    def rest(self, depth: int) -> Layer:
        def forward(maps: Tensor) -> Tensor:
            width = maps.shape[1] // (1 + self.prefix)
            tokens = maps[:, :width].flatten(2).transpose(1, 2)  # (N,h*w,D)
            if self.prefix:
                others = maps[:, width:].mean((2, 3)).unflatten(1, (self.prefix, width))
                tokens = torch.cat([others, tokens], 1)
            for block in self.blocks[depth:]:
                tokens = block(tokens)
            last = self.finish(tokens)[:, self.prefix :]
            return last.transpose(1, 2).unflatten(2, self.sides)

        return forward


def _as_tokens(backbone: nn.Module, last_map: Tensor) -> _Tokens | None:
    """A transformer of timm's or torchvision's in parts; None of another network."""
    network: Any = getattr(backbone, "network", None)
    if all(hasattr(network, name) for name in ("patch_embed", "_pos_embed", "blocks", "norm_pre", "num_prefix_tokens")):

        def embed(inputs: Tensor) -> Tensor:
            tokens: Tensor = network.norm_pre(network._pos_embed(network.patch_embed(inputs)))
            return tokens

        stage: Any = backbone.stage
        finish = network.norm if backbone.norm else nn.Identity()
        blocks, prefix = list(network.blocks)[: stage + 1], int(network.num_prefix_tokens)
    elif hasattr(getattr(backbone, "transformer", None), "encoder"):
        transformer: Any = backbone.transformer

        def embed(inputs: Tensor) -> Tensor:
            tokens = transformer._process_input(inputs)
            first = transformer.class_token.expand(len(tokens), -1, -1)
            encoder = transformer.encoder
            whole: Tensor = encoder.dropout(torch.cat([first, tokens], 1) + encoder.pos_embedding)
            return whole

        finish, blocks, prefix = transformer.encoder.ln, list(transformer.encoder.layers), 1
    else:
        return None
    rows, columns = last_map.shape[2:]
    return _Tokens(embed, blocks, finish, prefix, (rows, columns))
