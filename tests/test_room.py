"""Mapped arrays: the same numbers, no names on the disk, a full disk named; and a whole distillation on them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import minari_distill as md
from minari_distill import room as room_module
from minari_distill.config import make_config
from minari_distill.errors import ConfigError, DatasetError
from minari_distill.pose import pose
from minari_distill.progress import silent
from minari_distill.reading import FIELDS, Episode, TransitionArrays
from minari_distill.room import Room, blocks, machine_memory
from minari_distill.teachers import make_trainer
from tests.small_transitions import point_mass

TINY = {
    "teacher_steps": 4,
    "teacher_batch": 16,
    "cql_n_actions": 2,
    "n_syn": 4,
    "hidden_width": 8,
    "hidden_layers": 2,
    "inner_steps": 4,
    "window": 2,
    "outer_batch": 8,
    "outer_steps": 3,
    "validate_every": 1,
}


pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 5 rows, so that every array here takes several."""
    monkeypatch.setattr(room_module, "BLOCK", 5)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def mapped(name: str):
    """The same dataset twice: in memory, and mapped."""
    return md.load_transitions(name), md.load_transitions(name, memory_share=0.0)


def test_blocks_cover_every_row_once():
    assert [(b.start, b.stop) for b in blocks(12)] == [(0, 5), (5, 10), (10, 12)]
    assert list(blocks(0)) == []


@pytest.mark.parametrize("is_mapped", [False, True])
def test_filled_and_taken_are_what_numpy_gives(is_mapped):
    """Whole numbers and masks, matrices and vectors, none at all."""
    room, source = Room(mapped=is_mapped), np.arange(26.0).reshape(13, 2)
    copy = room.filled(13, (2,), "float32", lambda rows: torch.as_tensor(source[rows]))
    np.testing.assert_array_equal(copy, source)
    assert copy.dtype == np.float32
    assert isinstance(copy, np.memmap) is is_mapped
    assert Room.of(copy[:3]).mapped is is_mapped
    for index in (np.array([12, 0, 0, 7, 3, 3]), source[:, 0] > 9, np.zeros(13, bool)):
        np.testing.assert_array_equal(room.taken(source, index), source[index])
        np.testing.assert_array_equal(room.taken(source[:, 1], index), source[index, 1])


def test_a_mapped_file_has_no_name(temporary):
    """Nothing is seen in the folder while the array lives: whatever ends the process, nothing is left."""
    array = Room(mapped=True).empty((1000, 3), "float32")
    array[:] = 1
    assert list(temporary.iterdir()) == []
    assert float(array.sum()) == 3000


def test_a_full_disk_is_said_before_anything_is_written(temporary, monkeypatch):
    """At the allocation; a page fault on a full disk would kill the process instead."""

    def full(handle, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        DatasetError, match=r"no room for an array of 4\.0 GB in .*TMPDIR.*or raise memory_share"
    ):
        Room(mapped=True).empty((10**9,), "float32")


def test_a_control_group_lowers_the_memory(tmp_path, monkeypatch):
    """Its limit counts where it is one; "max" is none."""
    own = tmp_path / "cgroup"
    monkeypatch.setattr(room_module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(room_module, "_OWN_CGROUPS", own)
    whole = machine_memory()
    assert whole == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "memory.max"
    for text, memory in (("max\n", whole), ("123456\n", 123456)):
        limit.write_text(text)
        assert machine_memory() == memory


@pytest.mark.parametrize(
    ("own", "limit"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7/memory.max"),
        ("12:cpu:/other\n9:memory,hugetlb:/slurm/job_7\n0::/\n", "memory/slurm/job_7/memory.limit_in_bytes"),
    ],
    ids=["v2", "v1"],
)
def test_a_jobs_own_control_group_counts(tmp_path, monkeypatch, own: str, limit: str):
    """Its limit stands in a folder of its own, or above it."""
    monkeypatch.setattr(room_module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(room_module, "_OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(own)
    (tmp_path / limit).parent.mkdir(parents=True)
    (tmp_path / limit).write_text("654321\n")
    assert machine_memory() == 654321


def test_a_dataset_beyond_the_share_is_mapped_and_says_so(make_dataset, monkeypatch, temporary):
    """12 transitions of 2·3 + 1 + 1 float32 and 2 bool are 408 bytes: mapped where a quarter of the memory is less."""
    make_dataset("test/large-v0")
    for memory, expected in ((4 * 408, False), (4 * 408 - 1, True)):
        monkeypatch.setattr("minari_distill.transitions.machine_memory", lambda m=memory: m)
        said = []
        transitions = md.load_transitions("test/large-v0", on_message=said.append)
        assert transitions.room.mapped is expected
        assert all(isinstance(getattr(transitions, name), np.memmap) is expected for name in FIELDS)
        assert len(said) == expected
    assert "4.08e-07 GB, more than 0.25 of this machine's" in said[0]
    assert str(temporary) in said[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mapped_transitions_are_the_same_bits(make_dataset, dtype):
    """Arrays, statistics, returns, selections; with short episodes and a count of steps that is too low."""
    make_dataset("test/large-v0", lengths=(9, 7, 8), short=(1,))
    plain = md.load_transitions("test/large-v0", dtype=dtype)
    far = md.load_transitions("test/large-v0", dtype=dtype, memory_share=0.0)
    assert far.room.mapped and not plain.room.mapped
    for one, other in ((plain, far), (plain.select([2, 0]), far.select([2, 0]))):
        for name in (*FIELDS, "episode_starts", "observation_mean", "observation_std"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=False)
        np.testing.assert_array_equal(one.returns_to_go(0.9), other.returns_to_go(0.9))
    assert far.select([2, 0]).room.mapped


def test_mapped_arrays_grow():
    """Where the metadata's count of steps is too low."""
    arrays = TransitionArrays(2, 1, 1, np.dtype("float32"), Room(mapped=True))
    column = np.arange(6.0, dtype="float32")[:, None]
    flags = np.zeros(6, bool)
    arrays.append(Episode(0, np.vstack([column, [[6]]]), column, column[:, 0], flags, flags))
    assert arrays.filled()["observations"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert isinstance(arrays.observations, np.memmap)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
@pytest.mark.parametrize("method", ["cal_ql", "filtered_bc"])
def test_the_teachers_table_is_mapped_and_the_same(make_dataset, method, discrete, precision):
    """What batches are gathered from; and after some steps, the same losses."""
    space = {"action_space": spaces.Discrete(3)} if discrete else {}
    make_dataset("test/large-v0", **space)
    config = make_config(teacher_method=method, precision=precision, **TINY)
    losses = []
    for transitions, expected in zip(mapped("test/large-v0"), (False, True), strict=True):
        trainer = make_trainer(transitions, config)
        tables = [v for k, v in vars(trainer).items() if k in ("table", "obs", "action")]
        assert tables
        assert all(is_mapped(t) is expected for t in tables)
        losses.append(trainer.advance(4))
    assert losses[0] == losses[1]


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers lie in a nameless file, by the kernel's own list of this process's memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(x, 16) for x in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < stop:
            return line.endswith("(deleted)")
    raise AssertionError("the tensor lies nowhere")


@pytest.mark.parametrize("objective", ["dbc", "av_pbc"])
def test_outer_batches_are_gathered_from_mapped_arrays(make_dataset, objective):
    """States and targets of the problem lie in files; every number is that of the problem in memory."""
    make_dataset("test/large-v0")
    config = make_config(objective=objective, teacher_method="filtered_bc", **TINY)
    plain, far = mapped("test/large-v0")
    teacher = make_trainer(plain, config).teacher()
    in_memory, in_files = (pose(t, teacher, config) for t in (plain, far))
    one, other = in_memory.problem, in_files.problem
    for name in ("obs", "target", "weight", "held_obs", "held_target", "held_weight"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert is_mapped(getattr(other, name)) and not is_mapped(getattr(one, name))
    assert torch.equal(in_memory.S, in_files.S) and torch.equal(in_memory.A, in_files.A)


@pytest.mark.parametrize("method", ["cal_ql", "filtered_bc"])
def test_a_distillation_of_a_mapped_dataset_gives_the_same_bits(make_dataset, method):
    """memory_share=0 maps every dataset: teacher, pairs and held-out loss are those of the run in memory."""
    make_dataset("test/large-v0", lengths=(12, 9, 14))
    synsets = [
        md.distill("test/large-v0", teacher_method=method, memory_share=share, report=silent, **TINY)
        for share in (0.25, 0.0)
    ]
    np.testing.assert_array_equal(synsets[0].observations, synsets[1].observations)
    np.testing.assert_array_equal(synsets[0].actions, synsets[1].actions)
    assert synsets[0].metadata["held_out_loss"] == synsets[1].metadata["held_out_loss"]


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_bad_share_is_named(share):
    with pytest.raises(ConfigError, match="memory_share"):
        make_config(memory_share=share)


def test_transitions_that_were_never_read_stay_in_memory():
    assert not point_mass().room.mapped


def test_a_run_goes_on_with_another_share(make_dataset, tmp_path):
    """One that ran out of memory can be resumed on the disk: the share changes no number."""
    make_dataset("test/large-v0")
    given = {"report": silent, "run_dir": tmp_path / "run", "teacher_method": "filtered_bc", **TINY}
    one = md.distill("test/large-v0", **given)
    other = md.distill("test/large-v0", memory_share=0.0, resume=True, **given)
    np.testing.assert_array_equal(one.observations, other.observations)
