"""What is run: a cell is one dataset × method × size × seed; a reading is one kind of student scored in it.

methods     teacher, bc (all data), random and relabelled (pairs that were not distilled), dbc, pbc, av_pbc, auto
readings    main            students of both protocols
            ensembles       students whose actions are averaged
            architectures   2 to 6 layers, and 4 with residual connections
            optimizers      SGD, momentum, Adam, AdamW
            expanded        networks taught by the pairs' own student (`expand.py`)
            snapshots       the best synset after so many outer steps
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minari_distill.checks import check_seed
from minari_distill.config import make_config, unchecked_settings
from minari_distill.errors import ConfigError, did_you_mean
from minari_distill.objectives import OBJECTIVES
from minari_distill.recipe import GENERAL_RECIPE

BASELINES = ["random", "relabelled"]
PROTOCOLS = ["recipe", "general"]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # A network of L layers has L - 1 hidden ones.
    **{f"{layers} layers": {"hidden_layers": layers - 1} for layers in range(2, 7)},
    "4 layers, residual": {"hidden_layers": 3, "residual": True},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.1},
    "momentum": {"optimizer": "momentum", "lr": 0.1, "momentum": 0.9},
    "adam": {"optimizer": "adam", "lr": 1e-3},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2},
}
READING_GROUPS = ["main", "ensembles", "architectures", "optimizers", "expanded"]
EXPANDED_PAIRS = 20_000


@dataclass(frozen=True)
class Dataset:
    """A dataset of the grid: Minari ids read as one, and a teacher's file; without one the teacher is learnt."""

    ids: tuple[str, ...]
    teacher: str | None = None
    teacher_digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))  # JSON knows only lists

    @property
    def name(self) -> str:
        """The ids joined by "+"; of a folder elsewhere, the end of its path."""
        return "+".join("/".join(Path(i).parts[-2:]) if Path(i).is_absolute() else i for i in self.ids)

    @classmethod
    def parse(cls, text: str) -> Dataset:
        """`id`, `id=teacher.safetensors` or `id+id=teacher.safetensors`.

        Raises:
            ConfigError: No id, or the teacher's file does not exist.
        """
        ids, equals, teacher = text.partition("=")
        names = [name.strip() for name in ids.split("+")]
        if not all(names) or (equals and not teacher):
            raise ConfigError(
                f"--dataset {text!r} must be ID, ID=TEACHER or ID+ID=TEACHER, for example "
                "--dataset mujoco/hopper/medium-v0+mujoco/hopper/expert-v0=teacher.safetensors."
            )
        if not teacher:
            return cls(tuple(names))
        path = Path(teacher).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(
                f"The teacher's file '{teacher}' of {ids} does not exist. Give one that does, or leave "
                "'=TEACHER' out to learn a teacher first."
            )
        return cls(tuple(names), str(path), hashlib.sha256(path.read_bytes()).hexdigest()[:12])


@dataclass(frozen=True)
class Reading:
    """One kind of student to train and roll out.

    Attributes:
        group: One of the module's reading groups, or "snapshots".
        protocol: "recipe", "general", "teacher", "bc" or "expanded".
        n_policies: Policies that are rolled out, each an ensemble of `ensemble` students.
        ensemble: 1 = no ensemble.
        variant: Of the group, as "3 layers".
        changes: Fields of the student recipe that are replaced.
        outer_step: The synset as it was after so many outer steps; None = at the end.
        n_expanded: Pairs that the synset is expanded to before it is read; 0 = it is read as it is.
    """

    group: str
    protocol: str
    n_policies: int
    ensemble: int = 1
    variant: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    outer_step: int | None = None
    n_expanded: int = 0

    @property
    def key(self) -> str:
        """Its name inside a cell."""
        return "/".join(filter(None, (self.group, self.protocol, self.variant)))


@dataclass(frozen=True)
class Cell:
    """One dataset × method × size × seed, and the readings that are wanted of it.

    Attributes:
        label: Tells apart results of one method with other settings; the preset's name by default. Empty where
            the settings do not matter: a teacher that was given, BC on all data.
        settings: Fields of `DistillConfig` on top of the preset's.
        n_episodes: Episodes a policy.
        bc_steps, bc_batch: Of behavioural cloning on all data; 0 elsewhere.
    """

    dataset: Dataset
    method: str
    readings: tuple[Reading, ...]
    n_syn: int = 0
    seed: int = 0
    label: str = "default"
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    n_episodes: int = 10
    n_students: int = 5
    bc_steps: int = 0
    bc_batch: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """All that its numbers depend on, except which readings are wanted and where files lie.

        A preset's settings stand in it by value: another release may ship others under the same name.
        """
        whole = self.to_json()
        del whole["readings"]
        del whole["dataset"]["teacher"]
        if self.label:
            whole["config"] = unchecked_settings(**self.config_settings)
        return whole

    @property
    def name(self) -> str:
        """A file name: readable parts, and a digest of the identity."""
        size = f"-{self.n_syn}" if self.n_syn else ""
        text = f"{self.dataset.name}-{self.label}-{self.method}{size}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9_]+', '-', text).strip('-')}-{_digest(self.identity)}"

    @property
    def run_name(self) -> str:
        """The folder of its distillation, which does not depend on how many students read it."""
        parts = {k: v for k, v in self.identity.items() if k not in ("label", "n_episodes", "n_students")}
        return f"{self.method}-{_digest(parts)}"

    @property
    def config_settings(self) -> dict[str, Any]:
        """Overrides for `distill`: the cell's own, and what makes a baseline one."""
        given = {"preset": self.preset, **self.settings, "seed": self.seed}
        if self.n_syn:
            given["n_syn"] = self.n_syn
        if self.method in OBJECTIVES:
            return given | {"objective": self.method}
        if self.method == "random":
            return given | {"objective": "dbc", "initializer": "random", "outer_steps": 0}
        if self.method == "relabelled":
            return given | {"objective": "pbc", "initializer": "relabelled", "outer_steps": 0}
        return given

    def to_json(self) -> dict[str, Any]:
        """JSON types; `from_json` reads them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cell:
        """The cell that `to_json` described."""
        readings = tuple(Reading(**r) for r in record["readings"])
        return cls(**record | {"dataset": Dataset(**record["dataset"]), "readings": readings})


def grid(
    datasets: Sequence[Dataset],
    *,
    objectives: Sequence[str] = ("auto",),
    sizes: Sequence[int] = (256,),
    seeds: Sequence[int] = (0,),
    groups: Sequence[str] = ("main", "ensembles"),
    snapshots: Sequence[int] = (),
    preset: str = "default",
    label: str | None = None,
    settings: dict[str, Any] | None = None,
    baselines: bool = True,
    n_students: int = 5,
    n_episodes: int = 10,
    ensemble: int = 10,
    n_ensembles: int = 1,
    bc_steps: int = 25_000,
    bc_batch: int = 256,
) -> list[Cell]:
    """The cells of a benchmark, each dataset's teacher first.

    Raises:
        ConfigError: A name or a setting that does not exist.
    """
    settings = settings or {}
    _known("objective", objectives, list(OBJECTIVES))
    _known("read", groups, READING_GROUPS)
    for name in ("n_syn", "objective", "seed", "preset"):
        if name in settings:
            option = {"n_syn": "--size"}.get(name, f"--{name}")
            raise ConfigError(f"{name} is an axis of the grid: give it with {option}, not with --set.")
    for name, value in {
        "students": n_students,
        "episodes": n_episodes,
        "ensemble": ensemble,
        "ensembles": n_ensembles,
        "bc-steps": bc_steps,
        "bc-batch": bc_batch,
        **{f"size {n}": n for n in sizes},
    }.items():
        if value < 1:
            raise ConfigError(f"--{name} must be at least 1, not {value}.")
    for seed in seeds:
        check_seed(seed)
    datasets, objectives = list(dict.fromkeys(datasets)), list(dict.fromkeys(objectives))
    sizes, seeds = list(dict.fromkeys(sizes)), list(dict.fromkeys(seeds))
    outer_steps = make_config(preset, **settings).outer_steps  # refuses what is misspelt before anything runs
    late = [s for s in snapshots if not 0 <= s <= outer_steps]
    if late:
        raise ConfigError(f"--snapshot {late[0]} must lie between 0 and outer_steps={outer_steps}.")
    main = [Reading("main", p, n_students) for p in PROTOCOLS]
    read = synset_readings(groups, snapshots, n_students, ensemble, n_ensembles)
    shared: dict[str, Any] = {
        "label": label or preset,
        "preset": preset,
        "settings": settings,
        "n_episodes": n_episodes,
        "n_students": n_students,
    }
    plain = shared | {"label": "", "preset": "default"}
    plain["settings"] = {k: v for k, v in settings.items() if k == "device"}
    cells = [
        # one teacher, so as many episodes as all the students of another cell have
        Cell(
            d,
            "teacher",
            (Reading("main", "teacher", 1),),
            **(plain if d.teacher else shared) | {"n_episodes": n_students * n_episodes},
        )
        for d in datasets
    ]
    for d in datasets:
        if baselines:
            bc = Reading("main", "bc", n_students)
            cells.append(Cell(d, "bc", (bc,), bc_steps=bc_steps, bc_batch=bc_batch, **plain))
        for seed in seeds:
            for n_syn in sizes:
                if baselines:
                    cells += [Cell(d, m, tuple(main), n_syn, seed, **shared) for m in BASELINES]
                cells += [Cell(d, objective, tuple(read), n_syn, seed, **shared) for objective in objectives]
    return cells


def synset_readings(
    groups: Sequence[str], snapshots: Sequence[int], n_students: int, ensemble: int, n_ensembles: int
) -> list[Reading]:
    """What is read of a distilled synset, both protocols each."""
    readings: list[Reading] = []
    for protocol in PROTOCOLS:
        if "main" in groups:
            readings.append(Reading("main", protocol, n_students))
        if "ensembles" in groups:
            name = f"ensemble of {ensemble}"
            readings.append(Reading("ensembles", protocol, n_ensembles, ensemble, name))
        for group, variants in (("architectures", ARCHITECTURES), ("optimizers", OPTIMIZERS)):
            if group in groups:
                readings += [
                    Reading(group, protocol, n_students, variant=variant, changes=_network(group, changes))
                    for variant, changes in variants.items()
                ]
        readings += [
            Reading("snapshots", protocol, n_students, variant=f"step {step}", outer_step=step)
            for step in snapshots
        ]
    if "expanded" in groups:
        variant = f"{EXPANDED_PAIRS:,} pairs"
        readings.append(
            Reading("expanded", "expanded", n_students, variant=variant, n_expanded=EXPANDED_PAIRS)
        )
    return readings


def _network(group: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Networks alone have optimisers and widths; optimisers are compared at a general student's number of steps."""
    return changes | {"infinite": False} | ({"steps": GENERAL_RECIPE.steps} if group == "optimizers" else {})


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"--{option} {name!r} is unknown.{did_you_mean(name, known)} Choose from: {', '.join(known)}."
            )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
