"""Tables over trials: mean, 95 % interval, difference to the first variant paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.run_folder import RunFolder
from analysis.style import colour, new_figure, save, tidy

if TYPE_CHECKING:
    import pandas as pd

PER_SEED = ("variant", "seed", "last_accuracy", "median10_accuracy", "image_forwards", "seconds")


def per_seed(trials: Sequence[tuple[str, int, RunFolder]]) -> pd.DataFrame:
    """One row per finished trial (variant, seed, run): the columns of PER_SEED. Accuracies are percent."""
    import pandas as pd

    rows = [
        {"variant": variant, "seed": seed, **{key: run.result[key] for key in PER_SEED[2:]}}
        for variant, seed, run in trials
        if run.result is not None
    ]
    return pd.DataFrame(rows, columns=list(PER_SEED))


def summarise(trials: pd.DataFrame, measure: str = "last_accuracy", order: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per variant, in `order` (else as they come): seeds, mean, half-width of the 95 % t-interval of
    the mean; the same of the difference to the first variant over the seeds both have; means of forwards and
    seconds. NaN where fewer than two seeds leave no interval.
    """
    import pandas as pd

    names = list(dict.fromkeys(order or trials["variant"]))
    by_seed = trials.pivot(index="seed", columns="variant", values=measure).reindex(columns=names)
    rows = []
    for name in names:
        values = by_seed[name].dropna()
        difference = (by_seed[name] - by_seed[names[0]]).dropna()
        own = trials[trials["variant"] == name]
        rows.append(
            {
                "variant": name,
                "seeds": len(values),
                "mean": values.mean(),
                "interval": half_width(values),
                "difference": math.nan if name == names[0] else difference.mean(),
                "difference_interval": math.nan if name == names[0] else half_width(difference),
                "image_forwards": own["image_forwards"].mean(),
                "seconds": own["seconds"].mean(),
            }
        )
    return pd.DataFrame(rows)


def half_width(values: pd.Series) -> float:
    """Half the 95 % interval of the mean, by Student's t; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    from scipy.special import stdtrit  # scipy.stats takes two seconds to import

    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))


def as_markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table, with what its columns mean."""
    first = table["variant"].iloc[0]
    lines = [
        f"| variant | seeds | accuracy, % | difference to {first} | image forwards | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table.itertuples():
        lines.append(
            f"| {row.variant} | {row.seeds} | {_plus_minus(row.mean, row.interval)} | "
            f"{_plus_minus(row.difference, row.difference_interval, '+')} | "
            f"{_count(row.image_forwards)} | {_count(row.seconds)} |"
        )
    note = "Mean and 95 % t-interval over seeds; differences are paired by seed. Seconds are training with search, without tests."
    return "\n".join([*lines, "", note]) + "\n"


def as_text(table: pd.DataFrame) -> str:
    """The summary for a terminal."""
    head = ("variant", "seeds", "accuracy, %", f"over {table['variant'].iloc[0]}", "forwards", "seconds")
    rows = [
        (
            str(row.variant),
            str(row.seeds),
            _plus_minus(row.mean, row.interval),
            _plus_minus(row.difference, row.difference_interval, "+"),
            _count(row.image_forwards),
            _count(row.seconds),
        )
        for row in table.itertuples()
    ]
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *rows]
    )


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _plus_minus(value: float, interval: float, sign: str = "") -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{sign}.2f}" + ("" if math.isnan(interval) else f" ± {interval:.2f}")


def write_tables(trials: pd.DataFrame, folder: Path, order: Sequence[str] | None = None) -> pd.DataFrame:
    """Write per_seed.csv, table.csv, table.md and figure.png into `folder`; return the summary, in `order`."""
    table = summarise(trials, order=order)
    folder.mkdir(parents=True, exist_ok=True)
    trials.to_csv(folder / "per_seed.csv", index=False)
    table.to_csv(folder / "table.csv", index=False, float_format="%.4f")
    (folder / "table.md").write_text(as_markdown(table), encoding="utf-8")
    _draw(trials, table, folder / "figure.png")
    return table


def _draw(trials: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    figure = new_figure(7, 1.2 + 0.45 * len(table))
    axes = figure.subplots()
    for index, row in enumerate(table.itertuples()):
        seeds = trials[trials["variant"] == row.variant]["last_accuracy"]
        axes.scatter(seeds, [index] * len(seeds), color=colour(index), s=18, alpha=0.6, zorder=3)
        spread = None if math.isnan(row.interval) else row.interval
        axes.errorbar(row.mean, index, xerr=spread, fmt="D", color=colour(index), markersize=7, capsize=4, zorder=4)
    axes.set_yticks(range(len(table)), table["variant"])
    axes.invert_yaxis()
    tidy(axes, xlabel="test accuracy at the last epoch, % (dots: seeds; diamond: mean with 95 % interval)")
    save(figure, path)
