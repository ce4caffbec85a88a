"""Figures: light and dark, and as parts of a page that follow its colours."""

import os
from xml.etree import ElementTree

import pytest

from analysis import style


def drawn():
    figure = style.new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2], [1, 3], color=style.colour(6), label="ink <b>")
    axes.fill_between([1, 2], [0, 1], [1, 2], color=style.colour(0), alpha=0.2)
    style.tidy(axes, title="Title & more", xlabel="x", ylabel="y")
    axes.legend()
    return figure


def test_two_processes_may_draw_one_picture(tmp_path, monkeypatch):
    """As two ablations of one file do at their ends."""
    path, figure = tmp_path / "figure.png", style.new_figure(1, 1)
    savefig = figure.savefig

    def meanwhile(*arguments, **options):
        savefig(*arguments, **options)
        figure.savefig = savefig
        monkeypatch.setattr(os, "getpid", lambda: 12345)
        style.save(figure, path)

    figure.savefig = meanwhile
    assert style.save(figure, path) == path
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    one, two = (style.save(drawn(), tmp_path / f"{name}.svg").read_bytes() for name in ("one", "two"))
    assert one == two and b"Title &amp; more" in one  # text stays text


@pytest.mark.parametrize(("dark", "ground"), [(False, style.LIGHT), (True, style.DARK)])
def test_themes(tmp_path, dark, ground):
    with style.theme(dark):
        text = style.save(drawn(), tmp_path / "figure.svg").read_text()
        assert (style.ink(), style.soft(), style.grid_colour(), style.colour(6)) == (*ground[1:4], ground.ink)
    assert ground.ground in text and ground.ink in text and ground.rule in text
    assert style.ink() == style.LIGHT.ink  # outside it is light again


def test_parts_of_a_page_follow_its_colours():
    with style.for_page():
        one, two = (style.as_svg(drawn(), label) for label in ("one", 'two "<'))
    for text in (one, two):
        assert all(f"var(--{name})" in text for name in ("ink", "soft", "rule"))
        assert "#01020" not in text and "<style" not in text and "http://www.w3.org/1999" not in text
        root = ElementTree.fromstring(text)
        assert {"viewBox", "role", "aria-label"} <= set(root.attrib) and "width" not in root.attrib
    ids = [{node.get("id") for node in ElementTree.fromstring(text).iter() if node.get("id")} for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    named = [
        name
        for node in ElementTree.fromstring(one).iter()
        for name in (node.get("href"), node.get("clip-path"))
        if name
    ]
    assert named and all(name.removeprefix("url(").rstrip(")").lstrip("#") in ids[0] for name in named)
