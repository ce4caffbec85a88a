"""Each command at tiny size, and each mistake: its line and status 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.run_folder import RunFolder
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
SET = [word for override in TINY for word in ("-s", override)]


@pytest.fixture
def tiny(trained, out):
    """The tiny run under the name `tiny`."""
    shutil.copytree(trained, out / "tiny")
    return out / "tiny"


def test_help_lists_commands_in_a_persons_order(cli):
    status, text, _ = cli("--help")
    commands = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
    assert status == 0
    assert commands == [
        "demo",
        "train",
        "prepare",
        "search",
        "ablate",
        "compare",
        "results",
        "list",
        "show",
        "curves",
        "patterns",
        "gallery",
        "lineage",
        "report",
        "watch",
        "transfer",
        "bench",
        "test",
    ]


def test_train_names_its_folder_and_says_where_things_are(cli, out):
    for number in (1, 2):
        status, text, _ = cli("train", "digits", *SET, "-s", "mix.name=patchmix")
        assert status == 0 and str(out / f"digits-patchmix-{number}") in text and "accuracy" in text
    status, text, progress = cli("train", "digits", *SET, "-s", "run.name=own")
    assert status == 0 and "fitness" in text and "evolved: epoch 2/2" in progress
    assert RunFolder(out / "own").result is not None


def test_resume(cli, tiny):
    status, _, error = cli("train", "--resume", "tiny")
    assert status == 2 and "run tiny has ended at epoch 2; there is nothing to resume" in error
    events = (tiny / "log.jsonl").read_text().splitlines()
    (tiny / "log.jsonl").write_text("\n".join(events[:-1]) + "\n")  # as if killed just before the end
    status, text, _ = cli("train", "--resume", "tiny")
    assert status == 0 and "accuracy" in text
    status, _, error = cli("train", "--resume", "tiny", "-s", "train.lr=1")
    assert status == 2 and "has ended" in error


def test_search_writes_a_run_of_its_own(cli, tiny, out):
    status, text, _ = cli(
        "search", "tiny", "-s", "search.generations=4", "-s", "search.population=6", "-s", "search.batch_size=20"
    )
    assert status == 0
    run = RunFolder(out / "tiny-search-1")
    assert run.generations["generation"].tolist() == [1, 2, 3, 4]
    assert run.result["last"] >= run.result["first"] and run.result["search_forwards"] < run.result["full_forwards"]
    for name in ("patterns/patterns.json", "figures/curves.png", "figures/patterns.png", "figures/gallery.png"):
        assert (run.path / name).is_file() and str(run.path / name) in text
    assert cli("report", "tiny-search-1")[0] == 0


def test_pictures_and_pages(cli, tiny):
    for command, names in (
        ("curves", ("curves.png", "curves.svg", "curves.csv")),
        ("patterns", ("patterns.json", "patterns.npz", "statements.json", "patterns.png")),
        ("gallery", ("gallery.png",)),
        ("report", ("report.html",)),
    ):
        status, text, error = cli(command, "tiny")
        assert status == 0, error
        for name in names:
            path = next(tiny.rglob(name))
            assert str(path) in text and path.stat().st_size > 0


def test_the_report_marks_options_that_differ_from_their_defaults(cli, tiny):
    cli("report", "tiny")
    page = (tiny / "report.html").read_text()
    assert "<strong>16</strong> <span class='changed'>changed</span>" in page  # data.subset=16


def test_patterns_of_one_run_train_another(cli, tiny):
    cli("patterns", "tiny")
    bank = tiny / "patterns" / "patterns.json"
    status, text, _ = cli("train", "digits", *SET, "-s", "mix.name=bank", "-s", f"mix.bank={bank}")
    assert status == 0 and "accuracy" in text


def test_a_reference_and_a_start_may_be_runs_by_name(cli, tiny, out):
    options = ("-s", "search.objective=image_reducible", "-s", "search.reference=tiny", "-s", "search.start=tiny")
    status, _, error = cli("train", "digits", *SET, *options, "-s", "run.name=second")
    assert status == 0, error
    recorded = RunFolder(out / "second").config["search"]
    assert recorded["reference"] == str(tiny) and recorded["start"] == str(tiny / "patterns" / "bank.npz")
    status, _, error = cli("train", "digits", *SET, "-s", "search.start=tinny")
    assert status == 2 and "no run 'tinny'" in error


def test_a_search_on_a_run_without_one_asks_its_model_alone(cli, out):
    mixed = ("-s", "mix.name=patchmix", "-s", "search.objective=image_reducible", "-s", "run.name=mixed")
    assert cli("train", "digits", *SET, *mixed)[0] == 0
    small = ("-s", "search.population=4", "-s", "search.generations=2", "-s", "search.batch_size=8")
    status, _, error = cli("search", "mixed", *small)
    assert status == 0, error
    assert RunFolder(out / "mixed-search-1").config["search"]["objective"] == "hard"
    status, _, error = cli("search", "mixed", *small, "-s", "search.objective=image_reducible")
    assert status == 2 and "kept no weight average" in error


def test_transfer_probes_a_trained_backbone(cli, tiny):
    status, text, _ = cli("transfer", "tiny", "--dataset", "digits", "-s", "data.subset=20")
    assert status == 0
    trained, untrained = text.splitlines()[1:]
    assert "tiny" in trained and "untrained" in untrained
    assert all(10 < float(line.split("%")[0].split()[-1]) <= 100 for line in (trained, untrained))


def test_bench_writes_its_table(cli, tmp_path, monkeypatch):
    import runs.benchmarks as benchmarks
    import runs.benchmarks.compose_speed as compose

    def once(contestants, seconds):
        for call in contestants.values():
            call()
        return {name: [1.0] for name in contestants}

    monkeypatch.setattr(benchmarks, "PROJECT", tmp_path)
    monkeypatch.setattr(compose, "SHAPES", {"4x3x8x8": (4, 3, 8, 8)})
    monkeypatch.setattr(compose, "_interleaved", once)
    status, text, _ = cli("bench", "compose", "--quick")
    assert status == 0 and "torchvision CutMix" in text
    written = json.loads((tmp_path / "runs" / "results" / "bench" / "compose-quick.json").read_text())
    assert written["schema"] == 1 and written["command"] == "./run bench compose --quick"
    assert {"case", "name", "version", "median", "minimum", "unit"} == set(written["rows"][0])
    assert {"case", "over", "value", "target"} == set(written["ratios"][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "digts"), "no recipe 'digts'; did you mean 'digits'?"),
        (("train",), "expected a RECIPE, or --resume RUN"),
        (("train", "digits", "-s", "train.epohcs=1"), "did you mean 'train.epochs'?"),
        (("train", "digits", "-s", "train.lr=.nan"), "train.lr"),
        (
            ("train", "digits", "-s", "mix.name=bank", "-s", "mix.bank=none.json"),
            "none.json; `./run patterns RUN` writes one",
        ),
        (("train", "digits", "-s", "model.grid=5"), "the largest grid that fits is 4"),
        (("train", "digits", "-s", "train.batch_size=5000"), "larger than the training set of 1437"),
        (("train", "digits", "-s", "run.device=cuda:7"), "run.device=cuda:7 is not there"),
        (("train", "digits", "-s", "data.subset=1000"), "data.subset: class '0' has"),
        (
            ("train", "cifar10-small", "-s", "data.download=false", "-s", "data.root=/nowhere"),
            "no sound files in /nowhere",
        ),
        (("train", "--resume", "none"), "no run 'none'"),
        (("search", "none"), "no run 'none'"),
        (
            ("search", "tiny", "-s", "search.batch_size=99999"),
            "search.batch_size=99999 is larger than the training set of 160",
        ),
        (("search", "tiny", "-s", "model.grid=2"), "the run was trained with 4"),
        (("curves", "none"), "no run 'none'"),
        (("patterns", "none"), "no run 'none'"),
        (("report", "none"), "no run 'none'"),
        (("transfer", "none"), "no run 'none'"),
        (("transfer", "tiny", "--dataset", "imagenet"), "data.name: there is no 'imagenet'"),
        (("ablate", "none"), "no ablation 'none'"),
        (("bench", "none"), "no benchmark 'none'; there are compose"),
    ],
)
def test_mistakes_are_one_line_and_status_2(cli, tiny, arguments, words):
    status, _, error = cli(*arguments)
    assert status == 2 and words in error
    assert len(error.strip().splitlines()) == 1 and error.startswith("run: ")


def test_a_bug_shows_itself(cli, tiny, monkeypatch):
    import analysis.curves

    def broken(runs, out, dark):
        raise ValueError("a bug")

    monkeypatch.setattr(analysis.curves, "write_curves", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli("curves", "tiny")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )


WITHOUT_TORCH = [
    ["--help"],
    ["train", "digits", "-s", "train.epochs=0"],
    ["curves", "tiny"],
    ["patterns", "tiny"],
    ["gallery", "tiny"],
    ["report", "tiny"],
    ["list"],
    ["show", "tiny"],
]


def test_no_torch_for_help_config_errors_and_plots(tiny, out):
    done = python(
        "import sys\nfrom runs.__main__ import main\n"
        f"for arguments in {WITHOUT_TORCH!r}:\n"
        "    try: main(arguments)\n    except SystemExit: pass\n"
        "    heavy = ('torch', 'torchvision', 'scipy.stats', 'matplotlib.pyplot')\n"
        "    print('loaded', arguments[0], [module for module in heavy if module in sys.modules])\n",
        EVOMIX_OUT=str(out),
    )
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded ")]
    assert loaded == [f"loaded {arguments[0]} []" for arguments in WITHOUT_TORCH], done.stderr
    assert (out / "tiny" / "report.html").is_file() and (out / "tiny" / "figures" / "curves.png").is_file()


def test_the_launcher_needs_a_new_enough_python(tmp_path):
    shutil.copy(ROOT / "run", tmp_path / "run")
    shutil.copy(ROOT / "requirements.txt", tmp_path / "requirements.txt")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "dirname", "cmp"):
        (tools / tool).symlink_to(shutil.which(tool))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run([str(tmp_path / "run"), "demo"], capture_output=True, text=True, env={"PATH": str(tools)})
    assert done.returncode == 2 and "Python 3.11 or later is needed" in done.stderr
