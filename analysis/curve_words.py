"""What the curves of searches are called: axes, titles and captions, and which settings they are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.curve_lines import Panel
from analysis.curve_tables import Setting
from analysis.style import Look, look, soft

MEANINGS = {
    "hard": "mean cell loss, nats",
    "easy": "negative mean cell loss, nats",
    "learnable": "negative distance of cell\nlosses to a learnable band, nats",
    "balanced": "negative difference of the two\nimages' cell losses, nats",
    "contrast": "standard deviation of\na row's cell losses, nats",
    "reducible": "mean cell loss less\nthe reference's, nats",
    "image_hard": "image loss less its\ntarget's entropy, nats",
    "image_easy": "target's entropy less\nthe image loss, nats",
    "image_reducible": "image loss less\nthe reference's, nats",
    "diversity": "difference from the\nother genomes, 0 to 1",
}
PER_IMAGE = "image forwards per image of the search batch"
WOULD_TAKE = "image forwards that the rows scored would take,\nper image of the search batch"  # of estimated scores
EITHER = f"{PER_IMAGE}\n(of estimated scores: those that the rows scored would take)"
STATISTICS = {"best": "fittest genome", "median": "median", "mean": "mean of the population", "min": "least fit genome"}


class Topic(NamedTuple):
    """Panels that belong together, and what a reader has to know of them."""

    title: str
    caption: str
    panels: list[Panel]


def fitness(objective: str, *, estimated: bool = False) -> str:
    """The fitness axis's label."""
    return f"{'estimated ' * estimated}fitness '{objective}'\n({MEANINGS.get(objective, 'mean row score')})"


def fitness_of(objective: str, settings: Sequence[Setting]) -> str:
    """The same for what is shown of settings: of estimates alone it says so."""
    return fitness(objective, estimated=all(map(is_estimated, settings)))


def is_estimated(setting: Setting) -> bool:
    """Whether scores of a setting are estimates."""
    return any(history.estimated for history in setting.histories)


def forwards_label(settings: Sequence[Setting]) -> str:
    """The label of what `by_forwards` has along x."""
    if all(map(is_estimated, settings)):
        return WOULD_TAKE
    return EITHER if any(map(is_estimated, settings)) else PER_IMAGE


def by_what(settings: Sequence[Setting]) -> str:
    """The same in a title."""
    return "rows scored" if any(map(is_estimated, settings)) else "image forwards"


def bands(settings: Sequence[Setting]) -> str:
    """What the bands are."""
    counts = [len(setting.histories) for setting in settings]
    if max(counts) == 1:
        return "One seed each: no intervals." if len(settings) > 1 else ""
    text = "Bands: 95 % intervals of the mean over seeds (Student's t), cut off where they would hide the lines."
    return text + (" Of two seeds they are very wide." if 2 in counts else "")


def beside(setting: Setting) -> list[Look]:
    """Looks of what is shown of one setting alone: the first is its own, the others are of no run."""
    own = look(setting.number)
    others = [one for one in map(look, range(len(STATISTICS))) if (one.line, one.marker) != (own.line, own.marker)]
    return [own, *(one._replace(colour=soft()) for one in others[-(len(STATISTICS) - 1) :])]


def of_many_searches(having: Sequence[Setting]) -> tuple[list[Setting], str, str]:
    """Those with several searches each; what their time goes by, as a column and as a label."""
    several = [setting for setting in having if all(history.searches > 1 for history in setting.histories)]
    epochs = [len(np.unique(history.columns["epoch"])) for setting in several for history in setting.histories]
    return (several, "epoch", "epoch") if min(epochs, default=0) > 3 else (several, "step", "training step")
