"""CITATION.cff and CHANGELOG.md say what the code says."""

import re
import tomllib
from pathlib import Path

import yaml

from training.config import Config
from training.removed import REMOVED

ROOT = Path(__file__).parent.parent
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_citation_has_what_the_format_asks_for_and_the_version():
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["version"] == project["version"]


def test_the_paper_is_the_one_that_the_readme_cites():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (paper,) = CITATION["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for said in (authors, paper["title"], str(paper["year"]), paper["identifiers"][0]["value"]):
        assert said in readme


def test_the_changelog_names_every_removed_option_and_no_other_that_is_not_there():
    named = set(re.findall(r"`((?:data|model|mix|search|train|run)\.[a-z_]+)", CHANGELOG))
    assert set(REMOVED) <= named
    for option in named - set(REMOVED):
        section, _, name = option.partition(".")
        assert name in Config.model_fields[section].annotation.model_fields, option
