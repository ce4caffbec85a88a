"""Where the elites came from: which operators made them and their ancestors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.files import replace_text
from analysis.run_folder import RunFolder
from evo.arrays import Array

if TYPE_CHECKING:
    import pandas as pd

SLOTS = ("crossover", "mask mutation", "pairing mutation")
DRAWN = ("drawn", "by the sampler")
MEANING = (
    "Children: made by the operator, all searches kept whole together. Survived, elites: the share of these that "
    "lived on, and that were elites. Ancestors: its share among those bred that the last generation's elites "
    "descend from, themselves included."
)


def operator_table(run: RunFolder) -> pd.DataFrame | None:
    """One row per operator: slot, operator, children (count), and as percent: survived and elites (of its
    children), ancestors (of all bred ancestors of the last elites). None where the run kept no lineage.
    """
    import pandas as pd

    rows = operator_rows(run)
    return pd.DataFrame(rows) if rows else None


def operator_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of `operator_table`, without pandas, which takes a second to import."""
    counts: dict[tuple[str, str], Array] = {}
    for snapshot in run.snapshots():
        if "lineage_born" in snapshot:
            for key, found in _counts(snapshot).items():
                counts[key] = counts.get(key, np.zeros(4)) + found
    rows: list[dict[str, Any]] = []
    for slot in (*SLOTS, DRAWN[0]):
        bred = sum(found[3] for key, found in counts.items() if key[0] == slot)
        for (own, name), (children, survived, elites, ancestors) in counts.items():
            if own == slot:
                rows.append(
                    {
                        "slot": slot,
                        "operator": name,
                        "children": int(children),
                        "survived": 100 * survived / children,
                        "elites": 100 * elites / children,
                        "ancestors": 100 * ancestors / max(bred, 1) if slot != DRAWN[0] else np.nan,
                    }
                )
    return rows


def contested(operators: Iterable[tuple[str, str]]) -> set[str]:
    """The slots of these pairs of slot and operator that more than one operator filled: only there do shares compare any."""
    slots = [slot for slot, _ in set(operators)]
    return {slot for slot in slots if slots.count(slot) > 1}


def of_one_kind(table: pd.DataFrame) -> str:
    """What the table says where every slot had a single operator; "" where there are shares to be compared."""
    bred = table[table["slot"] != DRAWN[0]]
    if bred.empty or contested(zip(bred["slot"], bred["operator"], strict=True)):
        return ""
    most = bred.loc[bred["children"].idxmax()]
    named = ", ".join(f"{row.slot} {row.operator}" for row in bred.itertuples())
    return (
        f"The search had one operator of each kind ({named}), so nothing tells which operators are better. Of its "
        f"{most['children']:,} bred genomes {most['survived']:.1f} % survived."
    )


def write_operator_table(run: RunFolder, table: pd.DataFrame, out: Path | None = None) -> Path:
    """Write a run's `operator_table` as CSV to `out`, else to its patterns/operators.csv; return the path."""
    path = run.path / "patterns" / "operators.csv" if out is None else out
    return replace_text(path, table.round(3).to_csv(index=False))


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal."""
    lines = [f"{'slot':<17} {'operator':<12} {'children':>9} {'survived':>9} {'elites':>8} {'ancestors':>10}"]
    for row in table.itertuples():
        ancestors = "-" if np.isnan(row.ancestors) else f"{row.ancestors:.1f} %"
        lines.append(
            f"{row.slot:<17} {row.operator:<12} {row.children:>9,} {row.survived:>7.1f} % {row.elites:>6.1f} % "
            f"{ancestors:>10}"
        )
    return "\n".join(lines)


def ancestors(parents: Array, of: Array) -> Array:
    """(N,) bool: the genomes `of` and all they descend from. parents: (N,2), -1 where there are none; a parent's
    number is below its child's.
    """
    found = np.zeros(len(parents), bool)
    found[of] = True
    for genome in range(len(parents) - 1, -1, -1):
        if found[genome]:
            found[parents[genome][parents[genome] >= 0]] = True
    return found


def _counts(snapshot: dict[str, Array]) -> dict[tuple[str, str], Array]:
    """(slot, operator) -> (4,): children made, of these survivors, elites, ancestors of the last elites."""
    names, operators = snapshot["lineage_names"], snapshot["lineage_operators"]
    born, parents = snapshot["lineage_born"], snapshot["lineage_parents"]
    alive = snapshot["lineage_survivors"]
    survived, elite = np.zeros(len(born), bool), np.zeros(len(born), bool)
    survived[alive[alive >= 0]] = True
    elite[snapshot["ids"]] = True
    migrated = (operators[:, 0] < 0) & (parents[:, 0] >= 0)
    for genome in np.flatnonzero(migrated)[::-1]:  # what it came to counts for whom it was at home
        home = parents[genome, 0]
        survived[home] |= survived[genome]
        elite[home] |= elite[genome]
    last = snapshot["ids"][snapshot["generation"] == snapshot["generation"].max()]
    facts = np.stack([np.ones(len(born), bool), survived, elite, ancestors(parents, last)], axis=1)
    counted = {DRAWN: facts[(operators[:, 0] < 0) & (born > 0) & ~migrated].sum(axis=0)}
    for place, slot in enumerate(SLOTS):
        for number in np.unique(operators[:, place][operators[:, place] >= 0]):
            counted[slot, str(names[number])] = facts[operators[:, place] == number].sum(axis=0)
    return counted
