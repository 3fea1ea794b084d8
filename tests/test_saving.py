"""Where a synset is saved; and a save that fails, is killed or meets another one leaves a whole synset, or none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import minari
import pytest
from typer.testing import CliRunner

from minari_distill import files, layout, one_step_episodes
from minari_distill.cli import app
from minari_distill.errors import SynsetError
from minari_distill.loading import load_synset
from minari_distill.synset import Synset
from minari_distill.targets import refuse_existing
from tests.conftest import write_dataset
from tests.synsets import ID, assert_same, contents, make_synset

# -------------------------------------------------------------------------------------- where it is saved


def test_a_folder_as_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder needs no id for a name; the dataset inside gets one."""
    for target, dataset_id in [("out/run 3", "run-3-v0"), ("out/hopper-v2", "hopper-v2")]:
        folder = make_synset().save(tmp_path / target)
        assert folder == tmp_path / target
        assert minari.MinariDataset(folder / "data").id == dataset_id
    monkeypatch.chdir(tmp_path)
    assert make_synset().save("./here") == tmp_path / "here"
    assert len(load_synset("./here")) == 6


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "hopper distilled",
            r"no Minari id.*'me/hopper-distilled-v0'; for a folder write './hopper distilled'",
        ),
        ("me/hopper", "no Minari id.*'me/hopper-v0'"),
        ("m/hopper-v0", "namespaces of two characters or more"),
        ("me/hopper.2-v0", "no Minari id.*'me/hopper-2-v0'"),
        ("me/hopper--x-v0", "the Hub refuses the name 'hopper--x-v0'"),
        ("-me/hopper-v0", "the Hub refuses the name '-me'"),
        ("me/" + "x" * 99 + "-v0", "at most 96 characters"),
        ("mé/hopper-v0", "no Minari id"),
    ],
)
def test_bad_ids(target, message, minari_store: Path):
    """Refused before anything is written, with an id that would do."""
    with pytest.raises(SynsetError, match=message):
        make_synset().save(target)
    with pytest.raises(SynsetError, match=message):
        refuse_existing(target)
    assert not minari_store.exists() or not any(minari_store.iterdir())


def test_an_existing_id_needs_overwrite():
    """Nothing is replaced unasked; with overwrite the new one is there, whole."""
    first, second = make_synset(seed=1), make_synset(3, seed=2)
    first.save(ID)
    for call in (lambda: second.save(ID), lambda: refuse_existing(ID)):
        with pytest.raises(SynsetError, match=f"'{ID}' exists already.*overwrite=True"):
            call()
    assert_same(load_synset(ID), first)
    second.save(ID, overwrite=True)
    assert_same(load_synset(ID), second)
    refuse_existing("me/other-v0")


def test_an_ordinary_dataset_is_never_overwritten(minari_store: Path):
    """overwrite=True replaces synsets only."""
    write_dataset("test/pendulum-v0")
    before = contents(minari_store)
    with pytest.raises(SynsetError, match="is no synset: it is not overwritten"):
        make_synset().save("test/pendulum-v0", overwrite=True)
    assert contents(minari_store) == before


# ------------------------------------------------------------------------------------- faults while saving


def fail(error: BaseException):
    raise error


def fail_at(monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException):
    """Let a step of the save fail."""

    def stop(*args, **kwargs):
        fail(error)

    if where == "Minari's writing":
        monkeypatch.setattr(layout.MinariStorage, "update_metadata", stop)
    elif where == "in the middle of the episodes":
        fill, calls = one_step_episodes._fill, iter(range(100))
        monkeypatch.setattr(one_step_episodes, "_fill", lambda *a: stop() if next(calls) == 3 else fill(*a))
    elif where == "compaction":
        monkeypatch.setattr(one_step_episodes, "_copy_group", stop)
    elif where == "metadata":
        monkeypatch.setattr(layout, "write_json", stop)
    elif where == "parquet":
        monkeypatch.setattr(layout.pq, "write_table", stop)
    elif where == "flush":
        monkeypatch.setattr(files, "_flush_tree", stop)
    else:
        monkeypatch.setattr(files, "_exchange", stop)
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda self, to: stop() if self.suffix == ".partial" else rename(self, to)
        )


MOMENTS = [
    "Minari's writing", "in the middle of the episodes", "compaction", "metadata", "parquet", "flush", "rename",
]  # fmt: skip


@pytest.mark.parametrize("where", MOMENTS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_a_save_that_fails_changes_nothing(where, error, exists, minari_store: Path, monkeypatch):
    """A full disk or Ctrl-C at any moment: not a file more, not a byte changed; afterwards it works."""
    old, new = make_synset(seed=1), make_synset(seed=2)
    minari_store.mkdir()
    if exists:
        old.save(ID)
    before = contents(minari_store)
    with monkeypatch.context() as patched:
        fail_at(patched, where, error)
        expected, message = (
            (SynsetError, "No space left on device. Nothing was left behind")
            if isinstance(error, OSError)
            else (KeyboardInterrupt, None)
        )
        with pytest.raises(expected, match=message):
            new.save(ID, overwrite=True)
    assert contents(minari_store) == before
    if exists:
        assert_same(load_synset(ID), old)
    new.save(ID, overwrite=True)
    assert_same(load_synset(ID), new)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from minari_distill.loading import load_synset
from tests.synsets import assert_same, make_synset

target, old, new = Path({target!r}), make_synset(16, seed=1), make_synset(16, seed=2)
old.save(target)
for kill in range(12):
    child = os.fork()
    while not child:
        new.save(target, overwrite=True)
    time.sleep(random.Random(kill).uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    loaded = load_synset(target)
    assert_same(loaded, new if loaded.config == new.config else old)
    old.save(target, overwrite=True)
    assert_same(load_synset(target), old)
    assert [p.name for p in target.parent.iterdir()] == [target.name]
"""


def test_killed_saves_leave_a_whole_synset(tmp_path: Path):
    """SIGKILL at random moments of saving: a whole synset is there, and the next save clears the remains away."""
    tests = Path(__file__).parent
    script = KILLS.format(path=[str(tests), str(tests.parent)], target=str(tmp_path / "x-v0"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_second_writer_is_refused(tmp_path: Path):
    """While one process builds a folder, another is told so, and neither breaks the other's work."""
    target = tmp_path / "x-v0"
    with files.building_folder(target) as temporary:
        with pytest.raises(SynsetError, match="Another process is saving"):
            make_synset().save(target)
        assert temporary.is_dir()
        (temporary / "mine").write_text("kept")
    assert contents(tmp_path) == {"x-v0": "folder", "x-v0/mine": hashlib.sha256(b"kept").hexdigest()}


def test_a_lock_whose_file_was_just_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last holder may remove the file between our opening and our locking it: such a lock is none."""
    lock, flock, calls = tmp_path / "lock", files.fcntl.flock, []

    def flock_after_removal(handle, how):
        calls.append(how)
        if len(calls) == 1:
            lock.unlink()
        flock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", flock_after_removal)
    with files._locked(lock), pytest.raises(BlockingIOError), files._locked(lock):
        pass
    assert not lock.exists()


def test_folders_exchange_without_the_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the system cannot exchange two folders at once, two renames do, and a failed one is undone."""
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *args, **kwargs: object())
    old, new = make_synset(seed=1), make_synset(seed=2)
    old.save(tmp_path / "x-v0")
    new.save(tmp_path / "x-v0", overwrite=True)
    assert_same(load_synset(tmp_path / "x-v0"), new)
    rename = Path.rename

    def fail_to_rename(self: Path, to: Path):
        return fail(OSError(5, "Disk on fire")) if self.suffix == ".partial" else rename(self, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail_to_rename)
        with pytest.raises(SynsetError, match="Disk on fire"):
            old.save(tmp_path / "x-v0", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x-v0"]
    assert_same(load_synset(tmp_path / "x-v0"), new)
    (tmp_path / "x-v0").rename(tmp_path / ".x-v0.aside")  # as a process killed between the two leaves it
    old.save(tmp_path / "x-v0", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x-v0"]
    assert_same(load_synset(tmp_path / "x-v0"), old)


def test_threads_do_not_mix(tmp_path: Path):
    """Of several savers of one id at once, one or more succeed and what is there is one of theirs, whole."""
    synsets = [make_synset(seed=seed) for seed in range(4)]
    outcomes: list[str] = []

    def save(synset: Synset):
        try:
            synset.save(tmp_path / "x-v0", overwrite=True)
            outcomes.append("saved")
        except SynsetError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=save, args=(synset,)) for synset in synsets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert "saved" in outcomes
    assert all(outcome == "saved" or "Another process is saving" in outcome for outcome in outcomes)
    loaded = load_synset(tmp_path / "x-v0")
    assert_same(loaded, synsets[loaded.config.seed])
    assert [p.name for p in tmp_path.iterdir()] == ["x-v0"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_mode_that_the_user_gives_new_files(tmp_path: Path, umask: int, mode: int):
    """And a replaced one keeps its own."""
    before = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "new", b"1")
        old = tmp_path / "old"
        old.touch()
        old.chmod(0o640)
        files.write_atomically(old, b"2")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode
    assert old.stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_written_is_named_and_not_its_temporary_one(tmp_path: Path):
    name = "p" * 252 + ".pt"  # just possible, but for what the temporary one's name adds
    with pytest.raises(OSError, match=f"/{name}'$"):
        files.write_atomically(tmp_path / name, b"1")
    assert not list(tmp_path.iterdir())


def test_another_folder_s_leftovers_are_left_alone(tmp_path: Path):
    """ "hopper" is being built while "hopper.v2" is."""
    other = tmp_path / ".hopper.v2.1234.partial"
    mine = tmp_path / ".hopper.1234.partial"
    for folder in (other, mine):
        folder.mkdir()
    with files.building_folder(tmp_path / "hopper") as temporary:
        (temporary / "x").touch()
    assert other.is_dir() and not mine.exists()


def test_a_file_that_was_to_become_a_folder_comes_back(tmp_path: Path):
    """Killed between the two renames of a system without an exchange: the next one finds the file where it was."""
    (tmp_path / ".hopper.aside").write_text("precious")
    with pytest.raises(ZeroDivisionError), files.building_folder(tmp_path / "hopper"):
        raise ZeroDivisionError
    assert (tmp_path / "hopper").read_text() == "precious"
    (tmp_path / ".hopper.77.partial").touch()  # the file after an exchange, not yet removed
    with files.building_folder(tmp_path / "hopper") as temporary:
        (temporary / "x").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["hopper"]


def test_overwriting_takes_nothing_else_along(tmp_path: Path):
    """A policy in the folder is named and kept; notes stay beside the new synset, and hidden files do not stand in the way."""
    folder = make_synset().save(tmp_path / "run")
    (folder / "README.md").write_text("notes")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"picture")
    (folder / ".DS_Store").write_text("")
    make_synset(seed=1).save(folder, overwrite=True)
    assert (folder / "README.md").read_text() == "notes"
    assert (folder / "pictures" / "a.png").read_bytes() == b"picture"
    (folder / "policies").mkdir()
    (folder / "policies" / "one.safetensors").write_text("mine")
    with pytest.raises(
        SynsetError, match="'policies/one.safetensors' lies in its folder .* and would be lost"
    ):
        make_synset(seed=2).save(folder, overwrite=True)
    assert (folder / "policies" / "one.safetensors").read_text() == "mine"
    assert_same(load_synset(folder), make_synset(seed=1))


@pytest.mark.parametrize(
    "text", ["{", '{"synset": {"format": "minari_distill.synset", "format_version": 99}}']
)
def test_a_damaged_synset_and_one_of_another_version_can_be_saved_anew(text: str):
    """As their messages advise: `save(overwrite=True)` replaces them."""
    synset = make_synset()
    (synset.save(ID) / "data" / "metadata.json").write_text(text)
    with pytest.raises(SynsetError):
        load_synset(ID)
    synset.save(ID, overwrite=True)
    assert_same(load_synset(ID), synset)


def test_brackets_and_blanks_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Printed as they are, and quoted where they are to be copied."""
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(
        app, ["expand", "gallery/hopper-medium-replay-infinite-v0", "-o", "./[/b] c", "--pairs", "20"]
    )
    assert told.exit_code == 0, told.output
    assert "Saved ./[/b] c (20 pairs)" in told.output and "evaluate './[/b] c'" in told.output


def test_no_synset_inside_another():
    """Overwriting the outer one would delete it."""
    make_synset().save("me/outer-v0")
    with pytest.raises(SynsetError, match="would lie inside the dataset in .*outer-v0"):
        make_synset().save("me/outer-v0/inner-v0")
    make_synset().save("me/data/deep-v0")  # a namespace of that name is no dataset
    make_synset().save("me/next-v0")
    make_synset().save("me/next-v0", overwrite=True)
    make_synset().save("me/data/next-v0")


def test_a_link_stays_a_link(tmp_path: Path):
    """What it leads to is replaced, as often as you like."""
    real = make_synset().save(tmp_path / "disk" / "real")
    link = tmp_path / "link"
    link.symlink_to(real)
    for seed in (1, 2):
        make_synset(seed=seed).save(link, overwrite=True)
        assert link.is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]
        assert_same(load_synset(real), make_synset(seed=seed))


def test_nothing_can_be_saved_below_a_file(tmp_path: Path):
    """Told before hours of work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SynsetError, match="nothing can be written in .*file"):
        refuse_existing(tmp_path / "file" / "run")


def test_a_namespace_that_another_process_has_just_made(monkeypatch: pytest.MonkeyPatch):
    """Between looking and telling Minari of it, somebody else has: the synset is saved all the same."""
    make_synset().save("team/a-v0")
    monkeypatch.setattr("minari_distill.targets.list_local_namespaces", list)
    make_synset().save("team/b-v0")
    assert len(load_synset("team/b-v0")) == 6
