"""Which operator makes which child, and how the shares of operators follow what they earn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from deap import base

from evo.array_checks import take_array
from evo.arrays import Array
from evo.errors import UserError, did_you_mean
from evo.genome import Population
from evo.packed import Masks

SLOTS = ("mate", "mutate_masks", "mutate_pairings")  # every child passes one operator of each, in this order


@dataclass
class Slot:
    """Operators that compete for the same place.

    Attributes:
        name: One of SLOTS.
        names: K operators.
        rates: (K,) the share of children that each one makes, sum 1.
        credit: (K,) the running mean of what its children earned, 0 to 1.
    """

    name: str
    names: list[str]
    rates: Array
    credit: Array = field(init=False)

    def __post_init__(self) -> None:
        self.credit = np.full(len(self.names), 0.5)

    def tool(self, operator: str) -> str:
        """Name an operator in the toolbox.

        Args:
            operator: One of `names`.

        Returns:
            The slot's name where the operator is alone, else both names.
        """
        return self.name if len(self.names) == 1 else f"{self.name}_{operator}"


class Variation:
    """Makes children with a toolbox's operators.

    With `adaptive` rates follow credit by probability matching (Goldberg, Machine Learning 5, 1990; Thierens, GECCO
    2005): an operator's rate is FLOOR / K plus its part of all credit.

    Args:
        toolbox: DEAP's, where the operators are registered.
        slots: One for each of SLOTS.
        adaptive: Whether rates follow credit.

    Attributes:
        names: All operators, slot by slot.
    """

    FLOOR = 0.2  # of all children go to operators whatever they earn, so that none dies out
    MEMORY = 0.8  # of the credit stays each generation

    def __init__(self, toolbox: base.Toolbox, slots: list[Slot], adaptive: bool) -> None:
        self.toolbox = toolbox
        self.slots = slots
        self.adaptive = adaptive
        self.names = [name for slot in slots for name in slot.names]
        self.offsets = np.cumsum([0, *(len(slot.names) for slot in slots[:-1])])

    def make_children(
        self, first: Population, second: Population, rng: np.random.Generator
    ) -> tuple[Masks, Array, Array]:
        """Make a child of each pair of parents.

        Args:
            first: N parents, with their row scores.
            second: The N others.
            rng: The generator.

        Returns:
            Masks (N,B), pairings (N,B) and who made them, (N,3) int32 indices into `names`.
        """
        made_by = np.stack([self._draw(slot, len(first), rng) for slot in self.slots], axis=1)
        masks, pairings = self._mate(first, second, made_by[:, 0], rng)
        for operator, tool, chosen in self._split(1, made_by):
            masks = _place(masks, chosen, as_masks(operator(masks if chosen is None else masks[chosen], rng), tool))
        for operator, _, chosen in self._split(2, made_by):
            varied = operator(pairings if chosen is None else pairings[chosen], rng)
            if chosen is None:
                pairings = varied
            else:
                pairings = pairings.copy()
                pairings[chosen] = varied
        return masks, pairings, (made_by + self.offsets).astype(np.int32)

    def reward(self, made_by: Array, gain: Array) -> None:
        """Credit operators with what their children earned.

        Args:
            made_by: (N,3) int, as `make_children` returned it.
            gain: (N,) float, 0 or more, what each child earned.
        """
        largest = gain.max(initial=0.0)
        if not self.adaptive or largest <= 0:
            return
        for place, slot in enumerate(self.slots):
            used = made_by[:, place] - self.offsets[place]
            for k in np.unique(used):
                earned = gain[used == k].mean() / largest
                slot.credit[k] = self.MEMORY * slot.credit[k] + (1 - self.MEMORY) * earned
            count = len(slot.names)
            slot.rates = self.FLOOR / count + (1 - self.FLOOR) * slot.credit / slot.credit.sum()

    def rates(self) -> dict[str, float]:
        """Tell each operator's present share of the children, for the log.

        Returns:
            Shares by operator; those of a slot add up to 1.
        """
        return {
            name: round(float(rate), 4)
            for slot in self.slots
            for name, rate in zip(slot.names, slot.rates, strict=True)
        }

    def arrays(self) -> dict[str, Array]:
        """Return what a checkpoint keeps.

        Returns:
            Each slot's rates and credit, by name.
        """
        return {f"{slot.name}.{part}": getattr(slot, part) for slot in self.slots for part in ("rates", "credit")}

    def read_rates(self, arrays: dict[str, Array]) -> list[tuple[Array, Array]]:
        """Read each slot's rates and credit, and change nothing.

        Args:
            arrays: What `arrays` returned.

        Returns:
            Rates (K,) and credit (K,) of each slot, copies.

        Raises:
            UserError: They do not fit.
        """
        found = []
        for slot in self.slots:
            count = len(slot.names)
            rates = take_array(arrays, f"{slot.name}.rates", np.float64, (count,))
            credit = take_array(arrays, f"{slot.name}.credit", np.float64, (count,))
            if not (np.isfinite([*rates, *credit]).all() and rates.min() > 0 and credit.min() >= 0):
                raise UserError(f"the shares of {slot.name} must be above 0, got {rates.tolist()} by {credit.tolist()}")
            found.append((rates, credit))
        return found

    def set_rates(self, rates: list[tuple[Array, Array]]) -> None:
        """Take over what `read_rates` gave.

        Args:
            rates: Rates (K,) and credit (K,) of each slot.
        """
        for slot, (share, credit) in zip(self.slots, rates, strict=True):
            slot.rates = share
            slot.credit = credit

    def _mate(
        self, first: Population, second: Population, which: Array, rng: np.random.Generator
    ) -> tuple[Masks, Array]:
        masks, pairings = first.packed, first.pairings
        for operator, tool, chosen in self._split(0, which[:, None]):
            pair = (first, second) if chosen is None else (first.take(chosen), second.take(chosen))
            crossed, paired = operator(*pair, rng)
            if chosen is None:
                masks = as_masks(crossed, tool)
                pairings = paired
            else:
                masks = _place(masks, chosen, as_masks(crossed, tool))
                pairings = pairings.copy()
                pairings[chosen] = paired
        return masks, pairings

    def _split(self, place: int, made_by: Array) -> list[tuple[Any, str, Array | None]]:
        """A slot's operators with the children each makes; None stands for all of them."""
        slot = self.slots[place]
        tools = [slot.tool(name) for name in slot.names]
        if len(tools) == 1:
            return [(getattr(self.toolbox, tools[0]), tools[0], None)]
        parts = ((tool, np.flatnonzero(made_by[:, place] == k)) for k, tool in enumerate(tools))
        return [(getattr(self.toolbox, tool), tool, chosen) for tool, chosen in parts if len(chosen)]

    def _draw(self, slot: Slot, count: int, rng: np.random.Generator) -> Array:
        if len(slot.names) == 1:
            return np.zeros(count, np.int64)
        # Systematic: shares are met to within one child, which few children would miss by chance.
        edges = np.cumsum(slot.rates) / slot.rates.sum()
        drawn = np.searchsorted(edges, (np.arange(count) + rng.random()) / count, side="right")
        return np.asarray(rng.permutation(np.minimum(drawn, len(edges) - 1)))


def as_masks(made: Masks | Array, tool: str) -> Masks:
    """Read what an operator returned; bool arrays are welcome as well.

    Args:
        made: Masks (N,B), or cells (N,B,G,G) bool.
        tool: The operator's name, for the error.

    Returns:
        Masks (N,B).

    Raises:
        UserError: It is something else.
    """
    if isinstance(made, Masks):
        return made
    if isinstance(made, np.ndarray) and made.dtype == np.bool_:
        return Masks.pack(made)
    raise UserError(f"{tool} must return Masks, or bool cells (N,B,G,G), got {type(made).__name__}")


def parse_shares(text: str, registry: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Read the operators of a slot, and their shares.

    Args:
        text: `name`, `a+b` (equal shares) or `0.9*a+0.1*b`.
        registry: The operators there are.
        kind: What they are, for the error.

    Returns:
        Shares by name, sum 1.

    Raises:
        UserError: A name is unknown or stands twice, or a share is 0.

    Example:
        >>> parse_shares("3*rows+uniform", {"rows": ..., "uniform": ...}, "crossover")
        {'rows': 0.75, 'uniform': 0.25}
    """
    shares: dict[str, float] = {}
    for part in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\*)?([a-z_/]+)", part)
        name = match[2] if match else part
        share = float(match[1] or 1) if match else 0.0
        if name in registry and share <= 0:
            raise UserError(f"{kind} {name!r} needs a share above 0, got {text!r}; leave it out instead")
        if name not in registry:
            hint = did_you_mean(name, registry)
            raise UserError(
                f"unknown {kind} {name!r:.60}{hint}; there are {', '.join(registry)}, or shares such as 0.9*a+0.1*b"
            )
        if name in shares:
            raise UserError(f"{kind} {name!r} stands twice in {text!r}")
        shares[name] = share
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _place(masks: Masks, chosen: Array | None, part: Masks) -> Masks:
    if chosen is None:
        return part
    result = masks.copy()
    result[chosen] = part
    return result
