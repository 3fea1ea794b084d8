"""Episodes copied by HDF5 are what Minari would have written one by one."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from minari_distill.one_step_episodes import _first, write_episodes
from tests.synsets import MINIGRID, make_synset

TREE = spaces.Tuple(
    (
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Dict(a=spaces.MultiBinary(3), b=spaces.Box(0, 255, (4,), np.uint8)),
    )
)
SPACES = [
    {},
    {"observation_space": MINIGRID, "action_space": spaces.Discrete(7), "drop": ("mission",)},
    {
        "observation_space": TREE,
        "action_space": spaces.Dict(x=spaces.Box(-1, 1), y=spaces.MultiDiscrete([2, 3])),
    },
    {"observation_space": spaces.Tuple((spaces.Text(5), spaces.Box(-1, 1, (2,)))), "drop": ("0",)},
    {"observation_space": spaces.Box(-1, 1, ()), "action_space": spaces.Box(-1, 1, ())},
]


def written(path: Path) -> dict:
    """Every group's attributes and every dataset's type, shape and values, by name."""
    found = {}

    def visit(name, item):
        values = (item.dtype, item.shape, item[()].tolist()) if isinstance(item, h5py.Dataset) else None
        found[name] = ({k: (np.asarray(v).dtype, v) for k, v in item.attrs.items()}, values)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("fields", SPACES)
@pytest.mark.parametrize("n", [1, 12])
def test_the_file_is_what_minari_writes_pair_by_pair(tmp_path, fields, n):
    """Law: groups, attributes, types, shapes and values of all episodes, and the totals, are Minari's."""
    synset = make_synset(n, soft=False, **fields)
    obs_codec, act_codec = synset.observation_codec, synset.action_codec
    observations = obs_codec.decode(np.repeat(synset.observations, 2, axis=0))
    actions = act_codec.decode(synset.actions)
    folders = [tmp_path / "minari", tmp_path / "ours"]
    for folder in folders:
        folder.mkdir()
    storage = MinariStorage.new(
        folders[0], obs_codec.kept_space, act_codec.kept_space, jpeg_encoding=False, data_format="hdf5"
    )
    for i in range(n):
        rows = [_first(_after(v, k * i), k) for v, k in ((observations, 2), (actions, 1))]
        storage.update_episodes([EpisodeBuffer(None, None, None, *rows, [0.0], [False], [True], {})])
    ours = write_episodes(folders[1], synset.observations, synset.actions, obs_codec, act_codec, [{}] * n)
    assert written(ours) == written(folders[0] / "main_data.hdf5")
    totals = [MinariStorage.read(folder) for folder in folders]
    assert totals[0].total_episodes == totals[1].total_episodes == n
    assert totals[0].total_steps == totals[1].total_steps == n


def _after(value, start):
    if isinstance(value, dict):
        return {key: _after(v, start) for key, v in value.items()}
    return tuple(_after(v, start) for v in value) if isinstance(value, tuple) else value[start:]
