"""What tests share: a tiny run, a place for run folders, the command line as a call."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, and no limit of time for one, which a busy machine would not keep.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")
# One thread: results are the same bit for bit, and the suite leaves the machine usable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A suite that a shell started in the background, or under nohup, inherits signals that are ignored; tests send them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

TINY = (
    "data.subset=16",
    "model.width=8",
    "train.batch_size=16",
    "train.epochs=2",
    "train.warmup=0",
    "search.population=4",
    "search.generations=2",
    "run.threads=1",
)


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run folders of the test go here."""
    monkeypatch.setenv("EVOMIX_OUT", str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny evolved run on digits; tests must not change it."""
    from training.config import load_config
    from training.train import train

    folder = tmp_path_factory.mktemp("trained") / "tiny"
    train(load_config("digits", TINY), folder)
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options for a folder of 96 colour images, which are cropped, mirrored and partly erased."""
    import numpy as np
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for part, count in (("train", 32), ("val", 4)):
        for name in "abc":
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:03d}.png")
    return ("data.name=folder", f"data.root={root}", "data.image_size=16", "data.subset=null", "data.cutout=4")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line: arguments -> exit status, output, error output."""
    from runs.__main__ import main

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(list(arguments))
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where real data sets may lie; tests skip with a reason where theirs does not."""
    return Path(os.environ.get("EVOMIX_DATA") or Path(__file__).parent.parent / "data")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; tests of pages skip with a reason where it, or playwright, is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the extra `dev` has it")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
