"""Synsets in other forms: every pair, in order, raw, with the source's statistics, and marked for cloning only."""

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import gymnasium
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open

from minari_distill.errors import ConfigError, ExportError
from minari_distill.exporters import formats, rllib
from minari_distill.exporters.arrays import observation_box, pairs_for, to_arrays
from minari_distill.exporters.pytorch import Normalize
from minari_distill.exporters.require import INSTALL, needs
from minari_distill.wrappers import NormalizeObservation, VectorObservation
from tests.synsets import make_synset
from tests.test_cli import plain, run

CODEBASES = ["d3rlpy", "torchrl", "imitation", "stable_baselines3", "tianshou", "ray"]
DISCRETE = {"action_space": spaces.Discrete(3)}
TREE = spaces.Dict(goal=spaces.Box(-1, 1, (2,), np.float32), mode=spaces.Discrete(3))


def same(a, b):
    return np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_arrays_are_the_pairs_and_the_statistics():
    """Raw values in the synset's order; changing them does not change the synset."""
    synset = make_synset()
    arrays = synset.to_arrays()
    same(arrays["observations"], synset.observations)
    same(arrays["actions"], synset.actions)
    same(arrays["obs_mean"], synset.observation_mean)
    same(arrays["obs_std"], synset.observation_std)
    same(arrays["action_low"], [-2])
    same(arrays["action_high"], [2])
    arrays["observations"] += 1
    assert not np.array_equal(arrays["observations"], synset.observations)


def test_discrete_actions_are_integers_beside_their_probabilities():
    """The likeliest action of each pair; soft labels are not lost."""
    synset = make_synset(**DISCRETE)
    arrays = synset.to_arrays()
    assert arrays["actions"].dtype == np.int64 and arrays["actions"].shape == (6,)
    same(arrays["actions"], synset.actions.argmax(1))
    same(arrays["action_probabilities"], synset.actions)
    assert "action_low" not in arrays


def test_an_infinite_bound_is_replaced_by_the_range_of_the_actions():
    """Codebases scale by the bounds, so they are finite."""
    synset = make_synset(action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    arrays = synset.to_arrays()
    same(arrays["action_low"], synset.actions.min(0))
    same(arrays["action_high"], synset.actions.max(0))


def test_the_d4rl_dict_names_its_placeholders():
    """Rows that a synset does not know are zeros, ones or copies, and are listed; nothing can be bootstrapped."""
    synset = make_synset()
    d4rl = synset.to_d4rl_dict()
    rows = {"observations", "actions", "rewards", "next_observations", "terminals", "timeouts"}
    assert {name for name in d4rl if "/" not in name} == rows
    same(d4rl["observations"], synset.observations)
    same(d4rl["next_observations"], synset.observations)
    assert d4rl["terminals"].all() and not d4rl["timeouts"].any() and not d4rl["rewards"].any()
    listed = d4rl["metadata/placeholders"].item().split(", ")
    assert set(listed) == rows - {"observations", "actions"}
    assert "behavioural cloning only" in d4rl["metadata/use"].item()
    same(d4rl["metadata/obs_std"], synset.observation_std)
    assert {len(array) for array in synset.to_d4rl_dict(metadata=False).values()} == {6}


def test_torch_gives_every_pair_once_a_round():
    """The order of the dataset is the synset's; a loader drops nothing and repeats with its seed."""
    synset = make_synset(7)
    dataset = synset.to_torch()
    same(torch.stack([obs for obs, _ in dataset]), synset.observations)
    same(torch.stack([act for _, act in dataset]), synset.actions)
    batches = [obs for obs, _ in dataset.loader(batch_size=3, seed=0)]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert sorted(torch.cat(batches).tolist()) == sorted(synset.observations.tolist())
    same(torch.cat(batches), torch.cat([obs for obs, _ in dataset.loader(batch_size=3, seed=0)]))
    assert len(next(iter(dataset.loader()))[0]) == 7
    assert "behavioural cloning only" in repr(dataset)
    assert make_synset(**DISCRETE).to_torch()[0][1].dtype == torch.int64


def test_float64_synsets_become_float32_tensors():
    """Networks are float32; files keep what the synset has."""
    synset = make_synset(dtype="float64")
    assert synset.to_torch().observations.dtype == torch.float32
    assert synset.to_arrays()["observations"].dtype == np.float64
    assert synset.to_d4rl_dict()["observations"].dtype == np.float32


def test_the_normalising_layer_is_the_students():
    """`Normalize` gives what `Units.normalise` gives."""
    synset = make_synset()
    obs = torch.as_tensor(synset.observations)
    same(Normalize.of(synset)(obs), synset.units().normalise(obs))


@pytest.mark.parametrize("fields", [{}, DISCRETE, {"dtype": "float64"}], ids=["box", "discrete", "float64"])
def test_files_hold_the_arrays_exactly(tmp_path, fields):
    """npz without pickle, safetensors and HDF5 with the notes, bit for bit."""
    synset = make_synset(**fields)
    arrays = synset.to_arrays()
    with np.load(synset.to_npz(tmp_path / "s.npz"), allow_pickle=False) as file:
        notes = json.loads(file["notes"].item())
        for name, array in arrays.items():
            same(file[name], array)
    assert "behavioural cloning only" in notes["use"] and notes["n_syn"] == 6 and notes["placeholders"] == []
    with safe_open(synset.to_safetensors(tmp_path / "s.safetensors"), "np") as file:
        assert json.loads(file.metadata()["notes"]) == notes
        assert set(file.keys()) == set(arrays)
        for name, array in arrays.items():
            same(file.get_tensor(name), array)
    with h5py.File(formats.export(synset, "d4rl", tmp_path / "s.hdf5")) as file:
        same(file["observations"], synset.to_d4rl_dict()["observations"])
        same(file["metadata/obs_mean"], arrays["obs_mean"])
        assert "rewards" in json.loads(file.attrs["notes"])["placeholders"]


@pytest.mark.parametrize("space", [make_synset().observation_codec.space, TREE], ids=["box", "tree"])
def test_parquet_and_datasets_are_what_the_hub_holds(tmp_path, space):
    """The same columns and types as a saved synset's train.parquet; values exact."""
    synset = make_synset(observation_space=space)
    saved = pq.read_table(synset.save(tmp_path / "saved-v0") / "synset" / "train.parquet")
    table = pq.read_table(synset.to_parquet(tmp_path / "s.parquet"))
    assert table.equals(saved)
    assert "behavioural cloning only" in table.schema.metadata[b"minari_distill"].decode()
    assert json.loads(table.schema.metadata[b"obs_std"]) == synset.observation_std.tolist()
    pairs = synset.to_datasets()
    formats.export(synset, "datasets", tmp_path / "folder")
    for held in (pairs, datasets.load_from_disk(str(tmp_path / "folder"))):
        assert held.column_names == table.column_names
        assert held.data.table.cast(table.schema).equals(table)
        assert "behavioural cloning only" in held.info.description


def test_nothing_is_overwritten_unless_told(tmp_path):
    """And a file is as readable for others as any new file."""
    synset = make_synset()
    path = synset.to_npz(tmp_path / "s.npz")
    before = path.read_bytes()
    for form in ("npz", "parquet", "d4rl", "datasets"):
        with pytest.raises(ExportError, match="exists already.*--overwrite"):
            formats.export(make_synset(seed=1), form, path)
    assert path.read_bytes() == before
    make_synset(seed=1).to_npz(path, overwrite=True)
    assert path.read_bytes() != before
    assert path.stat().st_mode & 0o044 == 0o044


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path):
    """--overwrite replaces an earlier export, and nobody's thesis."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(ExportError, match="is no export of a synset: it is not overwritten"):
        formats.export(make_synset(), "datasets", precious, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "x" and [p.name for p in tmp_path.iterdir()] == [
        "precious"
    ]
    out = formats.export(make_synset(), "datasets", tmp_path / "out")
    formats.export(make_synset(seed=1), "datasets", out, overwrite=True)
    make_synset().to_npz(tmp_path / "file")  # a file may become a folder, and leaves nothing behind
    formats.export(make_synset(), "datasets", tmp_path / "file", overwrite=True)
    (tmp_path / ".out.abcd.partial").touch()  # a file's, not a folder's
    formats.export(make_synset(), "datasets", out, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.abcd.partial", "file", "out", "precious"]


def test_a_folder_of_somebody_else_s_pairs_is_never_replaced(tmp_path):
    """Saved by datasets, as ours are; and a file that somebody put into one of ours."""
    import datasets

    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(str(theirs))
    with pytest.raises(ExportError, match="is no export of a synset"):
        formats.export(make_synset(), "datasets", theirs, overwrite=True)
    formats.export(make_synset(), "datasets", ours)
    (ours / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="'thesis.txt' lies in it and would be lost"):
        formats.export(make_synset(seed=1), "datasets", ours, overwrite=True)
    assert (ours / "thesis.txt").read_text() == "mine"


def test_actions_that_do_not_start_at_0():
    """Codebases that count from 0 would learn actions that their networks do not have."""
    synset = make_synset(action_space=spaces.Discrete(3, start=2))
    for codebase in ("d3rlpy", "tianshou", "imitation", "stable_baselines3", "rllib", "torchrl"):
        with pytest.raises(ExportError, match="counts actions from 0, and these start at 2"):
            pairs_for(codebase, synset)


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path):
    """Where a parent is a file, and with a folder that fails half-way nothing is left."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="could not be written"):
        make_synset().to_npz(tmp_path / "file" / "s.npz")
    with pytest.raises(ExportError, match="could not be written"):
        formats.export(make_synset(), "datasets", tmp_path / "file" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_actions_that_no_codebase_takes_are_refused():
    """With what to do instead."""
    synset = make_synset(action_space=TREE)
    with pytest.raises(ExportError, match=r"d3rlpy takes actions of one flat Box.*codec.decode"):
        pairs_for("d3rlpy", synset)
    assert to_arrays(synset)["actions"].shape == (6, 5)  # plain vectors hold any


def test_unknown_formats_are_answered():
    """The nearest name; for Stable-Baselines3 the function."""
    with pytest.raises(ExportError, match="Did you mean 'd4rl'"):
        formats.export(make_synset(), "d4lr", "x")
    with pytest.raises(ExportError, match="pretrain"):
        formats.export(make_synset(), "stable_baselines3", "x")


# ------------------------------------------------------------------------------------------------ wrappers


def test_the_wrapper_shows_the_students_x():
    """`NormalizeObservation` = `Units.normalise` of the raw observation, reset and step, unchanging."""
    synset = make_synset()
    raw = gymnasium.make("Pendulum-v1")
    env = NormalizeObservation.from_synset(gymnasium.make("Pendulum-v1"), synset)
    assert env.observation_space.shape == (3,)
    expected, shown = raw.reset(seed=1)[0], env.reset(seed=1)[0]
    for _ in range(3):
        x = synset.units().normalise(torch.as_tensor(expected))
        np.testing.assert_allclose(shown, x, rtol=1e-6, atol=1e-6)
        assert shown.dtype == np.float32 and shown in env.observation_space
        expected, shown = (e.step(np.float32([0.5]))[0] for e in (raw, env))


class TreeEnv(gymnasium.Env):
    observation_space, action_space = TREE, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"goal": np.float32([0.5, -0.5]), "mode": 2}, {}


def test_the_wrappers_make_vectors_of_a_dict():
    """In the layout of the synset's vectors."""
    synset = make_synset(observation_space=TREE)
    env = VectorObservation.from_synset(TreeEnv(), synset)
    assert env.observation_space == observation_box(synset)
    same(env.reset()[0], [0.5, -0.5, 0, 0, 1])
    x = NormalizeObservation.from_synset(TreeEnv(), synset).reset()[0]
    np.testing.assert_allclose(
        x * synset.observation_std + synset.observation_mean, [0.5, -0.5, 0, 0, 1], atol=1e-5
    )


def test_wrapped_environments_are_made_again_by_their_spec():
    """Gymnasium records how each wrapper was made; one of another environment is refused at once."""
    synset = make_synset()
    for wrapper in (VectorObservation, NormalizeObservation):
        env = wrapper.from_synset(gymnasium.make("Pendulum-v1"), synset)
        again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        np.testing.assert_array_equal(env.reset(seed=3)[0], again.reset(seed=3)[0])
        with pytest.raises(ConfigError, match=r"of shape \(3,\), .* have \(4,\)"):
            wrapper.from_synset(gymnasium.make("CartPole-v1"), synset)


# ---------------------------------------------------------------------------------------------- codebases


def test_the_package_imports_no_codebase():
    """`minari_distill`, its command line and every general exporter load without a single one of them."""
    names = ["", ".cli", ".wrappers"] + [
        f".exporters.{m}" for m in ("arrays", "pytorch", "files", "formats", "rllib")
    ]
    code = f"import importlib, sys\n[importlib.import_module('minari_distill' + n) for n in {names}]\n"
    code += f"print([c for c in {CODEBASES} if c in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["d3rlpy", "torchrl", "imitation", "stable_baselines3", "tianshou"])
def test_a_missing_codebase_answers_with_the_command(monkeypatch, module):
    """Also where it is installed: it is hidden here."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"minari_distill.exporters.{module}", raising=False)
    with pytest.raises(ExportError, match=r"pip install 'minari-distill\["):
        __import__(f"minari_distill.exporters.{module}")


def test_a_missing_ray_answers_when_it_is_needed(monkeypatch, tmp_path):
    """RLlib's file is written without Ray; its configuration needs it."""
    from minari_distill.exporters import rllib

    monkeypatch.setitem(sys.modules, "ray", None)
    path = rllib.save(make_synset(), tmp_path / "s.parquet")
    with pytest.raises(ExportError, match=r"pip install 'minari-distill\[rllib\]'"):
        rllib.bc_config(make_synset(), path)


def test_the_install_commands_are_of_extras_that_exist():
    """Every extra named is in pyproject.toml; a dependency that is missing is named too."""
    import tomllib

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    for command in INSTALL.values():
        assert command.split("[")[1].split("]")[0] in project["optional-dependencies"]
    with pytest.raises(ExportError, match="cannot be imported here .*nothing_of_that_name"), needs("d3rlpy"):
        import nothing_of_that_name  # noqa: F401


def test_rllib_rows(tmp_path):
    """Actions in [−1, 1], one episode a pair, the notes in the schema."""
    synset = make_synset()
    table = pq.read_table(formats.export(synset, "rllib", tmp_path / "s.parquet"))
    same(table["obs"].to_pylist(), synset.observations)
    np.testing.assert_allclose(table["actions"].to_pylist(), synset.actions / 2, rtol=1e-6)
    assert len(set(table["eps_id"].to_pylist())) == 6 and all(table["terminateds"].to_pylist())
    assert "behavioural cloning only" in table.schema.metadata[b"minari_distill"].decode()
    discrete = pq.read_table(formats.export(make_synset(**DISCRETE), "rllib", tmp_path / "d.parquet"))
    assert set(discrete["actions"].to_pylist()) <= {0, 1, 2}


# ------------------------------------------------------------------------------------------- command line


def test_rllib_scales_actions_back_by_the_range_that_they_were_written_in(tmp_path):
    """RLlib scales by the bounds of its action space: where the source's has none, the space is that of the file."""
    for high, unbounded in ((2.0, False), (np.inf, True), (1e9, True)):
        synset = make_synset(action_space=spaces.Box(-high, high, (1,), np.float32), soft=True)
        space = rllib._action_space(synset)
        rows = pq.read_table(rllib.save(synset, tmp_path / f"{high}.parquet"))["actions"]
        squashed = np.array(rows.to_pylist())
        back = space.low + (squashed + 1) / 2 * (space.high - space.low)
        np.testing.assert_allclose(back, synset.actions, rtol=1e-5, atol=1e-5)
        assert (space == synset.action_codec.kept_space) is not unbounded


def test_export_on_the_command_line(tmp_path, monkeypatch):
    """A file, how to read it, what it is for; JSON; and errors of one line."""
    monkeypatch.chdir(tmp_path)
    make_synset().save("me/pendulum-distilled-v0")
    result = run("export", "me/pendulum-distilled-v0", "--to", "npz", "--out", "s.npz")
    text = plain(result.output)
    assert result.exit_code == 0 and "Wrote 6 pairs for npz to s.npz" in text
    assert "numpy.load(path)" in text and "For behavioural cloning only" in text
    again = run("export", "me/pendulum-distilled-v0", "--to", "npz", "--out", "s.npz", "--json")
    assert again.exit_code == 1 and "exists already" in json.loads(again.stdout)["error"]
    result = run(
        "export", "me/pendulum-distilled-v0", "--to", "npz", "--out", "s.npz", "--json", "--overwrite"
    )
    assert json.loads(result.stdout)["n_syn"] == 6
    result = run("export", "me/pendulum-distilled-v0", "--to", "nzp", "--out", "s.nzp")
    assert result.exit_code == 1 and "Did you mean 'npz'?" in plain(result.output)
    result = run("export", "me/none-v0", "--to", "npz", "--out", "n.npz")
    assert result.exit_code == 1 and "not found" in plain(result.output)


def hopper_like():
    box = spaces.Box(-np.inf, np.inf, (11,), np.float32)
    return make_synset(256, box, spaces.Box(-1, 1, (3,), np.float32))


@pytest.mark.parametrize("module", ["arrays", "pytorch", "files", "formats"])
def test_the_docstrings_are_runs(module, tmp_path, monkeypatch):
    """On a synset of Hopper's shape."""
    monkeypatch.chdir(tmp_path)
    synset = hopper_like()
    result = doctest.testmod(
        __import__(f"minari_distill.exporters.{module}", fromlist=["x"]),
        extraglobs={"synset": synset, "np": np, "torch": torch},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.attempted > 1
    assert result.failed == 0


def test_the_page_needs_no_codebase_for_arrays_and_files(tmp_path, monkeypatch, capsys):
    """The blocks of "Arrays and files" in docs/exporters.md print what stands below them.

    Those of the codebases are run by tests/integrations.
    """
    monkeypatch.chdir(tmp_path)
    hopper_like().save("me/hopper-medium-distilled-v0")
    page = (Path(__file__).parent.parent / "docs" / "exporters.md").read_text()
    section = page.split("\n## Arrays and files\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", section, re.M | re.S)
    names: dict = {}
    for block, printed in blocks:
        capsys.readouterr()
        exec(compile(block, "exporters.md", "exec"), names)
        assert not printed or capsys.readouterr().out == printed
    assert len(blocks) == 3
    assert {p.name for p in tmp_path.iterdir()} >= {"hopper.npz", "hopper.safetensors", "hopper.parquet"}
