"""A run that loses its folder, or a part of it, says so and stops; no reader takes parts that do not belong together."""

import json
import shutil

import pytest

from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError
from evo.errors import UserError
from tests.conftest import TINY
from tests.test_resume import OFTEN, At, killed, tiny
from training.config import load_config
from training.experiment import search_batch
from training.models.trained import load_trained
from training.progress import Progress
from training.train import train


def remove(folder):
    shutil.rmtree(folder)


def move(folder):
    folder.rename(folder.with_name("elsewhere"))


def replace_by_a_copy(folder):
    move(folder)
    shutil.copytree(folder.with_name("elsewhere"), folder)


def replace_by_a_new_run(folder):
    replace_by_a_copy(folder)
    rewritten(folder / "config.json", lambda config: config.update(id="0123456789abcdef"))


def cut_the_log(folder):
    (folder / "log.jsonl").write_text("")


def remove_the_log(folder):
    (folder / "log.jsonl").unlink()


LOSSES = {
    remove: "the folder was removed or moved",
    move: "the folder was removed or moved",
    replace_by_a_copy: "was cut or replaced while the run wrote it",
    replace_by_a_new_run: "the folder was replaced while the run wrote it",
    cut_the_log: "its log.jsonl was cut",
    remove_the_log: "its log.jsonl was removed or moved",
}


@pytest.mark.parametrize("lose", LOSSES)
def test_a_training_that_loses_its_folder_stops_with_a_line(tmp_path, lose):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=LOSSES[lose]) as caught:
        train(tiny("mix.name=plain", "train.save_minutes=999"), folder, progress=At(5, lambda: lose(folder)))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    if lose is move:  # the log went with it, and tells how it ended
        assert RunFolder(tmp_path / "elsewhere").events[-1]["event"] == "failed"
    if lose in (remove, move):
        assert not folder.exists()  # nothing is begun there again


def test_one_that_saves_often_does_not_make_the_folder_again(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="the folder was removed or moved"):
        train(tiny("mix.name=evolved", OFTEN), folder, progress=At(5, lambda: remove(folder)))
    assert not folder.exists()


class AtGeneration(Progress):
    def __init__(self, act):
        super().__init__(visible=False)
        self.left, self.act = 2, act

    def update(self, line, *, final=False):
        self.left -= 1
        if self.left == 0:
            self.act()


@pytest.mark.parametrize("lose", [remove, move, replace_by_a_copy, replace_by_a_new_run])
def test_so_does_a_search(trained, tmp_path, lose):
    folder, config = tmp_path / "search", load_config("digits", TINY)
    options = [*TINY, "search.generations=6", "search.batch_size=16"]
    with pytest.raises(UserError, match=LOSSES[lose]):
        search_batch(load_config("digits", options), folder, trained, config, AtGeneration(lambda: lose(folder)))


def test_the_command_ends_with_status_2_and_one_line(cli, out, monkeypatch):
    import training.train

    progress = At(5, lambda: remove(out / "own"))
    monkeypatch.setattr(training.train, "Progress", lambda **_: progress)
    words = [word for option in (*TINY, "mix.name=plain", "run.name=own") for word in ("-s", option)]
    status, text, error = cli("train", "digits", *words)
    assert status == 2 and "accuracy" not in text and not (out / "own").exists()
    assert [line for line in error.splitlines() if line.startswith("run: ")] == [
        f"run: {out / 'own'}: the folder was removed or moved while the run wrote it; it stops"
    ]


# Readers


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copied")
    return tmp_path / "copied"


def rewritten(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def load(folder):
    import torch

    return load_trained(load_config("digits", TINY), folder, torch.device("cpu"))


def test_weights_of_another_run_are_refused(copied):
    load(copied)
    rewritten(copied / "config.json", lambda config: config.update(id="0123456789abcdef"))
    with pytest.raises(UserError, match="its checkpoint is of another run than its config.json"):
        load(copied)
    with pytest.raises(RunFolderError, match=r"log.jsonl is of another run than config.json"):
        _ = RunFolder(copied).events
    with pytest.raises(RunFolderError, match=r"generations.jsonl is of another run than config.json"):
        _ = RunFolder(copied).generations


def test_weights_of_another_step_than_the_log_ends_at_are_refused(copied):
    log = (copied / "log.jsonl").read_text().splitlines()
    end = json.loads(log[-1])
    assert end["event"] == "end" and end["steps"] == 20
    (copied / "log.jsonl").write_text("\n".join([*log[:-1], json.dumps({**end, "steps": 40})]) + "\n")
    with pytest.raises(UserError, match="its log ends at step 40, its checkpoint is of step 20"):
        load(copied)
    (copied / "log.jsonl").write_text("\n".join(log[:-1]) + "\n")  # not ended: the weights are of some step so far
    load(copied)


def test_a_run_does_not_go_on_from_the_checkpoint_of_another(tmp_path):
    folder = killed(tmp_path, 5)
    other = killed(tmp_path / "other", 5)
    shutil.rmtree(folder / "checkpoint")
    shutil.copytree(other / "checkpoint", folder / "checkpoint")
    with pytest.raises(UserError, match="its checkpoint is of another run"):
        train(tiny("mix.name=plain", OFTEN), folder, resume=True)


def test_runs_of_older_versions_have_no_id_and_are_read(copied):
    rewritten(copied / "config.json", lambda config: config.pop("id"))
    log = (copied / "log.jsonl").read_text().splitlines()
    (copied / "log.jsonl").write_text("\n".join(['{"schema": 2}', *log[1:]]) + "\n")
    assert RunFolder(copied).id is None and RunFolder(copied).result is not None
