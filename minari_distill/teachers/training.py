"""What every method of learning a teacher shares: the data on its device, Adam, and a resumable state."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from minari_distill import __version__
from minari_distill.config import DistillConfig
from minari_distill.errors import Diverged, TeacherError
from minari_distill.teachers.teacher import Teacher
from minari_distill.transitions import Transitions

TEACHER_SETTINGS = (
    "seed teacher_method teacher_steps teacher_batch discount actor_lr critic_lr target_rate cql_alpha cql_n_actions discrete_cql_alpha "
    "q_temperature top_fraction precision"
).split()
"""Settings that a training depends on."""


class Trainer(ABC):
    """Offline learning of (π*, q) in steps; stopping after any of them and going on later changes nothing.

    Attributes:
        step_count: Gradient steps done.
        total_steps: Gradient steps of a whole training.
        units: What the networks' numbers mean.
        generator: Every random number of the training.
    """

    method: ClassVar[str]
    usual_steps: ClassVar[int]  # gradient steps of a whole training, where the settings name none

    def __init__(self, transitions: Transitions, config: DistillConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.step_count, self.total_steps = 0, config.teacher_steps
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.units = transitions.units()
        self._sources = list(transitions.source.dataset_ids)
        self._mark = self._marked(transitions)

    @abstractmethod
    def advance(self, n_steps: int) -> float:
        """Do `n_steps` gradient steps; returns the loss, averaged over them."""

    @abstractmethod
    def teacher(self) -> Teacher:
        """The teacher as learnt so far; it shares no memory with the training."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that the steps change, by name, to be copied out of and into."""

    def cost_as_late(self) -> None:  # noqa: B027
        """Let steps cost what late ones cost at most, where early ones cost less; for estimates of time."""

    def _marked(self, transitions: Transitions) -> Tensor:
        """What a training is known by again, (32,) uint8: a digest of its settings and of the episodes' shape and rewards."""
        settings = {name: getattr(self.config, name) for name in TEACHER_SETTINGS}
        data = [len(transitions), transitions.obs_dim, transitions.act_dim, self._sources]
        digest = hashlib.sha256(json.dumps([self.method, settings, data, self.device.type]).encode())
        digest.update(transitions.episode_lengths.astype(np.int64).tobytes())
        digest.update(transitions.episode_returns().tobytes())
        return torch.tensor(list(digest.digest()), dtype=torch.uint8)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of all that decides how the training goes on."""
        return {
            "step": torch.tensor(self.step_count),
            "mark": self._mark,
            "generator": self.generator.get_state(),
            **{name: tensor.detach().cpu().clone() for name, tensor in self.tensors().items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            TeacherError: It belongs to another training: another method, other settings, other data, or another kind of device.
        """
        live = self.tensors()
        expected = {name: tuple(t.shape) for name, t in live.items()} | {"step": (), "mark": (32,)}
        given = {name: tuple(t.shape) for name, t in state.items() if name != "generator"}
        if expected != given or "generator" not in state:
            different = sorted(n for n in expected.keys() | given.keys() if expected.get(n) != given.get(n))
            raise TeacherError(
                f"The checkpoint is not one of this {self.method} training (other {', '.join(different[:3])}): "
                "give the run's own settings, or start anew without resume."
            )
        if not torch.equal(state["mark"].cpu(), self._mark):
            raise TeacherError(
                f"The checkpoint is one of another {self.method} training: of other data, other settings (seed, rates, steps …) "
                "or another kind of device. Go on where it began, or start anew without resume."
            )
        for name, tensor in live.items():
            tensor.copy_(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.step_count = int(state["step"])

    @property
    def metadata(self) -> dict[str, Any]:
        """How the teacher came to be."""
        return {
            "method": self.method,
            "gradient_steps": self.step_count,
            "dataset_ids": self._sources,
            "seed": self.config.seed,
            "discount": self.config.discount,
            "versions": {"minari_distill": __version__, "torch": torch.__version__},
        }

    def tabulate(self, transitions: Transitions, columns: Callable[[slice], list[Tensor]]) -> Tensor:
        """A row a transition, from `columns(rows)` side by side; a mapped dataset's is mapped (a GPU holds it whole)."""
        wide = "float64" if self.dtype == torch.float64 else "float32"
        width = sum(c.shape[1] for c in columns(slice(0, 1)))
        table = transitions.room.filled(
            len(transitions),
            (width,),
            wide,
            lambda rows: torch.cat([c.to(self.dtype) for c in columns(rows)], 1),
        )
        return torch.from_numpy(table).to(self.device)

    def on_device(self, array: Any) -> Tensor:
        """A NumPy array or a tensor as numbers of this training."""
        return torch.as_tensor(array).to(self.device, self.dtype)

    def check_finite(self, loss: float) -> float:
        """The loss.

        Raises:
            Diverged: It is NaN or infinite.
        """
        if not math.isfinite(loss):
            raise Diverged(
                f"The {self.method} teacher's loss became {loss} before step {self.step_count}: lower "
                "critic_lr and actor_lr, or look for extreme rewards and observations in the dataset."
            )
        return loss


class SteppingTrainer(Trainer):
    """A method of equal steps, each without a word between host and device: on a GPU, a CUDA graph replayed."""

    def __init__(self, transitions: Transitions, config: DistillConfig, device: torch.device) -> None:
        super().__init__(transitions, config, device)
        self._loss = torch.zeros(
            (), dtype=self.dtype, device=device
        )  # summed over the steps of one `advance`
        self._graph: torch.cuda.CUDAGraph | None = None

    @abstractmethod
    def _step(self) -> None:
        """Draw a batch, do one gradient step, add its loss to `_loss`."""

    def advance(self, n_steps: int) -> float:
        """Do `n_steps` gradient steps; returns the critics' loss, averaged over them."""
        if self.device.type == "cuda" and self._graph is None:
            self._graph = self._capture()
        step = self._graph.replay if self._graph else self._step
        self._loss.zero_()
        for _ in range(n_steps):
            step()
        self.step_count += n_steps
        return self.check_finite(float(self._loss) / n_steps)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The step as a CUDA graph: one launch, and no word with the host inside."""
        before = self.state_dict()
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):  # the libraries set themselves up outside the capture
            for _ in range(3):
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.load_state_dict(before)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=side):  # its own choice would be of the current device
            self._step()
        return graph


class Adam:
    """Adam (Kingma and Ba, 2015) on flat vectors, one fused kernel each; its moments are plain tensors.

    `lr` is one rate a vector. On a GPU the step count lives there too, so that a CUDA graph can hold it.
    """

    def __init__(self, vectors: list[Tensor], lr: list[float], weight_decay: float = 0.0) -> None:
        groups = [{"params": [v], "lr": rate} for v, rate in zip(vectors, lr, strict=True)]
        self._optimizer = torch.optim.AdamW(
            groups, weight_decay=weight_decay, fused=True, capturable=vectors[0].is_cuda
        )
        self.gradients = [torch.zeros_like(v) for v in vectors]
        self.moments: dict[str, Tensor] = {}
        for i, (v, gradient) in enumerate(zip(vectors, self.gradients, strict=True)):
            v.grad = gradient
            state = {
                "step": torch.zeros((), dtype=torch.float32, device=v.device),
                "exp_avg": torch.zeros_like(v),
                "exp_avg_sq": torch.zeros_like(v),
            }
            self._optimizer.state[v] = state
            self.moments |= {f"adam.{i}.{name}": tensor for name, tensor in state.items()}

    def set_lr(self, lr: list[float]) -> None:
        """Other rates from now on (not inside a CUDA graph)."""
        for group, rate in zip(self._optimizer.param_groups, lr, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        """θ ← θ − lr·(m̂ / (√v̂ + ε) + decay·θ), with `gradients`."""
        self._optimizer.step()
