"""Run folders: found, read forgivingly, those of older versions as well."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.log_lines import read_lines
from analysis.run_folder import RunFolder, find_run, first_to_last, is_locked
from analysis.run_format import SCHEMA, RunFolderError
from analysis.snapshots import read_snapshot
from evo.errors import UserError
from evo.locks import LOCK, take_lock
from training.config import load_config
from training.progress import Progress
from training.train import train

VERSION_1 = Path(__file__).parent / "data" / "runs-v1"


@pytest.fixture
def run(trained, out):
    """A copy of the tiny run that a test may write into."""
    shutil.copytree(trained, out / "tiny")
    return find_run("tiny")


class At(Progress):
    """A progress line at which something is raised."""

    def __init__(self, error):
        super().__init__(visible=False)
        self.error = error

    def update(self, text, final=False):
        if final:
            raise self.error


def test_runs_are_found_by_name_and_by_path(run, out):
    assert find_run("tiny").path == find_run(str(out / "tiny")).path
    assert find_run("tiny").name == "tiny"
    with pytest.raises(RunFolderError, match=r"no run 'tinny' .*did you mean 'tiny'\?"):
        find_run("tinny")


def test_torn_last_lines_are_forgiven_and_damaged_ones_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"schema": 2}\n{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    for damage in ("rubbish", "[1]", '{"a": 1}, {"a": 3}'):
        path.write_text(f'{{"a": 1}}\n{damage}\n{{"a": 2}}\n')
        with pytest.raises(RunFolderError, match="line 2 is damaged: '"):
            read_lines(path)


@given(st.lists(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.none())), st.integers(0, 60))
def test_what_is_whole_of_a_log_is_read(tmp_path_factory, records, torn):
    """But for the line a crash has cut."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    text = b"".join(json.dumps(record).encode() + b"\n" for record in [{"schema": 2}, *records])
    path.write_bytes(text[: max(len(text) - torn, 0)])
    found = read_lines(path)
    assert found == records[: len(found)]
    whole = path.read_bytes().count(b"\n") - 1
    assert len(found) >= whole


def test_newer_versions_are_refused(run):
    config = json.loads((run.path / "config.json").read_text())
    assert config["schema"] == SCHEMA
    (run.path / "config.json").write_text(json.dumps({**config, "schema": 3}))
    with pytest.raises(RunFolderError, match=r"config.json has schema 3, this version reads 1 to 2; update Evomix"):
        _ = RunFolder(run.path).config
    log = run.path / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[0]) == {"schema": 2, "id": config["id"]}
    log.write_text(log.read_text().replace('{"schema": 2', '{"schema": 3', 1))
    with pytest.raises(RunFolderError, match=r"log.jsonl has schema 3"):
        _ = RunFolder(run.path).events


@pytest.mark.parametrize("name", ["evolved", "plain", "search"])
def test_runs_of_version_1_are_read(name):
    run = RunFolder(VERSION_1 / name)
    assert run.config["schema"] == run.environment["schema"] == 1
    assert run.state == "done" and run.result["seconds"] > 0 and run.start["grid"] == 4
    assert len(run.epochs) == {"evolved": 4, "plain": 3, "search": 0}[name]
    assert len(run.generations) == {"evolved": 12, "plain": 0, "search": 5}[name]
    for snapshot in run.snapshots():
        rows = len(snapshot["gallery_scores"])
        assert rows == 8 and snapshot["gallery_kind"].tolist() == ["best"] * 4 + ["worst"] * 4
        assert snapshot["gallery_mixed"].shape == snapshot["gallery_pictures"][snapshot["gallery_own"]].shape
        assert set(snapshot["gallery_generation"]) == {snapshot["generation"].max()}
        assert_composed(snapshot)


def assert_composed(snapshot):
    """Every mixed picture is its sources' under its mask, its labels are theirs, its score its mean cell loss."""
    own, partner = (snapshot["gallery_pictures"][snapshot[f"gallery_{name}"]] for name in ("own", "partner"))
    pixels = np.kron(snapshot["gallery_masks"], np.ones((2, 2), bool))[:, None]
    assert np.array_equal(np.where(pixels, own, partner), snapshot["gallery_mixed"])
    losses = snapshot["gallery_cell_losses"].mean((1, 2))
    np.testing.assert_allclose(losses, snapshot["gallery_scores"], rtol=1e-5)


def test_galleries_show_every_generation(trained):
    for snapshot in RunFolder(trained).snapshots():
        assert_composed(snapshot)
        kinds, generations = snapshot["gallery_kind"], snapshot["gallery_generation"]
        assert set(generations) == {1, 2}
        for generation in (1, 2):
            here = generations == generation
            first = np.flatnonzero(snapshot["generation"] == generation)[0]
            for row, mask, labels, own in zip(
                *(snapshot[f"gallery_{name}"][here] for name in ("row", "masks", "labels", "own")), strict=True
            ):
                assert np.array_equal(snapshot["masks"][first, row], mask)
                partner = snapshot["pairings"][first, row]
                assert labels.tolist() == snapshot["labels"][[row, partner]].tolist() and own >= 0
            scores = {kind: snapshot["gallery_scores"][here & (kinds == kind)] for kind in ("best", "worst")}
            assert len(scores["best"]) == len(scores["worst"]) == 4
            assert (np.diff(np.concatenate([scores["best"], scores["worst"]])) <= 0).all()
        way = kinds == "way"
        assert generations[way].tolist() == [1, 2] and len(set(snapshot["gallery_row"][way])) == 1
        assert np.diff(snapshot["gallery_scores"][way])[0] >= 0


def test_damaged_snapshots_are_named(run):
    path = next((run.path / "elites").glob("*.npz"))
    whole = path.read_bytes()
    for damaged in (b"", b"rubbish", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=f"{path} cannot be read"):
            read_snapshot(path)


def test_states(tmp_path, run):
    assert run.state == "done" and run.wall_seconds >= 0
    tiny = load_config("digits", ["mix.name=plain", "data.subset=16", "model.width=8", "train.epochs=2"])
    for name, error, state, words in (
        ("bug", RuntimeError("out of luck"), "failed", "RuntimeError: out of luck"),
        ("mistake", UserError("lower it"), "failed", "lower it"),
        ("person", KeyboardInterrupt(), "stopped", None),
    ):
        folder = tmp_path / name
        with pytest.raises(type(error)):
            train(tiny, folder, progress=At(error))
        found = RunFolder(folder)
        assert found.state == state and found.events[-1].get("reason") == words
    train(tiny, tmp_path / "person", resume=True)
    assert RunFolder(tmp_path / "person").state == "done"
    log = tmp_path / "person" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert RunFolder(tmp_path / "person").state == "killed"
    with take_lock(tmp_path / "person"):
        assert RunFolder(tmp_path / "person").state == "running"
    assert RunFolder(tmp_path / "person").state == "killed"


def test_another_process_holds_a_lock(tmp_path):
    code = f"import fcntl,sys; f=open({str(tmp_path / LOCK)!r},'a'); fcntl.flock(f,2); print('held',flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(tmp_path / LOCK)
        holder.stdin.close()
    assert not is_locked(tmp_path / LOCK) and not is_locked(tmp_path / "missing")


def test_reading_imports_neither_torch_nor_pandas():
    code = (
        "import sys; from pathlib import Path; from analysis.run_folder import RunFolder\n"
        f"run = RunFolder(Path({str(VERSION_1 / 'evolved')!r})); run.events, run.state, run.snapshots()\n"
        "assert not {'torch', 'pandas', 'deap', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_first_to_last_are_means_over_searches(run):
    raw = run.generations
    ends = [raw[raw["generation"] == generation]["best"].mean() for generation in (1, 2)]
    assert first_to_last(run) == pytest.approx(tuple(ends))


def test_what_is_logged_after_a_crash_begins_a_line_of_its_own(tmp_path):
    tiny = load_config("digits", ["mix.name=plain", "data.subset=16", "model.width=8", "train.epochs=2"])
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, folder, progress=At(KeyboardInterrupt()))
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"event": "epoch", "ti')
    latest = folder / "checkpoint" / "latest.json"
    latest.rename(folder / "latest.json")
    for _ in range(2):
        with pytest.raises(UserError):
            train(tiny, folder, resume=True)
        assert RunFolder(folder).state == "failed"
    (folder / "latest.json").rename(latest)
    train(tiny, folder, resume=True)
    assert [event["event"] for event in RunFolder(folder).events] == ["start", "epoch", "resume", "epoch", "end"]
