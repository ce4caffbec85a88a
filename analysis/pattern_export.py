"""The patterns a run found: exported as JSON and npz, and the figures of their atlas."""

from __future__ import annotations

import json
from math import cos, isnan, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.atlas import Atlas, Movement, atlas_of, rows_of_searches
from analysis.curve_lines import markers_at
from analysis.files import replace_text
from analysis.orbits import chance
from analysis.rounding import significant
from analysis.run_folder import RunFolder
from analysis.statistics import LEVEL
from analysis.style import OWN, PARTNER, Look, colour, ink, look, new_figure, save, soft, tidy
from analysis.words import plain
from evo.bank import PatternBank
from evo.bank_files import load_bank, save_bank

EXPORTED = 1000
SHOWN = 24
NAMED_CLASSES = 24  # more class names than these do not fit beside the matrix
MOST_EDGES = 20  # of the graph of class pairs
CIRCLE = 40  # classes on it
STATEMENTS_SCHEMA = 1


def export_patterns(run: RunFolder, atlas: Atlas | None = None) -> list[Path]:
    """Write what a run found; the paths: patterns/patterns.json and .npz (the heaviest EXPORTED masks),
    patterns/atlas.csv (orbits), patterns/statements.json, figures/atlas-*.png and .svg, figures/patterns.svg and, as
    the last, figures/patterns.png. In the theme in force; atlas: the run's, where it is known.
    """
    atlas = atlas_of(run) if atlas is None else atlas
    written = [*export_bank(run, atlas.bank), write_orbits(run, atlas), write_statements(run, atlas)]
    for title, figure, _ in figures_of(atlas):
        stem = "atlas-" + title.lower().replace(" ", "-")
        written += _saved(figure, run.figures() / stem)
    return [*written, *_saved(bank_figure(atlas.bank, atlas.sampler), run.figures() / "patterns")]


def export_bank(run: RunFolder, bank: PatternBank) -> list[Path]:
    """Write patterns/patterns.json and .npz: the EXPORTED heaviest masks of the run's bank."""
    written = [run.path / "patterns" / f"patterns.{ending}" for ending in ("json", "npz")]
    for path in written:
        save_bank(bank.top(EXPORTED), path)
    return written


def write_orbits(run: RunFolder, atlas: Atlas) -> Path:
    """Write patterns/atlas.csv: one row for masks that are alike under the grid's symmetries. No pandas."""
    path = run.path / "patterns" / "atlas.csv"
    rows = ["form,masks,frequency,lift,share,own_pieces,partner_pieces,boundary"]
    for mask, *values in zip(*atlas.orbits[:-1], strict=True):
        form = "/".join("".join("#" if cell else "." for cell in line) for line in mask)
        rows.append(",".join([form, *("" if isnan(value) else f"{value:.6g}" for value in values)]))
    replace_text(path, "\n".join(rows) + "\n")
    return path


def write_statements(run: RunFolder, atlas: Atlas) -> Path:
    """Write patterns/statements.json: what evolution prefers, with the tests; null where there is no number."""
    path = run.path / "patterns" / "statements.json"
    found = [
        {key: None if isinstance(value, float) and isnan(value) else value for key, value in s._asdict().items()}
        for s in atlas.statements
    ]
    content = {
        "schema": STATEMENTS_SCHEMA,
        "run": atlas.run,
        "rows": atlas.tested,
        "notes": atlas.notes,
        "statements": found,
    }
    replace_text(path, json.dumps(content, indent=1) + "\n")
    return path


def bank_of_classes(run: RunFolder, names: list[str]) -> PatternBank:
    """What was found for rows of some classes: masks and pairs of the fittest genomes of the searches kept whole (the
    run's own bank does not keep masks by class). Raises BankError for a class the run does not know.
    """
    whole = load_bank(run.bank_file())
    chosen = [whole.class_number(name) for name in names]
    bank = PatternBank(whole.grid, whole.num_classes, whole.class_names)
    rows = rows_of_searches(run.snapshots(), whole.grid)
    kept = np.isin(rows.own, chosen)
    bank.collect(rows.masks[kept], rows.own[kept], rows.partner[kept])
    return bank


def draw_patterns(run: RunFolder, bank: PatternBank) -> Path:
    """Write figures/patterns.png: heaviest masks, cells kept, shares, class pairs."""
    return save(bank_figure(bank, run.config["mix"]["sampler"]), run.figures() / "patterns.png")


def bank_figure(bank: PatternBank, sampler: str) -> Figure:
    """A bank at a glance; sampler: what its lifts are over."""
    figure = new_figure(11, 8.2)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(1.15, 1))).tolist()
    total = bank.weights.sum()
    upper.suptitle(
        f"The {min(SHOWN, len(bank))} heaviest of {len(bank):,} masks in {total:,.0f} rows of elites   "
        "(blue: the row's own image, pale: its partner)",
        fontsize=11,
    )
    shares = bank.weights[:SHOWN] / total
    by_chance = np.array([chance(mask, sampler) or np.nan for mask in bank.masks[:SHOWN]])
    _masks(upper, bank.masks[:SHOWN], [_lift_text(*pair) for pair in zip(shares, shares / by_chance, strict=True)])
    panels = lower.subplots(1, 3, width_ratios=(0.9, 1.0, 1.3))
    kept = np.tensordot(bank.weights, bank.masks, 1) / total
    _colour_bar(_cells(panels[0], kept, "Own image kept, % of rows", _apart(kept)), [panels[0]])
    _shares(panels[1], bank, sampler)
    _pairs(panels[2], bank)
    return figure


def figures_of(atlas: Atlas, number: int = 0) -> list[tuple[str, Figure, str]]:
    """(title, figure, caption) of each figure, in the theme in force (analysis.style). number: the run's, see style.look."""
    found = [_orbits_figure(atlas), _cells_figure(atlas), _pairs_figure(atlas)]
    return [*found, _movements_figure(atlas, number)] if atlas.movements else found


def _orbits_figure(atlas: Atlas) -> tuple[str, Figure, str]:
    orbits = atlas.orbits
    figure = new_figure(11, 5.4)
    texts = [
        f"{_lift_text(frequency, lift)}\n{size} mask{'' if size == 1 else 's'}, {own + partner} pieces"
        for frequency, lift, size, own, partner in zip(
            orbits.frequency, orbits.lift, orbits.sizes, orbits.own_pieces, orbits.partner_pieces, strict=True
        )
    ]
    _masks(figure, orbits.masks[:SHOWN], texts[:SHOWN])
    return (
        "Patterns up to symmetry",
        figure,
        f"The {min(SHOWN, len(orbits.masks))} commonest of {orbits.number:,} patterns. Masks that turn into one another by "
        "rotating, mirroring or exchanging the two images are one pattern. The numbers: share of the rows trained on and, "
        "after the cross, how many times as often as by random drawing; how many masks the pattern stands for; in how "
        "many connected pieces it cuts the two images. Lifts of rare patterns look larger than they are, since the commonest "
        "are shown. Blue cells keep one image, pale ones the other.",
    )


def _cells_figure(atlas: Atlas) -> tuple[str, Figure, str]:
    figure = new_figure(11, 3.7)
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    maps = [atlas.kept] if atlas.mattered is None else [atlas.kept, atlas.mattered]
    apart = _apart(*maps)
    image = _cells(panels[0], atlas.kept, "Own image kept, % of rows", apart)
    caption = "Left: how often each cell keeps the row's own image, over all rows trained on. "
    if atlas.mattered is None:
        panels[1].set_axis_off()
        panels[1].text(0.5, 0.5, "no cell losses were kept", ha="center", va="center", color=soft())
    else:
        _cells(panels[1], atlas.mattered, "Cell loss from the own image, %", apart)
        caption += (
            f"Middle: where it mattered. Of the cell losses at each place, the share at cells that kept the own image, in the "
            f"{atlas.pictured:,} pictured rows (of the fittest and the least fit; no other rows' cell losses are kept). "
            "Both maps have the scale beside them, with half and half in its middle. "
        )
    _colour_bar(image, list(panels[: len(maps)]))
    _shares(panels[2], atlas.bank, atlas.sampler)
    return "Cells kept", figure, caption + "Right: how many cells the rows keep."


def _pairs_figure(atlas: Atlas) -> tuple[str, Figure, str]:
    figure = new_figure(11, 4.8)
    panels = figure.subplots(1, 2, width_ratios=(1, 1))
    _pairs(panels[0], atlas.bank)
    shown = _graph(panels[1], atlas.bank, atlas.pair_p)
    return (
        "Class pairs",
        figure,
        "How often rows of one class had a partner of another, over chance (1 = as often as the classes' frequencies say). "
        f"Right: the {len(shown)} pairs of different classes with the largest lift, both directions taken together; the "
        f"thicker the line, the larger the lift. The strongest: {', '.join(shown[:3]) or 'none'}. {chance_of_pairs(atlas)}",
    )


def chance_of_pairs(atlas: Atlas) -> str:
    """How many pairs of classes can be told from chance, by which test."""
    if atlas.pair_p is None:
        return "Whether that is chance was not tested (see the statements), so the lines are dashed."
    p = atlas.pair_p[np.triu_indices(len(atlas.pair_p), 1)]
    if not len(p):
        return ""
    beyond = int((p < LEVEL).sum())
    told = (
        f"{beyond} of the {len(p):,} pairs {'is' if beyond == 1 else 'are'} beyond chance (solid lines; the others, dashed, "
        "are within it)"
        if beyond
        else f"That is within chance: none of the {len(p):,} pairs is beyond it (smallest p {significant(float(p.min()))}; "
        "dashed lines)"
    )
    return (
        f"{told}, by a permutation test of the {atlas.tested:,} rows of the fittest genomes kept whole: partners are dealt "
        f"anew within each search, and a pair counts whose excess fewer than {100 * LEVEL:.0f} % of the permutations reach in "
        "any pair, which accounts for their number."
    )


def _movements_figure(atlas: Atlas, number: int) -> tuple[str, Figure, str]:
    moves = atlas.movements
    columns = 3
    lines = -(-len(moves) // columns)
    figure = new_figure(11, 2.9 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, movement in zip(panels, moves, strict=False):
        _movement(axes, movement, atlas, look(number))
    for axes in panels[len(moves) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    spare = panels[-1] if len(panels) > len(moves) else panels[0]
    spare.legend(handles, labels, frameon=False, fontsize=10, loc="center" if spare is not panels[0] else "best")
    return (
        "Over training",
        figure,
        "One point for each search kept whole: the fittest genome of its last generation. Dashed: what chance gives. For "
        "pieces and boundary that is random masks "
        + ("of the same shares." if atlas.sampler == "bernoulli" else "of the same sampler."),
    )


def _movement(axes: Axes, movement: Movement, atlas: Atlas, own: Look) -> None:
    axes.plot(
        atlas.epochs, movement.values, color=own.colour, linestyle=own.line, marker=own.marker, markersize=4,
        markevery=markers_at(len(atlas.epochs), 0), label="fittest genomes",
    )  # fmt: skip
    axes.plot(atlas.epochs, movement.expected, linestyle="--", color=soft(), label="by chance")
    axes.margins(y=0.2)
    tidy(axes, title=movement.title, xlabel=atlas.by, ylabel=movement.unit)


def _masks(figure: Figure | SubFigure, masks: NDArray[Any], texts: list[str]) -> None:
    """Masks in three rows, on one pair of axes: laying out one for each takes seconds."""
    axes = figure.subplots()
    columns = SHOWN // 3
    colours = ListedColormap([PARTNER, OWN])
    for index, (mask, text) in enumerate(zip(masks, texts, strict=True)):
        left = 1.2 * (index % columns)
        top = 1.45 * (index // columns)
        edges = np.linspace(0, 1, len(mask) + 1)
        line = 1 if len(mask) <= 16 else 0
        axes.pcolormesh(
            left + edges, top + edges, mask, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=line
        )
        # Pale cells would end unseen on a white page.
        axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor=soft(), linewidth=0.7))
        axes.text(left + 0.5, top - 0.05, text, fontsize=8, color=soft(), ha="center", va="bottom")
    axes.set(xlim=(-0.15, 1.2 * columns - 0.05), ylim=(4, -0.4), aspect="equal")
    axes.set_axis_off()


def _lift_text(share: float, lift: float) -> str:
    return f"{100 * share:.2g} %" + ("" if isnan(lift) else f"  ×{lift:,.{int(lift < 10)}f}")


def _apart(*maps: NDArray[Any]) -> float:
    """How far from one half the scale of these maps reaches: a tenth at least, so that chance is pale."""
    return max(0.1, *(float(abs(values - 0.5).max()) for values in maps))


def _colour_bar(image: AxesImage, panels: list[Axes]) -> None:
    bar = panels[0].figure.colorbar(image, ax=panels, fraction=0.046, ticks=np.linspace(*image.get_clim(), 5))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _cells(axes: Axes, values: NDArray[Any], title: str, apart: float) -> AxesImage:
    """A map of shares, the scale as far as `apart` to either side of one half."""
    image = axes.imshow(values, cmap="PuOr", vmin=0.5 - apart, vmax=0.5 + apart)
    for (row, column), value in np.ndenumerate(values):
        if len(values) <= 8:
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if abs(value - 0.5) > 0.6 * apart else "black")  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    return image


def _shares(axes: Axes, bank: PatternBank, sampler: str) -> None:
    cells = bank.grid**2
    counts = np.bincount(bank.masks.reshape(len(bank), -1).sum(1), bank.weights, cells + 1)
    axes.bar(np.arange(cells + 1), 100 * counts / counts.sum(), color=OWN, width=0.8, label="elites")
    if sampler == "bernoulli":
        axes.axhline(100 / (cells + 1), color=colour(1), linestyle="--", label="random drawing", zorder=3)
        axes.legend(frameon=False, fontsize=8)
    axes.margins(y=0.25)  # room for the legend
    tidy(axes, title="Cells kept per row", xlabel=f"cells of {cells}", ylabel="% of rows")
    axes.title.set_fontsize(10)


def _pairs(axes: Axes, bank: PatternBank) -> None:
    lift = bank.affinity()
    norm = TwoSlopeNorm(1.0, vmin=min(0.5, float(lift.min())), vmax=max(1.5, float(lift.max())))
    image = axes.imshow(lift, cmap="PuOr", norm=norm)
    if bank.num_classes <= NAMED_CLASSES:
        ticks = np.arange(bank.num_classes)
        names = [_short(name) for name in bank.class_names]
        axes.set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(ticks, names, fontsize=8)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="partner's class", ylabel="own class")
    axes.set_title("Class pairs (1 = as often as by chance)", fontsize=10)
    axes.figure.colorbar(image, ax=axes, fraction=0.046)


def _graph(axes: Axes, bank: PatternBank, pair_p: NDArray[Any] | None) -> list[str]:
    """Draw the strongest pairs of different classes on a circle; what they are, the strongest first. Dashed and grey are
    those that cannot be told from chance by Atlas.pair_p.
    """
    expected = np.outer(bank.pairs.sum(1), bank.pairs.sum(0)) / max(bank.pairs.sum(), 1.0)
    seen = bank.pairs + bank.pairs.T
    expected = expected + expected.T
    lift = np.divide(seen, expected, out=np.ones_like(seen), where=expected >= 1)
    one, two = np.triu_indices(len(lift), 1)
    order = np.argsort(-lift[one, two], kind="stable")[:MOST_EDGES]
    order = order[lift[one, two][order] > 1]
    strength = lift[one, two][order]
    one = one[order]
    two = two[order]
    if bank.num_classes <= CIRCLE:
        nodes = np.arange(bank.num_classes)
    else:
        nodes = np.unique(np.concatenate([one, two]))
    at = {int(node): (cos(2 * pi * i / len(nodes)), sin(2 * pi * i / len(nodes))) for i, node in enumerate(nodes)}
    widest = max(float(strength.max(initial=1)) - 1, 1e-9)
    for a, b, value in list(zip(one, two, strength, strict=True))[::-1]:
        (x0, y0), (x1, y1) = at[int(a)], at[int(b)]
        width = 0.6 + 4.4 * (value - 1) / widest
        told = pair_p is not None and pair_p[a, b] < LEVEL
        axes.plot(
            [x0, x1], [y0, y1], color=colour(0) if told else soft(), linestyle="-" if told else (0, (3, 1.5)),
            linewidth=width, dash_capstyle="butt", solid_capstyle="round", zorder=2 if told else 1,
        )  # fmt: skip
    for node, (x, y) in at.items():
        axes.plot([x], [y], marker="o", markersize=6, color=ink(), zorder=3)
        side = "center" if abs(x) < 0.2 else ("left" if x > 0 else "right")
        axes.text(1.09 * x, 1.09 * y, _short(bank.class_names[node]), ha=side, fontsize=8,
                  va="center" if side != "center" else ("bottom" if y > 0 else "top"))  # fmt: skip
    axes.set(xlim=(-1.7, 1.7), ylim=(-1.25, 1.25), aspect="equal")
    axes.set_axis_off()
    beyond = 0 if pair_p is None else int((pair_p[one, two] < LEVEL).sum())
    axes.set_title(
        f"Strongest pairs of classes{'' if beyond else ' (within chance)' if pair_p is not None else ''}", fontsize=10
    )
    names = bank.class_names
    return [f"{names[a]} and {names[b]} ×{significant(value)}" for a, b, value in zip(one, two, strength, strict=True)]


def _short(name: str) -> str:
    """A class name as a figure has room for it; $ would begin a formula."""
    return plain(name if len(name) <= 16 else name[:15] + "…")


def _saved(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.svg and then STEM.png; laying out takes longer than drawing, and is done once."""
    picture = save(figure, stem.with_name(f"{stem.name}.png"))
    figure.set_layout_engine("none")
    return [save(figure, stem.with_name(f"{stem.name}.svg")), picture]
