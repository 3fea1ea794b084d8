"""Bad inputs and faults, each through the public door, each with the one sentence it is answered with."""

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

import minari_distill as md
from minari_distill import files
from minari_distill.errors import (
    ConfigError,
    DatasetError,
    Diverged,
    EnvironmentUnavailable,
    MinariDistillError,
    RunError,
    SynsetError,
    TeacherError,
)
from minari_distill.policy import Policy
from minari_distill.progress import silent
from minari_distill.teachers import Teacher
from tests.conftest import write_dataset

ID = "test/pendulum-v0"
SAVED = "me/pendulum-v0"
TINY = {
    "n_syn": 4,
    "hidden_width": 8,
    "hidden_layers": 1,
    "inner_steps": 4,
    "window": 2,
    "outer_batch": 8,
    "outer_steps": 2,
    "validate_every": 1,
    "checkpoint_every": 1,
}


def steady(obs):
    return 0.1 * obs[:, :1]


TEACHER = Teacher.from_callable(steady, lambda obs, act: act[:, 0] + 5, obs_dim=3, act_dim=1)


@dataclass
class World:
    """A store with one small dataset, and the doors to knock on."""

    store: Path
    folder: Path
    patch: pytest.MonkeyPatch

    def distill(self, dataset: Any = ID, **changes: Any) -> md.Synset:
        """A tiny distillation."""
        return md.distill(dataset, **{"teacher": TEACHER, "report": silent} | TINY | changes)

    def written(self, drop: Sequence[str] = (), **options: Any) -> md.Synset:
        """A tiny distillation of another dataset."""
        write_dataset("test/other-v0", **{"env": None} | options)
        return self.distill("test/other-v0", drop=drop)

    def damaged(self, damage: Callable[[Path], Any], **changes: Any) -> md.Synset:
        """A tiny distillation of the dataset, damaged."""
        damage(self.store / ID / "data")
        return self.distill(**changes)

    def saved(self, damage: Callable[[Path], Any] = lambda folder: None) -> md.Synset:
        """A synset, saved, damaged, loaded."""
        damage(self.distill().save(SAVED))
        return md.load_synset(SAVED)

    def taught(self, content: bytes | None = None, **tensors: torch.Tensor) -> md.Synset:
        """A tiny distillation with a learnt teacher's file, changed."""
        path = self.folder / "teacher.safetensors"
        if content is None:
            from safetensors import safe_open
            from safetensors.torch import save_file

            learnt = {"teacher_method": "filtered_bc", "teacher_steps": 1, "teacher": None}
            self.patch.setattr("minari_distill.teachers.learn._REPORT_SECONDS", 0.01)
            self.distill(run_dir=self.folder / "learnt", **learnt)
            with safe_open(self.folder / "learnt/teacher.safetensors", "pt") as file:
                header = file.metadata()
                old = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            save_file(old | tensors, path, header)
        else:
            path.write_bytes(content)
        return self.distill(teacher=path)

    def resumed(self, between: Callable[[Path], Any] = lambda folder: None, **changes: Any) -> md.Synset:
        """A run, something that happens to its folder, and its resumption with other settings."""
        self.distill(run_dir=self.folder / "run")
        between(self.folder / "run")
        return self.distill(**{"run_dir": self.folder / "run", "resume": True} | changes)

    def evaluated(self, **source: Any) -> Any:
        """A tiny synset, evaluated in another environment."""
        synset = self.distill()
        synset = replace(synset, source=replace(synset.source, **source))
        return md.evaluate(md.behavior_clone(synset), synset, n_episodes=1)


@pytest.fixture
def world(minari_store, tmp_path, monkeypatch):
    write_dataset(ID, lengths=(9, 8, 7))
    monkeypatch.chdir(tmp_path)
    return World(minari_store, tmp_path, monkeypatch)


def put(field: str, value: float):
    """A value in step 1 of episode 1."""

    def change(fields, episode):
        if episode == 1:
            fields[field][1] = value

    return change


def cut(field: str):
    """Episode 2 without its last value."""

    def change(fields, episode):
        if episode == 2:
            fields[field] = fields[field][:-1]

    return change


def edit(name: str, **changes: Any):
    """A JSON file with keys replaced."""

    def damage(folder: Path):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def edit_record(**changes: Any):
    """The record of a synset with keys replaced."""

    def damage(folder: Path):
        path = folder / "data/metadata.json"
        metadata = json.loads(path.read_text())
        metadata["synset"] |= changes
        path.write_text(json.dumps(metadata))

    return damage


def without_setting(name: str):
    """run.json as a release wrote it that did not know the setting."""

    def edit(folder: Path):
        path = folder / "run.json"
        record = json.loads(path.read_text())
        del record["config"][name]
        path.write_text(json.dumps(record))

    return edit


def halve(name: str):
    """A file cut in the middle, as a copy that was interrupted."""

    def damage(folder: Path):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def edit_hdf5(path: str, change: Callable[[h5py.File], Any]):
    """An HDF5 file changed in place."""

    def damage(folder: Path):
        with h5py.File(folder / path, "a", libver="latest") as file:
            change(file)

    return damage


def full_disk(world: World) -> None:
    """From now on every flush to disk fails."""

    def fail(handle):
        raise OSError(28, "No space left on device")

    world.patch.setattr(files.os, "fsync", fail)


def saved_on_full_disk(world: World):
    synset = world.distill()
    full_disk(world)
    synset.save(SAVED)


def checkpoint_on_full_disk(world: World):
    full_disk(world)
    world.distill(run_dir=world.folder / "run")


def twice(world: World):
    def again(progress):
        world.distill(run_dir=world.folder / "run")

    world.distill(run_dir=world.folder / "run", report=again)


def policy_of_noise(world: World):
    (world.folder / "p.safetensors").write_bytes(b"noise")
    Policy.load("p.safetensors")


def acting_on(observation: Any):
    return lambda w: md.behavior_clone(w.distill()).act(observation)


def teacher_of(policy=steady, q=lambda obs, act: act[:, 0], obs_dim=3, act_dim=1, **changes):
    def go(world: World):
        world.distill(teacher=Teacher.from_callable(policy, q, obs_dim=obs_dim, act_dim=act_dim), **changes)

    return go


def setting(**changes: Any):
    return lambda world: world.distill(**changes)


TEXT = spaces.Text(9, min_length=1)
GRID = spaces.Dict(direction=spaces.Discrete(4), mission=TEXT)
NOWHERE = json.dumps({"id": "Nowhere-v0", "entry_point": "no_such_module:Env", "additional_wrappers": []})

FAULTS: dict[str, tuple[Callable[[World], Any], type[Exception], str]] = {
    # ------------------------------------------------------------------------------------ ids and places
    "misspelt id": (
        lambda w: w.distill("test/pendulm-v0"),
        DatasetError,
        "'test/pendulm-v0' not found. Did you mean 'test/pendulum-v0'.*minari download",
    ),
    "no version": (
        lambda w: w.distill("mujoco/hopper/medium"),
        DatasetError,
        "no Minari id, which looks like mujoco/hopper/medium-v0",
    ),
    "a number": (lambda w: w.distill(42), DatasetError, "a folder or a MinariDataset, not a int"),
    "no datasets": (lambda w: w.distill([]), DatasetError, "the list is empty"),
    "an empty folder": (lambda w: w.distill(w.folder), DatasetError, "there is no metadata.json in it"),
    "a synset": (
        lambda w: [w.distill().save(SAVED), w.distill(SAVED)],
        DatasetError,
        r"is a synset: .*behavior_clone\(load_synset",
    ),
    # -------------------------------------------------------------------------------------------- spaces
    "text": (
        lambda w: w.written(observation_space=GRID),
        DatasetError,
        r"'mission' is text.*drop=\['mission'\]",
    ),
    "text actions": (lambda w: w.written(action_space=TEXT), DatasetError, "actions of .* the space is text"),
    "an image": (
        lambda w: w.written(observation_space=spaces.Box(0, 255, (210, 160, 3), np.uint8), lengths=(2,)),
        DatasetError,
        r"100,800 numbers: \d+ GB of memory",
    ),
    "unknown part to drop": (
        lambda w: w.written(drop=["goals"], observation_space=spaces.Dict(goal=spaces.Discrete(2))),
        DatasetError,
        "no part 'goals' to drop. Did you mean 'goal'",
    ),
    "dropping all": (setting(drop=[""]), DatasetError, "no part '' to drop"),
    "half precision": (setting(dtype="float16"), DatasetError, "'float32' or 'float64', not 'float16'"),
    "spaces that differ": (
        lambda w: (
            [write_dataset("test/b-v0", observation_space=spaces.Box(-1, 1, (4,)), env=None)]
            and w.distill([ID, "test/b-v0"])
        ),
        DatasetError,
        r"cannot be combined: their observation spaces differ, Box.*\(4,\)",
    ),
    # -------------------------------------------------------------------------------------------- arrays
    "NaN observation": (
        lambda w: w.written(change=put("observations", np.nan)),
        DatasetError,
        "nan in observations of episode 1, step 1. .*filter_episodes",
    ),
    "infinite reward": (
        lambda w: w.written(change=put("rewards", np.inf)),
        DatasetError,
        "inf in rewards of episode 1, step 1",
    ),
    "NaN action": (
        lambda w: w.written(change=put("actions", np.nan)),
        DatasetError,
        "nan in actions of episode 1, step 1",
    ),
    "too few actions": (
        lambda w: w.written(change=cut("actions")),
        DatasetError,
        "episode 2 holds 5 obs.*3 actions",
    ),
    "too few rewards": (
        lambda w: w.written(change=cut("rewards")),
        DatasetError,
        "episode 2 holds .*3 rewards",
    ),
    "other shape": (
        lambda w: w.written(change=lambda f, i: f.update(observations=np.zeros((len(f["observations"]), 7)))),
        DatasetError,
        r"values of shape \(7,\), its space .* expects \(3,\)",
    ),
    "a category too many": (
        lambda w: w.written(action_space=spaces.Discrete(3), change=put("actions", 3)),
        DatasetError,
        "holds the category 3, expected 0 … 2",
    ),
    "one step": (lambda w: w.written(lengths=(1,)), DatasetError, "holds 1 transition: at least two"),
    "no episodes": (lambda w: w.written(lengths=()), DatasetError, "holds no episodes"),
    # --------------------------------------------------------------------------------------------- files
    "data cut off": (
        lambda w: w.damaged(halve("main_data.hdf5")),
        DatasetError,
        f"main_data.hdf5 cannot be read.*minari download {ID} --force",
    ),
    "data gone": (
        lambda w: w.damaged(lambda f: (f / "main_data.hdf5").unlink()),
        DatasetError,
        "cannot be opened.*No data found",
    ),
    "metadata cut off": (
        lambda w: w.damaged(halve("metadata.json")),
        DatasetError,
        "metadata.json is no JSON",
    ),
    "later Minari": (
        lambda w: w.damaged(edit("metadata.json", minari_version="9.0")),
        DatasetError,
        "Minari 9.0.*pip install --upgrade minari",
    ),
    "unknown storage": (
        lambda w: w.damaged(edit("metadata.json", data_format="csv")),
        DatasetError,
        "cannot be opened.*csv",
    ),
    "an episode missing": (
        lambda w: w.damaged(edit_hdf5("main_data.hdf5", lambda h: h.pop("episode_2"))),
        DatasetError,
        "has no episode_2.*counts 3 episodes",
    ),
    "an array missing": (
        lambda w: w.damaged(edit_hdf5("main_data.hdf5", lambda h: h.pop("episode_1/rewards"))),
        DatasetError,
        "episode 1: .*rewards",
    ),
    # ------------------------------------------------------------------------------------------- settings
    "text for a number": (
        setting(outer_lr_obs="fast"),
        ConfigError,
        "outer_lr_obs='fast' must be a number, for example",
    ),
    "half a step": (setting(outer_steps=2.5), ConfigError, "outer_steps=2.5 must be a whole number"),
    "number for a name": (setting(head=3), ConfigError, "head=3 must be a name"),
    "misspelt setting": (setting(n_sin=3), ConfigError, "Unknown setting 'n_sin'. Did you mean 'n_syn'"),
    "no pairs": (setting(n_syn=0), ConfigError, "n_syn=0 must be at least 1"),
    "too many pairs": (setting(n_syn=99), DatasetError, "n_syn=99, but .* has 24 transitions.*at most"),
    "objective": (setting(objective="av-pbc"), ConfigError, "Did you mean 'av_pbc'"),
    "preset": (
        setting(preset="fast"),
        ConfigError,
        "preset='fast' is unknown.*default, quick, infinite, paper",
    ),
    "initializer": (setting(initializer="kmean"), ConfigError, "Did you mean 'kmeans'"),
    "teacher method": (setting(teacher_method="calql"), ConfigError, "Did you mean 'cal_ql'"),
    "inner optimiser": (setting(inner_optimizer="lion"), ConfigError, "Choose one of: sgd, momentum, adam"),
    "outer optimiser": (setting(outer_optimizer="sgd"), ConfigError, "Choose one of: adam, momentum"),
    "schedule": (setting(outer_schedule="linear"), ConfigError, "Choose one of: cosine, constant"),
    "precision": (setting(precision="float16"), ConfigError, "precision='float16' is unknown"),
    "head": (setting(head="softmx"), ConfigError, "Did you mean 'softmax'"),
    "initialisation": (setting(student_init="xavier"), ConfigError, "Choose one of: orthogonal, torch"),
    "window": (setting(window=9), ConfigError, "window=9 must lie between 0 .* and inner_steps=4"),
    "share": (setting(holdout_fraction=1.5), ConfigError, "are shares: give numbers between 0 and 1"),
    "learning rate": (setting(inner_lr=-1.0), ConfigError, "lr=-1.0 must be positive"),
    "NaN rate": (setting(outer_lr_obs=float("nan")), ConfigError, "outer_lr_obs=nan must be positive"),
    "width": (setting(hidden_width=0), ConfigError, "hidden_width=0 must be at least 1"),
    "memory": (setting(memory_budget_gb=0), ConfigError, "memory_budget_gb=0 must be positive"),
    "device": (setting(device="tpu"), ConfigError, "Give 'auto', 'cpu' or 'cuda'"),
    # ------------------------------------------------------------------------------------------- teachers
    "no teacher file": (
        setting(teacher="nowhere.safetensors"),
        TeacherError,
        "does not exist.*leave `teacher`",
    ),
    "teacher of a type": (setting(teacher=3), TeacherError, "a path or a Teacher, not a int"),
    "pickled teacher": (lambda w: w.taught(pickle.dumps([1])), TeacherError, "is a pickle.*save_file"),
    "noise as teacher": (lambda w: w.taught(b"noise"), TeacherError, "is truncated or no safetensors file"),
    "teacher with NaN": (
        lambda w: w.taught(obs_mean=torch.full((3,), np.nan)),
        TeacherError,
        "obs_mean holds NaN or infinite values",
    ),
    "teacher of other sizes": (
        teacher_of(obs_dim=4, act_dim=2),
        TeacherError,
        "maps 4 observation numbers to 2 action numbers.*has 3 and 1",
    ),
    "function of other shape": (
        teacher_of(lambda obs: obs),
        TeacherError,
        r"policy returned shape \(\d+, 3\); expected \(\d+, 1\)",
    ),
    "no q": (teacher_of(q=None), TeacherError, "no q: .*objective='pbc'"),
    "actions of NaN": (
        teacher_of(lambda obs: obs[:, :1] * np.nan),
        TeacherError,
        "teacher's actions hold NaN",
    ),
    "values of NaN": (
        teacher_of(q=lambda obs, act: act[:, 0] * np.nan),
        TeacherError,
        "teacher's values q hold NaN",
    ),
    # ---------------------------------------------------------------------------------------- divergence
    "diverging inner loop": (
        setting(inner_lr=1e30, outer_steps=60, inner_steps=8, window=4, report=silent, head="linear"),
        Diverged,
        "No finite meta-gradient for 20 steps in a row.*lower inner_lr",
    ),
    "diverging teacher": (
        lambda w: (
            [w.patch.setattr("minari_distill.teachers.filtered_bc._LR", 1e30)]
            and w.distill(teacher=None, teacher_method="filtered_bc", teacher_steps=50)
        ),
        Diverged,
        "teacher's loss became",
    ),
    # ------------------------------------------------------------------------------------------ settings
    "probabilities of numbers": (setting(head="softmax"), ConfigError, "probabilities of discrete actions"),
    "infinite width without a metric": (
        setting(preset="infinite", metric_share=0.0),
        ConfigError,
        "give metric_share=1.0, or infinite_width=False",
    ),
    "too few good states": (
        lambda w: w.distill(objective="filtered_dbc", n_syn=12, run_dir=w.folder / "run"),
        DatasetError,
        "states alone, those of the best episodes. Give n_syn of at most",
    ),
    # ------------------------------------------------------------------------------------------- the run
    "resume without a folder": (setting(resume=True), ConfigError, "needs the run_dir"),
    "nothing to resume": (setting(resume=True, run_dir="none"), ConfigError, "no run to resume"),
    "a run already": (lambda w: w.resumed(resume=False), ConfigError, "already holds a run. Go on with it"),
    "other settings": (lambda w: w.resumed(n_syn=3), ConfigError, "holds a run with n_syn=4, not 3"),
    "a run of another release": (
        lambda w: w.resumed(without_setting("metric_share")),
        ConfigError,
        "of another release: metric_share is not a setting of both. Resume it with the release it began with",
    ),
    "other parts": (lambda w: w.resumed(dtype="float64"), ConfigError, "dtype='float32', not 'float64'"),
    "other dataset": (
        lambda w: [write_dataset("test/b-v0", lengths=(9, 8))] and w.resumed(dataset="test/b-v0"),
        ConfigError,
        r"holds a run on \['test/pendulum-v0'\], not on \['test/b-v0'\]",
    ),
    "checkpoint cut off": (
        lambda w: w.resumed(halve("checkpoint.safetensors")),
        ConfigError,
        "checkpoint.*cannot be read.*Delete it",
    ),
    "settings cut off": (lambda w: w.resumed(halve("run.json")), ConfigError, "run.json' cannot be read"),
    "two runs at once": (twice, ConfigError, "Another run is writing"),
    "full disk at a checkpoint": (
        checkpoint_on_full_disk,
        RunError,
        "could not be written: No space left on device.*--resume",
    ),
    # ------------------------------------------------------------------------------------------- synsets
    "no such synset": (lambda w: md.load_synset("me/none-v0"), SynsetError, "'me/none-v0' not found"),
    "a dataset, no synset": (lambda w: md.load_synset(ID), SynsetError, "no synset.*minari-distill distill"),
    "unknown scheme": (lambda w: md.load_synset("ftp://x"), SynsetError, "nothing here reads ftp://"),
    "synset cut off": (lambda w: w.saved(halve("data/main_data.hdf5")), SynsetError, "cannot be read"),
    "synset's JSON": (lambda w: w.saved(halve("data/metadata.json")), SynsetError, "cannot be read"),
    "later format": (
        lambda w: w.saved(edit_record(format_version=99)),
        SynsetError,
        "format version 99.*pip install --upgrade",
    ),
    "more pairs declared": (lambda w: w.saved(edit_record(n_syn=10**12)), SynsetError, "holds 4 episodes"),
    "a pair out of bounds": (
        lambda w: w.saved(
            edit_hdf5(
                "data/main_data.hdf5", lambda h: h["episode_1/actions"].write_direct(np.full((1, 1), 9, "f4"))
            )
        ),
        SynsetError,
        "is 9.0 in row 1, outside",
    ),
    "parquet changed": (
        lambda w: w.saved(lambda f: (f / "synset/train.parquet").write_bytes(b"x")),
        SynsetError,
        "not the file whose checksum",
    ),
    "a bad id": (lambda w: w.distill().save("pendulum"), SynsetError, "no Minari id.*me/pendulum-v0"),
    "an id taken": (
        lambda w: [w.saved(), w.distill().save(SAVED)],
        SynsetError,
        "exists already.*overwrite=True",
    ),
    "the source's id": (
        lambda w: w.distill().save(ID, overwrite=True),
        SynsetError,
        "is no synset: it is not overwritten",
    ),
    "full disk at saving": (
        saved_on_full_disk,
        SynsetError,
        "No space left on device. Nothing was left behind",
    ),
    # ------------------------------------------------------------------------------------------ students
    "unknown recipe": (
        lambda w: md.behavior_clone(w.distill(), recipe="own"),
        ConfigError,
        "recipe='own' is unknown. Give 'recipe' .* or 'general'",
    ),
    "no students": (
        lambda w: md.behavior_clone(w.distill(), n_policies=0),
        ConfigError,
        "n_policies=0 must be",
    ),
    "an id for a synset": (
        lambda w: md.behavior_clone(ID),
        ConfigError,
        "is no Synset. Read one with load_synset",
    ),
    "a student's probabilities of numbers": (
        lambda w: md.behavior_clone(w.distill(), head="softmax"),
        ConfigError,
        "probabilities of discrete actions",
    ),
    "no ridge for the same pair twice": (
        lambda w: md.behavior_clone(md.expand(w.distill(), 64, noise=0.0), infinite=True, ridge=1e-30),
        ConfigError,
        "is too small for pairs as near to one another",
    ),
    "half a pair": (lambda w: md.expand(w.distill(), 2.5), ConfigError, "n_pairs=2.5 must be a whole number"),
    "no noise": (
        lambda w: md.expand(w.distill(), noise=float("inf")),
        ConfigError,
        "noise=inf must be a number",
    ),
    "half a seed": (
        lambda w: md.expand(w.distill(), seed=0.5),
        ConfigError,
        "seed=0.5 must be a whole number",
    ),
    "no policies": (
        lambda w: md.evaluate([], w.distill()),
        ConfigError,
        "No policies given: give one at least",
    ),
    "recipe's field": (
        lambda w: md.behavior_clone(w.distill(), step=3),
        ConfigError,
        "Unknown setting 'step'. Did you mean 'steps'",
    ),
    "noise as policy": (policy_of_noise, ConfigError, "is not a policy file"),
    "no policy file": (lambda w: Policy.load("none"), ConfigError, "none is not a policy file"),
    "observation of other shape": (
        acting_on(np.zeros(4)),
        DatasetError,
        r"values of shape \(4,\), its space .* expects \(3,\)",
    ),
    "observation as text": (acting_on("left"), DatasetError, "not numbers"),
    # --------------------------------------------------------------------------------------- environments
    "no environment": (
        lambda w: w.evaluated(env_spec=None),
        EnvironmentUnavailable,
        r"names no environment.*policy.act\(observation\)",
    ),
    "not one episode": (
        lambda w: md.evaluate(md.behavior_clone(synset := w.distill()), synset, n_episodes=0),
        ConfigError,
        "n_episodes=0 must be a whole number, at least 1",
    ),
    "environment gone": (
        lambda w: w.evaluated(env_spec=NOWHERE, requirements=("nowhere>=2",)),
        EnvironmentUnavailable,
        "nowhere>=2.*the synset itself is not affected",
    ),
    "environment spec broken": (
        lambda w: w.evaluated(env_spec='{"id":'),
        EnvironmentUnavailable,
        "environment of test/pendulum-v0 cannot be made",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_one_sentence(case, world):
    """It names what was given, what was expected, what to type next, and leaves no half-written file."""
    act, kind, message = FAULTS[case]
    with pytest.raises(kind, match=message) as caught:
        act(world)
    assert isinstance(caught.value, MinariDistillError)
    assert "\n" not in str(caught.value)
    assert not list(world.folder.rglob("*.partial"))


def test_there_are_enough_of_them():
    """At least sixty."""
    assert len(FAULTS) >= 60
