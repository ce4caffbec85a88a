"""runs/examples/quickstart.ipynb: its cells run, and it is kept with what they showed.

The cells run in this process, one after another: a kernel would import torch once more, for no other result. After a
change write it anew, with what the extra `dev` installs: jupyter execute --inplace runs/examples/quickstart.ipynb
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from statistics import mean

import matplotlib
import pytest
import torch

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "runs" / "examples" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def shown(cell):
    """The kinds of what a cell has shown: stream, image/png, ..., error."""
    return [kind for output in cell["outputs"] for kind in output.get("data", {output["output_type"]: None})]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_cells_run_and_find_what_the_notebook_tells(monkeypatch, tmp_path):
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads, namespace = torch.get_num_threads(), {}
    try:
        with matplotlib.rc_context():
            for number, cell in enumerate(CODE, 1):
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    finally:
        torch.set_num_threads(threads)
        matplotlib.pyplot.close("all")
    losses = namespace["losses"]
    assert mean(losses[-20:]) < 0.8 * mean(losses[:20])
    assert namespace["accuracies"][-1] > 70
    records = namespace["search"].records
    assert records[-1]["best"] > 1.3 * records[0]["best"]
    assert (namespace["folder"] / "patterns.json").is_file() and len(namespace["bank"]) > 10
    assert namespace["soft_labels"].sum(1).allclose(torch.ones(64))
    by_search = namespace["by_search"]
    assert (by_search.last() >= by_search.first()).all() and by_search.last().mean() > by_search.first().mean()


def test_it_is_kept_as_it_ran():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    kinds = [kind for cell in CODE for kind in shown(cell)]
    assert kinds.count("image/png") == 6 and set(kinds) <= {"image/png", "text/plain", "stream"}
    assert NOTEBOOK.stat().st_size < 300_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", re.sub(r'"image/png": "[^"]*"', "", text))


def test_its_links_lead_to_files():
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert targets and all((NOTEBOOK.parent / target).is_file() for target in targets)
