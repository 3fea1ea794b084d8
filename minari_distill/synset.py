"""`Synset`: a few hundred synthetic (state, action) pairs that behavioural cloning learns a good policy from.

    >>> synset.save("me/hopper-medium-distilled-v0")    # doctest: +SKIP
    >>> load_synset("me/hopper-medium-distilled-v0")    # doctest: +SKIP
    Synset of 256 pairs (obs_dim 11, act_dim 3), distilled from mujoco/hopper/medium-v0

`layout.py` says how it lies on disk: an ordinary Minari dataset and an ordinary Parquet file; `loading.py` reads it back.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minari_distill import layout
from minari_distill.config import DistillConfig
from minari_distill.errors import SynsetError
from minari_distill.files import building_folder
from minari_distill.recipe import StudentRecipe
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.targets import notes_in, refuse_folder, register_namespace, resolve_target
from minari_distill.units import Units

if TYPE_CHECKING:
    import datasets

    from minari_distill.exporters.pytorch import PairDataset
    from minari_distill.hub import Pushed

USE = "For behavioural cloning only: rewards, terminations and next observations are placeholders."


@dataclass(frozen=True, eq=False)
class Synset:
    """n_syn synthetic pairs in the units of the source dataset, and all that is known of them.

    Attributes:
        observations: (n_syn, obs_dim) float32, never normalised.
        actions: (n_syn, act_dim) float32, inside the bounds; probabilities for discrete actions.
        observation_codec, action_codec: Between these vectors and the source's spaces.
        source: Provenance of the dataset that was distilled.
        observation_mean: (obs_dim,) float32 of the source dataset, which students normalise with.
        observation_std: (obs_dim,) float32, the very divisor: σ + ε.
        recipe: The student that the pairs were distilled for.
        input_metric: (obs_dim, obs_dim) float32: D of `metric.py`. Students of a recipe with `in_metric` read normalised
            observations x as x D. None: no student does.
        config: Settings of the distillation, if there was one.
        metadata: Anything else in JSON: the teacher and its score, the history of the held-out loss, seconds,
            scores with their protocol, versions. NaN and infinite numbers become None.

    Raises:
        SynsetError: Shapes that do not fit together, no pairs, values that are not finite or out of bounds.
    """

    observations: np.ndarray
    actions: np.ndarray
    observation_codec: SpaceCodec
    action_codec: SpaceCodec
    source: Source
    observation_mean: np.ndarray
    observation_std: np.ndarray
    recipe: StudentRecipe = field(default_factory=StudentRecipe)
    config: DistillConfig | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    input_metric: np.ndarray | None = None

    def __post_init__(self) -> None:
        codecs = {"observations": self.observation_codec, "actions": self.action_codec}
        for name, codec in codecs.items():
            vectors = np.ascontiguousarray(getattr(self, name), dtype=codec.dtype)
            object.__setattr__(self, name, vectors)
            if vectors.ndim != 2 or vectors.shape[1] != codec.dim:
                raise SynsetError(f"{name} of shape {vectors.shape} given, (n_syn, {codec.dim}) expected.")
        if not len(self.observations) or len(self.observations) != len(self.actions):
            raise SynsetError(
                f"{len(self.observations)} observations and {len(self.actions)} actions given: a synset holds as "
                "many of one as of the other, and at least one."
            )
        for name, codec in codecs.items():
            fault = codec.fault(getattr(self, name))
            if fault:
                raise SynsetError(
                    f"The {name} of a synset lie in their space; {fault}. Use SpaceCodec.project."
                )
        for name in ("observation_mean", "observation_std"):
            vector = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, vector)
            if vector.shape != (self.observation_codec.dim,) or not np.isfinite(vector).all():
                raise SynsetError(
                    f"{name} of shape {vector.shape} given, ({self.observation_codec.dim},) finite numbers expected."
                )
        if (self.observation_std <= 0).any():
            raise SynsetError(f"observation_std holds {self.observation_std.min()}; a divisor is positive.")
        if self.input_metric is not None:
            matrix = np.ascontiguousarray(self.input_metric, dtype=np.float32)
            object.__setattr__(self, "input_metric", matrix)
            dim = self.observation_codec.dim
            if matrix.shape != (dim, dim) or not np.isfinite(matrix).all():
                raise SynsetError(
                    f"input_metric of shape {matrix.shape} given, ({dim}, {dim}) finite numbers expected."
                )
        if self.input_metric is None and self.recipe.in_metric:
            raise SynsetError(
                "The recipe's students read in an input metric (in_metric=True) and none is given. Give input_metric, "
                "or a recipe with in_metric=False."
            )
        object.__setattr__(self, "metadata", layout.to_json(self.metadata))

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        return (
            f"Synset of {len(self)} pairs (obs_dim {self.observation_codec.dim}, act_dim {self.action_codec.dim}), "
            f"{self._made_from()} {', '.join(self.source.dataset_ids)}"
        )

    def with_metadata(self, **entries: Any) -> Synset:
        """The same synset with entries added to its metadata, for instance `scores={…}`."""
        return dataclasses.replace(self, metadata={**self.metadata, **entries})

    def units(self) -> Units:
        """The units in which its students work: the source's statistics and the range of its actions."""
        recorded = self.metadata.get("action_range")  # of the source's actions, as they were distilled
        low, high = recorded or (self.action_codec.low, self.action_codec.high)
        return Units.of(
            self.observation_mean,
            self.observation_std,
            low,
            high,
            discrete=self.action_codec.is_discrete,
            actions=None if recorded else self.actions,
        )

    def summary(self) -> dict[str, Any]:
        """What it is, in a dozen JSON values."""
        config, metadata = self.config, self.metadata
        return {
            "n_syn": len(self),
            "obs_dim": self.observation_codec.dim,
            "act_dim": self.action_codec.dim,
            "source": list(self.source.dataset_ids),
            "environment": self.source.env_id,
            "reference_scores": [self.source.ref_min_score, self.source.ref_max_score],
            "reference_origin": self.source.ref_origin,
            "objective": config.objective if config else None,
            "outer_steps": config.outer_steps if config else None,
            "seed": config.seed if config else None,
            "recipe": layout.to_json(dataclasses.asdict(self.recipe)),
            **{
                key: metadata[key]
                for key in ("held_out_loss", "expansion", "teacher", "scores", "seconds")
                if key in metadata
            },
        }

    # ------------------------------------------------------------------------------------------ on disk

    def save(self, target: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as a Minari dataset that needs no minari_distill, and as Parquet beside it.

        The folder appears whole or not at all: it is built in a hidden sibling and renamed, so that a save that
        fails or is interrupted leaves nothing behind and breaks nothing that was there.

        Args:
            target: A Minari id ("me/hopper-medium-distilled-v0"), saved where Minari keeps its datasets, or a
                folder (a `Path`, or text that is no id).
            overwrite: Replace a synset that is already there; notes and pictures beside it stay.

        Returns:
            The folder, which `minari.MinariDataset(folder / "data")` reads and `hf upload` can push.

        Raises:
            SynsetError: A bad id, something is there already, another process is writing it, the disk is full.
        """
        folder, dataset_id = resolve_target(target)
        try:
            with building_folder(folder) as temporary:
                refuse_folder(folder, target, overwrite)
                self.write(temporary, dataset_id)
                for note in notes_in(folder):
                    kept = temporary / note.relative_to(folder)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(note, kept)
            register_namespace(dataset_id)
        except BlockingIOError as error:
            raise SynsetError(
                f"Another process is saving '{target}' at this moment. Wait until it ends, or choose another name."
            ) from error
        except OSError as error:
            raise SynsetError(
                f"'{target}' could not be saved: {error.strerror or error}. Nothing was left behind; what was there "
                "before still is."
            ) from error
        return folder

    def write(self, folder: Path, dataset_id: str) -> None:
        """Write its four files into an empty folder, under a Minari id; `save` does so whole or not at all."""
        layout.write_layout(
            folder,
            self.observations,
            self.actions,
            self.observation_codec,
            self.action_codec,
            self._minari_metadata(dataset_id),
            self._record(),
        )

    def write_single(self, path: Path) -> None:
        """One Parquet file with everything in it, as the gallery keeps them."""
        layout.write_single(path, self.observations, self.actions, self._record())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        name: str | None = None,
        private: bool | None = None,
        revision_tag: str | None = None,
    ) -> Pushed:
        """Share it in a Hugging Face dataset repository, beside the synsets that are there.

        Args:
            repo_id: "user/repo"; made if it does not exist.
            name: Its name there, as "hopper-medium-distilled-v0"; by default made of the source's id.
            private: Whether a new repository is private; by default what the account's settings say.
            revision_tag: A tag for the commit, as "v1.0".

        Returns:
            Where it lies now; `print(pushed.address)` shows what `load_synset` takes.

        Raises:
            HubError: It cannot be pushed; the message names the repair, and the repository is whole.
        """
        from minari_distill.hub import push  # the network's libraries take half a second to import

        return push(self, repo_id, name=name, private=private, revision_tag=revision_tag)

    # -------------------------------------------------------------------------------- in other codebases
    # Imported when asked for, as the Hub is; `exporters/` says more of each form, and holds those of RL codebases.

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Raw pairs, the source's obs_mean and obs_std, the actions' bounds; see `exporters.arrays.to_arrays`."""
        from minari_distill.exporters.arrays import to_arrays

        return to_arrays(self)

    def to_d4rl_dict(self, *, metadata: bool = True) -> dict[str, np.ndarray]:
        """D4RL's dict of arrays, rewards and all that a synset does not know being placeholders.

        `metadata=False` leaves out what is not one row a pair; see `exporters.arrays.to_d4rl_dict`.
        """
        from minari_distill.exporters.arrays import to_d4rl_dict

        return to_d4rl_dict(self, metadata=metadata)

    def to_torch(self) -> PairDataset:
        """A PyTorch `Dataset` of raw pairs; `.loader(batch_size)` is a `DataLoader`."""
        from minari_distill.exporters.pytorch import PairDataset

        return PairDataset(self)

    def to_datasets(self) -> datasets.Dataset:
        """A Hugging Face `Dataset` with the columns of the Hub: "observation" and "action", or one a part."""
        from minari_distill.exporters.files import to_datasets

        return to_datasets(self)

    def to_npz(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """The arrays of `to_arrays` in NumPy's format; ExportError where `path` exists already."""
        from minari_distill.exporters.files import to_npz

        return to_npz(self, path, overwrite=overwrite)

    def to_safetensors(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """The arrays of `to_arrays` as safetensors; ExportError where `path` exists already."""
        from minari_distill.exporters.files import to_safetensors

        return to_safetensors(self, path, overwrite=overwrite)

    def to_parquet(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """One row a pair, the statistics in the schema's metadata; ExportError where `path` exists already."""
        from minari_distill.exporters.files import to_parquet

        return to_parquet(self, path, overwrite=overwrite)

    def _record(self) -> dict[str, Any]:
        """What goes under "synset" in the metadata, and into synset.json."""
        config = dataclasses.asdict(self.config) if self.config else None
        return layout.to_json(
            {
                "format": layout.FORMAT,
                "format_version": layout.FORMAT_VERSION,
                "n_syn": len(self),
                "source": self.source.to_json(),
                "objective": self.config.objective if self.config else None,
                "seed": self.config.seed if self.config else None,
                "config": config,
                "recipe": dataclasses.asdict(self.recipe),
                "normalisation": {"mean": self.observation_mean, "std": self.observation_std},
                "input_metric": layout.matrix_to_json(self.input_metric),
                "observation_codec": self.observation_codec.spec(),
                "action_codec": self.action_codec.spec(),
                "rewards_are_placeholders": True,
                "transitions_are_placeholders": True,
                "use": USE,
                "metadata": self.metadata,
            }
        )

    def _made_from(self) -> str:
        """How its pairs came from the source, for people."""
        expansion = self.metadata.get("expansion")
        few = expansion.get("n_syn") if isinstance(expansion, dict) else None
        return f"made of {few} distilled from" if isinstance(few, int) else "distilled from"

    def _minari_metadata(self, dataset_id: str) -> dict[str, Any]:
        """Minari's own keys; those that the source lacks are left out."""
        source = self.source
        objective = f" ({self.config.objective})" if self.config else ""
        known = {
            "env_spec": source.env_spec,
            "eval_env_spec": source.eval_env_spec,
            "ref_min_score": source.ref_min_score,
            "ref_max_score": source.ref_max_score,
            "ref_score_origin": source.ref_origin or None,
            "requirements": list(source.requirements) or None,
            "license": source.license,
        }
        return {
            "dataset_id": dataset_id,
            "algorithm_name": f"offline behaviour distillation{objective}",
            "author": list(source.author),
            "author_email": [],
            "code_permalink": "",
            "description": f"{len(self)} synthetic pairs {self._made_from()} {', '.join(source.dataset_ids)}. {USE}",
            **{key: value for key, value in known.items() if value is not None},
        }
