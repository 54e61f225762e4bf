"""A finished model that is replaced: whatever fails, and wherever the run is killed, one of the two is there whole."""

import errno
import os
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch

from llm_sepweight import Manifest, SepweightWriter, TensorSource, dump, extract, load, replacing, verify

# What the interpreter tells audit hooks before it changes or opens something.
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate")


class Hook:
    """Calls `then` before the change of number `at` below `folder`; counts all of them."""

    def __init__(self):
        self.folder, self.at, self.then, self.count = None, 0, None, 0
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.folder is None or event not in CHANGES or not str(arguments[0]).startswith(str(self.folder)):
            return
        self.count += 1
        if self.count == self.at:
            self.then()

    @contextmanager
    def set(self, folder, at, then):
        self.at, self.then, self.count, self.folder = at, then, 0, folder
        try:
            yield
        finally:
            self.folder = None


@pytest.fixture(scope="module")
def hook():
    # a hook stays for as long as the process
    return Hook()


def write_over(path, tmp_path):
    with SepweightWriter(path, overwrite=True, needed=10) as writer:
        writer.write_section("begin", [TensorSource.of("new", torch.ones(4))])
        writer.write_beside(tmp_path / "vocab", "tokenizer.json")
        writer.write_beside(tmp_path / "vocab", "templates/a.jinja")
        writer.drop({"vocab.txt"})
        writer.write_section("end", [TensorSource.of("new", torch.ones(4))])
        writer.commit(model_name="new", config={}, dtype="float32", n_layers=0, tied={})


def copy_over(path, tmp_path):
    extract(tmp_path / "other", path, "b", overwrite=True)


def add_to(path, tmp_path):
    tensors = {"0": torch.ones(3), "1": torch.ones(3)}
    dump(decider=lambda name: ["mid", name, "extra"], state_dict=tensors, out_path=path)


RUNS = pytest.mark.parametrize("run", [write_over, copy_over, add_to])


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def case(model, tmp_path):
    """A finished model with files of others beside it, and a model to copy over it."""
    (tmp_path / "vocab").write_text("new")
    (model.path / "vocab.txt").write_text("old")
    (model.path / "tokenizer.json").write_text("old")
    (model.path / "notes").mkdir()
    (model.path / "notes" / "a").write_text("mine")
    with SepweightWriter(tmp_path / "other") as writer:
        writer.write_section("begin", [TensorSource.of("new", torch.ones(4))])
        writer.commit(model_name="new", config={}, dtype="float32", n_layers=0, tied={})
    return model.path


def put_back(case, kept):
    shutil.rmtree(case)
    shutil.copytree(kept, case)


def fail():
    raise OSError(errno.EIO, "the disk broke")


def die():
    os._exit(9)


def killed(work):
    """Whether `work`, in a process of its own, was ended by `die`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@RUNS
def test_what_fails_at_any_change_leaves_the_old_model_or_the_new_one_and_nothing_else(case, tmp_path, hook, run):
    kept = shutil.copytree(case, tmp_path / "kept")
    old = content(case)
    with hook.set(tmp_path, 0, fail):
        run(case, tmp_path)
    verify(case, "b")
    new, changes, stayed = content(case), hook.count, 0
    assert changes > 15
    for at in range(1, changes + 1):
        put_back(case, kept)
        with hook.set(tmp_path, at, fail):
            try:
                run(case, tmp_path)
            except OSError as error:
                assert error.errno == errno.EIO, at  # noqa: PT017 - there may be none, where only rubbish was left
                stayed += 1
        assert content(case) in (old, new), at
        verify(case, "b")
    assert stayed > changes / 2


@RUNS
def test_a_run_killed_at_any_change_leaves_the_old_model_or_the_new_one_and_the_next_run_succeeds(
    case, tmp_path, hook, run
):
    kept = shutil.copytree(case, tmp_path / "kept")
    old = content(case)
    with hook.set(tmp_path, 0, die):
        run(case, tmp_path)
    new, changes = content(case), hook.count
    for at in range(1, changes + 1, 1 if run is write_over else 4):
        put_back(case, kept)
        with hook.set(tmp_path, at, die):
            assert killed(lambda: run(case, tmp_path))
        verify(case, "b")
        found = {name: data for name, data in content(case).items() if not name.startswith(".replacement")}
        assert found in (old, new), at
        if found == old:
            run(case, tmp_path)
            assert content(case) == new
            assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "model", "other", "vocab"]


@RUNS
def test_where_directories_cannot_be_exchanged_files_are(case, tmp_path, monkeypatch, run):
    kept = shutil.copytree(case, tmp_path / "kept")
    run(case, tmp_path)
    new = content(case)
    put_back(case, kept)
    monkeypatch.setattr(replacing, "_exchange", lambda one, other: False)
    run(case, tmp_path)
    assert content(case) == new
    put_back(case, kept)
    # as for a mount point
    monkeypatch.setattr(replacing, "replaced_path", lambda directory: directory / "nowhere" / "x")
    run(case, tmp_path)
    assert content(case) == new
    verify(case, "b")


def test_a_model_behind_a_link_is_replaced_where_it_lies(case, tmp_path):
    (tmp_path / "link").symlink_to(case)
    write_over(tmp_path / "link", tmp_path)
    assert (tmp_path / "link").is_symlink()
    assert Manifest.read(case).model_name == "new"


def test_tensors_in_use_stay_what_they_were(case, tmp_path, model):
    layer = load(case, "1-2").mid[1]["mlp.weight"]
    write_over(case, tmp_path)
    assert torch.equal(layer, model.layers[1])
