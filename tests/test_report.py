"""The report page: what it tells, that it needs nothing else, and that nobody is shut out of it."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import report
from analysis.report import HEADINGS, SECTIONS, page, render_sections, write_report
from analysis.run_folder import RunFolder
from analysis.run_settings import differing, settings_of
from analysis.sections import pictures
from analysis.sections.caveats import caveats_of
from analysis.sections.cost import cost
from analysis.sections.head import head
from analysis.sections.how import how
from analysis.sections.parts import figure, picture, table
from analysis.sections.result import comparison, result
from analysis.statistics import accuracy_interval
from analysis.style import for_page, new_figure
from evo.durations import duration
from tests.test_listing import write_run

VERSION_1 = Path(__file__).parent / "data" / "runs-v1"
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """A page's tags with their attributes and its text; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


def make(folder, source=VERSION_1 / "evolved", *, seed=0, accuracy=None, events=(), config=None, environment=None):
    """A copy of a run folder, changed. accuracy: of its end; events: put in the place of its end."""
    shutil.copytree(source, folder)
    found = json.loads((folder / "config.json").read_text())
    found["run"]["seed"] = seed
    for name, value in (config or {}).items():
        part, option = name.split(".")
        found[part][option] = value
    (folder / "config.json").write_text(json.dumps(found))
    where = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**where, "commit": "c" * 40, **(environment or {})}))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    if events:
        lines = [line for line in lines if line["event"] != "end"] + list(events)
    if accuracy is not None:
        lines[-1]["last_accuracy"] = accuracy
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunFolder(folder)


def titles(runs):
    return {caveat.title for caveat in caveats_of(runs)}


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """A tiny run's whole page."""
    folder = tmp_path_factory.mktemp("written") / "tiny"
    shutil.copytree(trained, folder)
    return write_report([RunFolder(folder)], defaults={"train": {"batch": 128, "epochs": 2}})


@pytest.fixture(scope="module")
def parsed(written):
    return Page(written.read_text(encoding="utf-8"))


# The page


def test_the_page_asks_nothing_of_anyone(written, parsed):
    text = written.read_text(encoding="utf-8")
    assert written.name == "report.html" and len(text.encode()) < 3_000_000
    for attributes in parsed.all(*{tag for tag, _ in parsed.tags}):
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert re.match(r"data:|#", attributes.get(name) or "#"), attributes
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)|fetch\(|XMLHttpRequest|localStorage", text)


def test_the_page_has_every_section_of_an_evolved_run(written, parsed):
    run = RunFolder(written.parent)
    shown = [attributes["id"] for attributes in parsed.all("section")]
    assert shown == [name for name in SECTIONS if name != "comparison"]
    assert [a["href"] for a in parsed.all("a") if "class" not in a] == [f"#{name}" for name in shown]
    for words in (
        f"{run.result['last_accuracy']:.2f} %",
        "Single seed",
        "mask mutation",
        "rows are not forwarded",
        "rank correlation",
        run.environment["command"],
    ):
        assert words in parsed.text


def test_the_page_can_be_read_by_everybody(parsed):
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    assert all(attributes.get("alt") for attributes in parsed.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in parsed.all("th"))
    labelled = {attributes.get("for") for attributes in parsed.all("label")}
    sliders = [a for a in parsed.all("input") if a["type"] == "range"]
    assert len(sliders) == 2 and all(a["id"] in labelled and a["aria-valuetext"] for a in sliders)
    for attributes in parsed.all("section"):
        assert attributes["aria-labelledby"] in ids
    assert all(a.get("aria-label") for a in parsed.all("svg") if a.get("aria-hidden") != "true")
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert len(parsed.all("main")) == len(parsed.all("nav")) == 1


def test_without_a_script_the_last_generation_of_the_last_search_is_seen(parsed):
    kinds = {"snapshot": [], "frame": []}
    for attributes in parsed.all("div"):
        if attributes.get("class") in kinds:
            kinds[attributes["class"]].append("hidden" in attributes)
    assert kinds["snapshot"] == [True] * (len(kinds["snapshot"]) - 1) + [False]
    assert kinds["frame"] == [True, False] * len(kinds["snapshot"])


def test_a_live_page_keeps_places_for_what_is_to_come():
    sections = {"head": "<section id='head'>x</section>", "search": ""}
    still, live = (page(sections, "a <b>", live=live, script="/*mine*/") for live in (False, True))
    assert 'id="search"' not in still and "/*mine*/" not in still
    assert '<section id="search" hidden></section>' in live and live.index("/*mine*/") > live.index("use strict")
    assert '<li data-for="search" hidden>' in live and "<title>a &lt;b&gt;" in live


def test_sections_are_named_once():
    assert list(HEADINGS) == list(SECTIONS)


def test_everything_from_a_run_is_escaped(tmp_path):
    bad = "<script>alert('1')</script>&\"$x$"
    source = make(tmp_path / "made", environment={"command": bad, "device_name": bad, "commit": bad})
    for path in (source.path / "elites").glob("*.npz"):
        with np.load(path) as found:
            np.savez(path, **{**found, "class_names": np.array([bad] * len(found["class_names"]))})
    failed = {"event": "failed", "time": "2026-01-01T00:00:00+00:00", "reason": bad}
    run = make(
        tmp_path / "<img src=x>",
        source.path,
        events=[failed],
        config={"mix.sampler": bad, "data.name": bad, "model.name": bad},
    )
    parts = {
        name: SECTIONS[name]([run]) for name in ("head", "warnings", "result", "operators", "gallery", "cost", "how")
    }
    parts["both"] = how([run, source]) + result([source, run]) + pictures.gallery([run, source])
    for text in parts.values():
        found = Page(text)
        assert not found.all("script") and "alert('1')" not in re.sub(r"&#x27;", "", text)
        assert not [a for a in found.all("img") if not a["src"].startswith("data:")]
    assert all(bad in Page(parts[name]).text for name in ("head", "warnings", "gallery", "how"))


def test_several_runs_get_a_page_of_their_own(tmp_path, out, monkeypatch):
    monkeypatch.setattr(report, "SECTIONS", {"head": head})
    runs = [make(out / "a/b c", seed=0), make(out / "d", seed=1)]
    assert write_report(runs).name.startswith("report-a-b-c+d~") and not (runs[0].path / "report.html").exists()
    assert "2 runs compared" in write_report(runs, tmp_path / "there" / "x.html").read_text()
    assert "2 runs" not in write_report([runs[0], RunFolder(runs[0].path)], tmp_path / "y.html").read_text()
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


@pytest.mark.parametrize("name", ["evolved", "plain", "search"])
def test_version_1_has_its_page(name):
    sections = render_sections([RunFolder(VERSION_1 / name)])
    assert all(Page(text) for text in sections.values())
    assert bool(sections["gallery"]) == bool(sections["search"]) == (name != "plain")
    assert bool(sections["training"]) == (name != "search") and sections["how"] and sections["result"]


def test_the_report_imports_no_torch():
    code = "import sys, analysis.report; sys.exit(any(m in sys.modules for m in ('torch', 'deap', 'matplotlib.pyplot', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


# Warnings


def test_a_single_seed_and_few_test_images_are_warned_of(tmp_path):
    run = make(tmp_path / "a")
    assert {"Single seed", "Few test images", "What the test images chose"} <= titles([run])
    assert "Single seed" not in titles([run, make(tmp_path / "b", seed=1)])


@pytest.mark.parametrize(
    ("event", "title", "words"),
    [
        ({"event": "failed", "reason": "the loss is NaN"}, "Failed", "the loss is NaN"),
        ({"event": "stopped", "step": 3}, "Stopped", "stopped on request before its end"),
        ({"event": "resume"}, "Killed", "no process is writing it"),
    ],
)
def test_a_run_that_did_not_finish_is_warned_of(tmp_path, event, title, words):
    run = make(tmp_path / "a", events=[{"time": "2026-01-01T00:00:00+00:00", **event}])
    caveat = next(caveat for caveat in caveats_of([run]) if caveat.title == title)
    assert caveat.warns and words in caveat.text
    assert f"</span> {title.lower()}</span>" in head([run])


def test_the_head_of_a_run_that_goes_on_has_its_accuracy_so_far_and_the_time_left(out):
    import fcntl

    folder = write_run(out / "a", age=4)  # two of four epochs, of 10 s
    other = write_run(out / "b", age=4, seed=1)
    with open(folder / ".lock", "a") as file, open(other / ".lock", "a") as second:
        fcntl.flock(file, fcntl.LOCK_EX)
        shown = head([RunFolder(folder)])
        assert "<strong>52.00 %</strong> <span>accuracy so far, after epoch 2; 95 % interval of" in shown
        left = re.search(r"<strong>about (\d+)\.\d s</strong> <span>left at the pace so far</span>", shown)
        assert 10 <= int(left[1]) <= 17
        fcntl.flock(second, fcntl.LOCK_EX)
        both = head([RunFolder(folder), RunFolder(other)])
        assert "accuracy so far, after epoch 2" in both and "left at the pace so far until the last of 2" in both
    assert "left at the pace" not in head([RunFolder(folder)])  # it does not run any more


def change_generations(run, change):
    path = run.path / "generations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, **change(line)}) + "\n" for line in lines))
    return RunFolder(run.path)


def test_a_search_without_effect_is_warned_of(tmp_path):
    run = make(tmp_path / "a")
    flat = change_generations(run, lambda line: {"best": 2.0})
    assert "Search without effect" in titles([flat])
    unclear = change_generations(
        run, lambda line: {"best": 2 + (line["generation"] > 1) * (1 if line["search"] % 2 else -0.9)}
    )
    assert "Search without clear effect" in titles([unclear])
    rising = change_generations(run, lambda line: {"best": line["generation"] + 0.01 * line["search"]})
    assert not {"Search without effect", "Search without clear effect"} & titles([rising])


def test_losses_that_are_not_finite_are_counted(tmp_path):
    run = change_generations(make(tmp_path / "a"), lambda line: {"nonfinite": 2})
    caveat = next(caveat for caveat in caveats_of([run]) if caveat.title == "Losses that are not finite")
    assert caveat.text.startswith(f"{2 * len(run.generations)} of ")


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"environment": {"commit": "abc+"}}, "Code changed"),
        ({"environment": {"commit": None}}, "Code not recorded"),
        ({"config": {"search.rescore": "elites"}}, "Live weights"),
        ({"config": {"model.pretrained": True}}, "Published weights"),
    ],
)
def test_how_a_run_was_made_is_warned_of(tmp_path, change, title):
    assert title not in titles([make(tmp_path / "a")])
    assert title in titles([make(tmp_path / "b", **change)])


def compared(tmp_path, evolved, random, random_seeds=(0, 1, 2)):
    runs = [make(tmp_path / f"e-s{seed}", seed=seed, accuracy=value) for seed, value in enumerate(evolved)]
    more = {"mix.name": "patchmix"}
    runs += [
        make(tmp_path / f"r-s{seed}", seed=seed, accuracy=value, config=more)
        for seed, value in zip(random_seeds, random, strict=True)
    ]
    return runs


def test_evolved_that_is_not_better_than_random_is_warned_of(tmp_path):
    assert "Evolved not shown better than random" in titles(compared(tmp_path / "1", [60, 61, 64], [61, 60, 63]))
    better = titles(compared(tmp_path / "2", [60, 61, 62], [50, 51.2, 52]))
    assert "Evolved not shown better than random" not in better and "Unpaired seeds" not in better


def test_unpaired_seeds_and_unlike_runs_are_warned_of(tmp_path):
    assert "Unpaired seeds" in titles(compared(tmp_path / "1", [60, 61], [61, 60], (0, 5)))
    pair = [
        make(tmp_path / "a", environment={"device_name": "this"}),
        make(tmp_path / "b", seed=1, environment={"device_name": "that"}),
    ]
    assert "Different devices" in titles(pair)


def test_a_warning_of_some_runs_names_them(tmp_path):
    pair = [make(tmp_path / "good"), make(tmp_path / "bad", seed=1, environment={"commit": "abc+"})]
    text = next(caveat.text for caveat in caveats_of(pair) if caveat.title == "Code changed")
    assert text.startswith("bad: ") and "good" not in text


# Results


def test_settings_are_equal_but_for_the_seed(tmp_path):
    runs = compared(tmp_path, [60, 61], [61, 60], (0, 1))
    settings = settings_of(runs)
    assert [(setting.name, setting.seeds) for setting in settings] == [("e", [0, 1]), ("r", [0, 1])]
    assert differing(settings) == {"mix.name": ["evolved", "patchmix"]}
    idle = make(tmp_path / "idle", seed=3, config={"mix.name": "patchmix", "search.population": 99})
    assert [len(setting.runs) for setting in settings_of([*runs, idle])] == [2, 3]  # its search options do not count
    again = make(tmp_path / "again", seed=0)
    assert [setting.seeds for setting in settings_of([runs[0], again])] == [[0], [0]]


def test_settings_are_compared_by_seed(tmp_path):
    found = Page(comparison(compared(tmp_path, [60, 61, 62], [58, 59.5, 60])))
    assert "-1.83" in found.text and "mix.name" in found.text and "e 61.00 is the highest mean" in found.text
    assert comparison([make(tmp_path / "one")]) == ""


def test_results_have_intervals(tmp_path):
    pair = [make(tmp_path / "a-s0", accuracy=60.0), make(tmp_path / "a-s1", seed=1, accuracy=62.0)]
    assert "a: 61.00 % accuracy at the last epoch, mean of 2 seeds" in Page(result(pair)).text
    assert "48.29 to 73.71 %" in result(pair)  # 61 ± 12.706 x 1.4142 / sqrt(2)
    assert "for the test images alone" in result(pair[:1])


@given(st.integers(1, 100_000), st.floats(0, 1))
def test_wilsons_interval_lies_around_the_share(images, share):
    accuracy = 100 * round(share * images) / images
    low, high = accuracy_interval(accuracy, images)
    assert -1e-9 <= low <= accuracy + 1e-9 and accuracy - 1e-9 <= high <= 100 + 1e-9


def test_wilsons_interval_is_that_of_scipy():
    from scipy.stats import binomtest

    expected = binomtest(81, 100).proportion_ci(method="wilson")
    assert accuracy_interval(81.0, 100) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_cost_tells_where_time_and_forwards_went_and_claims_no_savings_for_estimates(trained, tmp_path):
    run = RunFolder(trained)
    end, saved = run.result, int((run.generations["full_rows"] - run.generations["new_rows"]).sum())
    text = Page(cost([run])).text
    assert f"{end['search_forwards']:,}" in text and f"{end['image_forwards'] - end['search_forwards']:,}" in text
    assert "Carrying losses" not in text and "rows are not forwarded" in text
    shutil.copytree(trained, tmp_path / "exact")
    for name in ("log.jsonl", "generations.jsonl"):
        lines = [json.loads(line) for line in (tmp_path / "exact" / name).read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if k != "scored"} for line in lines if line.get("event") != "checked"]
        (tmp_path / "exact" / name).write_text("".join(json.dumps(line) + "\n" for line in kept))
    text = Page(cost([RunFolder(tmp_path / "exact")])).text
    assert f"{saved:,}" in text and f"saved {100 * saved / (saved + end['search_forwards']):.0f} %" in text
    assert "rows are not forwarded" not in text
    assert "–" in Page(cost([RunFolder(VERSION_1 / "evolved")])).text  # version 1 does not tell what was saved


def test_options_that_are_not_the_default_are_marked(tmp_path):
    run = make(tmp_path / "a")
    batch = run.config["train"]["batch_size"]
    marked = how([run], {"train": {"batch_size": batch + 1, "epochs": run.config["train"]["epochs"]}})
    assert f"<strong>{batch}</strong> <span class='changed'>" in marked and marked.count("'changed'") == 1
    assert "1 of them not at their default" in marked and "changed" not in how([run])


# Pictures


def test_pictures_are_left_out_evenly_and_that_is_said(trained, monkeypatch):
    run = RunFolder(trained)
    assert "keep this page small" not in pictures.gallery([run])
    monkeypatch.setattr(pictures, "BUDGET", 1)
    small = pictures.gallery([run])
    assert small.count('class="frame"') == 1 and "1 of the 2 generations kept" in small
    assert Page(small).all("input")[0]["type"] == "checkbox" and len(Page(small).all("input")) == 1


def test_the_gallery_says_that_of_a_setting_one_run_is_shown(tmp_path):
    runs = [make(tmp_path / "a-s0"), make(tmp_path / "a-s1", seed=1), make(tmp_path / "b", config={"train.lr": 0.2})]
    words = "Of each setting the first run that kept images is shown."
    assert words in pictures.gallery(runs) and words not in pictures.gallery([runs[0], runs[2]])


def test_of_several_runs_each_gallery_has_its_name(tmp_path):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", VERSION_1 / "plain")]
    assert "<h3>a</h3>" in pictures.gallery(runs) and "<h3>" not in pictures.gallery(runs[:1])


@pytest.mark.parametrize("shape", [(8, 8), (16, 16, 3), (32, 32, 3), (96, 64, 3), (28, 28)])
def test_pictures_keep_their_look(shape):
    import base64
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    image = np.repeat(
        np.repeat(rng.integers(0, 256, (shape[0] // 4, shape[1] // 4, *shape[2:]), dtype=np.uint8), 4, 0), 4, 1
    )
    head, data = picture(image).split(",")
    seen = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").resize(shape[1::-1], Image.Resampling.BOX)
    )
    expected = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
    assert np.abs(seen.astype(float) - expected).mean() < 25 and head in (
        "data:image/png;base64",
        "data:image/webp;base64",
    )


def test_figures_follow_the_pages_colours():
    with for_page():
        drawn = new_figure(3, 2)
        drawn.subplots().set_title("<x>")
    text = figure(drawn, "A <title>", "Its & caption", "run")
    found = Page(text)
    assert "var(--ink)" in text and found.all("svg")[0]["aria-label"] == "A <title>, run. Its & caption"
    assert not re.search(r"\b(NaN|None)\b", text)


def test_tables_and_durations():
    text = table(("a", "b"), [("<x>", "1")], "c")
    assert '<th scope="row">&lt;x&gt;</th><td class="number">1</td>' in text
    assert [duration(s, 1) for s in (None, float("nan"), 4.25, 59.96, 185, 7620)] == [
        "–",
        "–",
        "4.2 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


# In a browser


def test_the_page_works_in_a_browser(written, browser):
    context = browser.new_context(viewport={"width": 380, "height": 800}, color_scheme="dark")
    view, troubles = context.new_page(), []
    view.on("console", lambda message: troubles.append(message.text))
    view.on("pageerror", lambda error: troubles.append(str(error)))
    view.on(
        "request", lambda request: troubles.extend([request.url] * (not request.url.startswith(("data:", "file:"))))
    )
    view.goto(written.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") == 380  # nothing sticks out
    assert view.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    shown = "[...document.querySelectorAll('.frame')].filter((frame) => frame.offsetHeight).map((frame) => frame.dataset.text)"
    assert view.evaluate(shown) == ["generation 2"]
    view.focus("input.generation")
    view.keyboard.press("ArrowLeft")
    view.focus("input.search")
    view.keyboard.press("Home")
    assert view.evaluate(shown) == ["generation 1"]
    assert view.get_attribute("input.search", "aria-valuetext") == "search 1, epoch 1"
    assert view.get_attribute("input.generation", "aria-valuetext") == "generation 1"
    losses = view.locator(".snapshot:not([hidden]) .frame:not([hidden]) g.losses").first
    assert losses.is_visible()
    view.uncheck("input.overlay")
    assert not losses.is_visible()
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = view.evaluate(colour)
    view.click("text=Light theme")
    assert view.evaluate(colour) != dark and view.inner_text("#theme") == "Dark theme"
    view.click("text=Dark theme")
    view.emulate_media(media="print")
    assert view.evaluate(colour) == "rgb(255, 255, 255)"
    assert not troubles
    context.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_what_is_wider_than_the_page_says_that_it_scrolls_and_stays_readable(written, browser, width):
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(written.as_uri())
    page.locator("details").last.evaluate("element => { element.open = true; }")
    page.wait_for_timeout(50)
    parts = page.locator(".wide").evaluate_all(
        """all => all.map(part => ({
            scrolls: part.scrollWidth > part.clientWidth + 1,
            says: getComputedStyle(part, "::before").content.includes("Scrolls sideways"),
            least: Math.min(...[...part.querySelectorAll("svg:not(.key) text")].map(text =>
                parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a)),
        }))"""
    )
    assert len(parts) > 5 and all(part["scrolls"] == part["says"] for part in parts)
    assert any(part["scrolls"] for part in parts) == (width == 400)
    assert all(part["least"] is None or part["least"] >= 9.7 for part in parts)  # pixels
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_one_operator_of_each_kind_is_a_sentence_not_a_table(trained):
    html = SECTIONS["operators"]([RunFolder(trained)])
    assert "one operator of each kind (crossover " in html and "<table" not in html


def test_the_page_is_readable_in_both_themes(written, browser):
    """Contrast of every text on its ground: WCAG 2's 4.5 to 1."""
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        view = context.new_page()
        view.goto(written.as_uri())
        assert view.evaluate(CONTRASTS) > 4.5, scheme
        context.close()


CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (part) => {
    for (; part; part = part.parentElement) {
      const found = numbers(getComputedStyle(part).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
  };
  const parts = [...document.querySelectorAll("body *")].filter((part) => part.offsetHeight && !part.closest("svg")
    && [...part.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return Math.min(...parts.map((part) => {
    const [a, b] = [light(numbers(getComputedStyle(part).color)), light(ground(part))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
}"""
