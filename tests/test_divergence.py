"""Losses that blow up: told by epoch and step, written in scientific notation, drawn on a logarithmic axis."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import style
from analysis.curves import figures_of, write_curves
from analysis.diverged import divergence, search_divergence
from analysis.gallery import loss_texts
from analysis.report import render_sections
from analysis.rounding import decimal_text, significant
from analysis.run_folder import RunFolder
from analysis.sections.caveats import caveats_of
from runs.benchmarks.made_up import make_run
from training.progress import loss_text


def changed(path, file, change):
    """Rewrite a run's file, each line changed in place."""
    lines = [json.loads(line) for line in (path / file).read_text().splitlines()]
    for line in lines:
        change(line)
    (path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunFolder(path)


@pytest.fixture
def blown(out):
    """A run whose losses blow up in epoch 3 of 6, and its searches with them."""
    path = make_run(out / "blown", 6, 6, 3)

    def in_log(line):
        if line.get("event") == "epoch" and line["epoch"] >= 3:
            line.update(image_loss=1.2345e24, cell_loss=math.inf, test_loss=3e24 if line["epoch"] == 5 else 2.0)

    def in_search(line):
        if line.get("search", 0) >= 3:
            line.update(best=2e24, mean=1e23, median=1e22, std=1e23)

    changed(path, "log.jsonl", in_log)
    return changed(path, "generations.jsonl", in_search)


def text_of(html):
    return re.sub(r"<[^>]*>", " ", html)


def test_a_warning_names_the_epoch_the_step_and_how_it_ended(blown):
    found = {caveat.title: caveat for caveat in caveats_of([blown])}
    told = found["Training diverged"]
    assert told.warns and told.text == divergence(blown)
    assert "In epoch 3 (up to step 30) the image loss of the training batches was 1.23e+24 nats" in told.text
    assert "the cell loss of the training batches infinite" in told.text
    assert "in the last epoch it was 1.23e+24 nats" in told.text and "Guessing costs 2.30 nats" in told.text
    searched = found["Search of losses that blew up"].text
    assert searched == search_divergence(blown) and "In search 3, epoch 3 (step 21), the" in searched
    assert "2.00e+24 nats" in searched


def test_nothing_is_said_of_sound_losses_nor_of_a_first_epoch_that_is_merely_bad(out):
    path = make_run(out / "sound", 3, 3, 2)
    assert divergence(RunFolder(path)) == search_divergence(RunFolder(path)) == ""
    bad = changed(path, "log.jsonl", lambda line: line.update(image_loss=9.0) if line.get("epoch") == 1 else None)
    assert divergence(bad) == ""


@pytest.mark.parametrize("loss", [1e3, 1e300, math.inf, math.nan, -1e5])
@pytest.mark.parametrize("key", ["image_loss", "cell_loss", "test_loss"])
def test_any_loss_of_any_size_is_told(out, loss, key):
    path = make_run(out / "any", 3, 3, 2)
    run = changed(path, "log.jsonl", lambda line: line.update({key: loss}) if line.get("epoch") == 2 else None)
    run = changed(path, "generations.jsonl", lambda line: line.update(best=loss) if line.get("search") == 2 else None)
    assert "In epoch 2 (up to step 20)" in divergence(run) and "In search 2" in search_divergence(run)


@pytest.mark.parametrize("loss", [1e300, math.nan])
def test_pages_and_curves_of_any_loss_are_drawn(out, loss):
    path, keys = make_run(out / "any", 3, 3, 2), ("image_loss", "cell_loss", "test_loss")
    run = changed(
        path, "log.jsonl", lambda line: line.update(dict.fromkeys(keys, loss)) if line.get("epoch") == 2 else None
    )
    run = changed(path, "generations.jsonl", lambda line: line.update(best=loss) if line.get("search") == 2 else None)
    sections = render_sections([run])
    assert "Training diverged" in sections["warnings"] and sections["training"] and sections["search"]
    assert write_curves([run])


def test_no_part_of_a_page_or_of_the_command_line_writes_25_digits(blown, cli):
    for name, html in render_sections([blown]).items():
        assert not re.search(r"\d{16}", text_of(html)), name
    status, text, _ = cli("show", "blown")
    assert status == 0 and "1.33e+24" in text and not re.search(r"\d{16}", text)
    assert "warning" in text and "In epoch 3 (up to step 30)" in text
    status, text, _ = cli("show", "blown", "--json")
    assert len(json.loads(text)["diverged"]) == 2
    status, text, _ = cli("list")
    assert status == 0 and not re.search(r"\d{16}", text)


def test_an_axis_with_such_values_is_logarithmic_and_says_so(blown):
    by_title = {title: figure for title, figure, _ in figures_of([blown])}
    axes = by_title["Fitness 'hard' over the training"].axes[0]
    assert axes.get_yscale() == "log" and axes.get_ylabel().endswith(", logarithmic")
    sound = style.new_figure(2, 2).subplots()
    sound.plot([1, 2, 3], [2.3, 0.5, 1e-6])
    assert not style.fit_blown_up(sound) and sound.get_yscale() == "linear"
    negative = style.new_figure(2, 2).subplots()
    negative.plot([1, 2, 3], [-2.0, -1e24, np.nan])
    assert style.fit_blown_up(negative) and negative.get_yscale() == "symlog"
    negative.figure.draw_without_rendering()


def test_losses_too_long_for_a_cell_are_left_to_the_colour():
    assert loss_texts(np.array([[1.25, 2.0], [0.5, 3.0]]))[0] == (0, 0, "1.2")
    assert loss_texts(np.array([[1.25, 1e24], [0.5, 3.0]])) == []
    assert loss_texts(np.array([[1.25, np.inf], [0.5, 3.0]])) == []


def test_the_progress_line_as_well():
    assert loss_text(2.3026) == "2.303" and loss_text(1.2345e24) == "1.23e+24" and loss_text(math.inf) == "inf"
    assert loss_text(math.nan) == "nan"


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (1e24, ".3f", "1.00e+24"), (-1e24, "+.2f", "-1.00e+24"), (1e24, "+.2f", "+1.00e+24"), (99999.0, ".1f", "99999.0"),
        (230400, ",.0f", "230,400"), (1e18, ",.0f", "1.00e+18"), (math.inf, ".3f", "inf"), (2.3026, ".3f", "2.303"),
    ],
)  # fmt: skip
def test_numbers_that_are_too_large_are_in_scientific_notation(value, form, expected):
    assert decimal_text(value, form) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(54.321, "54.3"), (0.69, "0.690"), (12345, "12,300"), (1e24, "1.00e+24"), (9.999, "10.0"), (0, "0"),
     (1.23456e-9, "1.23e-09"), (-0.0123456, "-0.0123"), (math.inf, "inf"), (99.96, "100")],
)  # fmt: skip
def test_three_digits_are_significant(value, expected):
    assert significant(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_three_significant_digits_are_within_half_a_unit_of_the_third(value):
    shown = float(significant(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=5.1e-3) if value else shown == 0
