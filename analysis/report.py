"""One self-contained HTML page about a run: result, curves, patterns, a gallery of composed images.

All pictures are inside the page as data; it asks nothing of any other place and works from disk.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.curves import draw_curves
from analysis.gallery import WORST, last_snapshot, place, rows_of
from analysis.lineage import MEANING, operator_table
from analysis.patterns import draw_patterns
from analysis.run_folder import RunFolder, first_to_last
from analysis.style import colour, new_figure, save, tidy
from evo.bank import PatternBank

SMALLEST_PICTURE = 96  # pixels; smaller images are enlarged by a whole factor, so that cells stay sharp


def write_report(run: RunFolder) -> Path:
    """Write RUN/report.html, and the figures it shows into RUN/figures; return its path."""
    searched = not run.generations.empty
    parts = [_head(run), _facts(run), _notices(run)]
    if not run.epochs.empty:
        parts.append(_training(run))
    if searched:
        parts += [_curves(run), _operators(run), _patterns(run), _gallery(run)]
    parts.append(_how(run))
    page = _PAGE.format(
        title=escape(f"Evomix: {run.name}"),
        style=(Path(__file__).parent / "report.css").read_text(encoding="utf-8"),
        body="\n".join(parts),
    )
    path = run.path / "report.html"
    unfinished = path.with_name(".report.html.tmp")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _head(run: RunFolder) -> str:
    config = run.config
    what = f"{config['model']['name']} on {config['data']['name']}, mix {run.mix}, seed {config['run']['seed']}"
    date = str(run.environment.get("date", ""))
    return f"<h1>{escape(run.name)}</h1>\n<p class='soft'>{escape(what)} &middot; {escape(date)}</p>"


def _facts(run: RunFolder) -> str:
    facts: list[tuple[str, str]] = []
    result = run.result
    if result and "last_accuracy" in result:
        facts += [
            (f"{result['last_accuracy']:.2f} %", f"accuracy at the last epoch, {result['test_images']:,} test images"),
            (f"{result['median10_accuracy']:.2f} %", "median of the last ten tests"),
            (f"{result['steps']:,}", "optimiser steps"),
        ]
    if not run.generations.empty:
        first, last = first_to_last(run)
        facts.append((f"{first:.3f} → {last:.3f}", "best fitness, first to last generation (nats, mean over searches)"))
    if result:
        facts.append(
            (f"{result['image_forwards']:,}", f"image forwards, {result['search_forwards']:,} of them for the search")
        )
        share = result["search_seconds"] / max(result["seconds"], 1e-9)
        facts.append((f"{result['seconds']:,.0f} s", f"without tests; {100 * share:.0f} % of it search"))
    items = "\n".join(
        f"<li><strong>{escape(value)}</strong><span>{escape(meaning)}</span></li>" for value, meaning in facts
    )
    return f"<ul class='facts'>\n{items}\n</ul>"


def _notices(run: RunFolder) -> str:
    """What a careful reader would want to be told."""
    notices = []
    result = run.result
    if result is None:
        notices.append(
            f"This run has not ended: {len(run.epochs)} of {run.config['train']['epochs']} epochs are logged."
        )
    elif "last_accuracy" in result:
        share = result["last_accuracy"] / 100
        error = 196 * math.sqrt(share * (1 - share) / result["test_images"])
        notices.append(
            f"One seed. With {result['test_images']:,} test images alone, an accuracy of {result['last_accuracy']:.1f} % "
            f"is known to about ± {error:.1f} points; compare variants with ./run ablate."
        )
    if not run.generations.empty:
        first, last = first_to_last(run)
        if last <= first:
            notices.append("The search had no effect: the last generation is no fitter than the first.")
    return "\n".join(f"<p class='notice'>{escape(text)}</p>" for text in notices)


def _training(run: RunFolder) -> str:
    epochs = run.epochs
    figure = new_figure(9.5, 3.4)
    left, right = figure.subplots(1, 2)
    left.plot(epochs["epoch"], epochs["image_loss"], color=colour(0), label="image loss (training)")
    if epochs["cell_loss"].notna().any():
        left.plot(epochs["epoch"], epochs["cell_loss"], color=colour(1), label="mean cell loss (training)")
    if "accuracy" in epochs:
        tested = epochs[epochs["accuracy"].notna()]
        left.plot(tested["epoch"], tested["test_loss"], color=colour(2), label="test loss")
        right.plot(tested["epoch"], tested["accuracy"], color=colour(2), label="test")
    right.plot(
        epochs["epoch"],
        epochs["training_accuracy"],
        color=colour(0),
        linestyle="--",
        label="training (share of the target hit)",
    )
    tidy(left, title="Loss", xlabel="epoch", ylabel="nats")
    tidy(right, title="Accuracy", xlabel="epoch", ylabel="%")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    path = save(figure, run.figures() / "training.png")
    return "<h2>Training</h2>\n" + _figure(path, "Loss and accuracy by epoch.")


def _curves(run: RunFolder) -> str:
    path = draw_curves([run], run.figures() / "curves.png")
    caption = "Fitness by generation. The upper scale counts the images forwarded through the model, per image of the search batch."
    return "<h2>Search</h2>\n" + _figure(path, caption)


def _operators(run: RunFolder) -> str:
    table = operator_table(run)
    if table is None:
        return ""
    head = "".join(f"<th scope='col'>{name}</th>" for name in table.columns)
    lines = []
    for row in table.itertuples():
        percents = (f"{v:.1f} %" if v == v else "-" for v in (row.survived, row.elites, row.ancestors))
        cells = "".join(f"<td class='number'>{text}</td>" for text in (f"{row.children:,}", *percents))
        lines.append(f"<tr><td>{escape(row.slot)}</td><td>{escape(row.operator)}</td>{cells}</tr>")
    body = "\n".join(lines)
    return (
        f"<h3>Which operators made the elites</h3>\n<table class='operators'>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n<p class='soft'>{escape(MEANING)}</p>"
    )


def _patterns(run: RunFolder) -> str:
    if not (run.path / "patterns" / "bank.npz").is_file():
        return ""
    path = draw_patterns(run, PatternBank.load(run.bank_file()))
    caption = (
        "Masks with their share of the elites' rows and, where it is known, how many times more often that is than "
        "under random drawing; which cells keep the own image; which classes were paired."
    )
    return "<h2>Patterns</h2>\n" + _figure(path, caption)


def _gallery(run: RunFolder) -> str:
    if not any((run.path / "elites").glob("*.npz")):
        return ""
    snapshot = last_snapshot(run)
    items = "\n".join(_gallery_item(row) for row in rows_of(snapshot))
    where = place(snapshot)
    return (
        f"<h2>Gallery</h2>\n<p>Rows of the fittest genome of {where}: the fittest rows first, then the least fit. "
        f"Cell losses are the model's, in nats, at the time of the search.</p>\n<ul class='gallery'>\n{items}\n</ul>"
    )


def _gallery_item(row: dict[str, Any]) -> str:
    own, partner = escape(row["own_label"]), escape(row["partner_label"])
    share = 100 * row["share"]
    pictures = "".join(
        f"<div><img alt='{alt}' src='{_png(row[key])}'>{text}</div>"
        for key, alt, text in (
            ("own", f"own image: {own}", f"own: {own}"),
            ("partner", f"partner: {partner}", f"partner: {partner}"),
            ("mixed", f"composed of {own} and {partner}", "composed"),
        )
    )
    cells = f"<div>{_cells(row['cell_losses'])}cell losses</div>"
    text = f"<strong>{share:.0f} % {own}, {100 - share:.0f} % {partner}</strong> &middot; score {row['score']:.2f}"
    return f"<li><div class='pictures'>{pictures}{cells}</div>{text}</li>"


def _cells(losses: NDArray[Any]) -> str:
    grid = len(losses)
    spans = []
    for value in losses.ravel():
        depth = min(float(value), WORST) / WORST
        ink = "#fff" if depth > 0.55 else "#111"
        shade = f"color-mix(in srgb, #7a0403 {100 * depth:.0f}%, #fdf0d5)"
        number = f"{value:.1f}" if grid <= 8 else ""
        spans.append(f"<span style='background:{shade};color:{ink}'>{number}</span>")
    return f"<div class='cells' style='grid-template-columns:repeat({grid},1fr)'>{''.join(spans)}</div>"


def _how(run: RunFolder) -> str:
    environment = run.environment
    packages = ", ".join(f"{name} {number}" for name, number in environment.get("packages", {}).items() if number)
    facts = {
        "command": environment.get("command"),
        "commit": environment.get("commit"),
        "device": f"{environment.get('device')} ({environment.get('device_name')}), {environment.get('threads')} threads",
        "python": environment.get("python"),
        "packages": packages,
    }
    rows = "\n".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value
    )
    config = {key: value for key, value in run.config.items() if key != "schema"}
    return (
        f"<h2>How it was run</h2>\n<table>\n{rows}\n</table>\n"
        f"<details><summary>All options</summary><pre tabindex='0'>{escape(json.dumps(config, indent=1))}</pre></details>"
    )


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"


def _png(image: NDArray[Any]) -> str:
    """(H,W) or (H,W,3) uint8 as a data URL."""
    from PIL import Image

    factor = max(1, -(-SMALLEST_PICTURE // min(image.shape[:2])))
    large = np.repeat(np.repeat(image, factor, 0), factor, 1)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
