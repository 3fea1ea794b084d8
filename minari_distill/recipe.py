"""`StudentRecipe`: how students are built and trained, wherever there are any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from minari_distill.checks import (
    check_at_least,
    check_betas,
    check_kinds,
    check_one_of,
    check_positive,
    make_python,
    replace_fields,
)
from minari_distill.errors import ConfigError


@dataclass(frozen=True)
class StudentRecipe:
    """How a student is built and trained on a synset: all that behavioural cloning needs to know.

    A student is an MLP (ReLU) that maps a normalised observation to an action in [-1, 1] (`tanh`), to an
    action of its own scale (`linear`, clipped to the bounds when acting) or to probabilities (`softmax`).
    It is trained by mean squared error (cross-entropy for `softmax`), on the whole synset at every step or on minibatches.
    """

    hidden_layers: int = 3  # hidden layers, ReLU
    hidden_width: int = 256  # units of each
    residual: bool = False  # add each hidden layer's input to its output
    head: str = "tanh"  # "tanh" | "linear" | "softmax"
    init: str = "orthogonal"  # "orthogonal": gain √2, zero biases. "torch": nn.Linear's own default
    output_gain: float = 1.0  # the last layer's weights, times this
    optimizer: str = "adam"  # "sgd" | "momentum" | "adam" | "adamw"
    lr: float = 1e-3  # learning rate
    momentum: float = 0.9  # of "momentum"
    betas: tuple[float, float] = (0.9, 0.999)  # of "adam" and "adamw"
    eps: float = 1e-8  # likewise
    weight_decay: float = 0.0  # of every optimiser
    steps: int = 1000  # of the optimiser
    batch: int = 0  # pairs a student and step, drawn with replacement; 0 = all pairs at every step
    in_metric: bool = False  # reads observations in the synset's input metric (metric.py)
    infinite: bool = False  # of infinite width, in closed form (infinite.py): no optimiser, no steps
    ridge: float = 1e-2  # of such a student: λ, as a share of its kernel's mean diagonal

    def __post_init__(self) -> None:
        check_kinds(self)
        check_one_of("head", self.head, ("tanh", "linear", "softmax"))
        check_one_of("init", self.init, ("orthogonal", "torch"))
        check_one_of("optimizer", self.optimizer, ("sgd", "momentum", "adam", "adamw"))
        check_at_least("hidden_layers", self.hidden_layers, 1)
        check_at_least("hidden_width", self.hidden_width, 1)
        check_at_least("steps", self.steps, 1)
        check_at_least("batch", self.batch, 0)
        check_positive("lr", self.lr)
        check_positive("ridge", self.ridge)
        for name, least, most in (
            ("momentum", 0, 1),
            ("eps", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("output_gain", -math.inf, math.inf),
        ):
            if not (least <= getattr(self, name) < most and math.isfinite(getattr(self, name))):
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be finite"
                    + (f", at least {least}" if least == 0 else "")
                    + (f" and below {most}." if most == 1 else ".")
                )
        if self.infinite and self.residual:
            raise ConfigError("infinite=True has no residual=True: give one of the two.")
        check_betas("betas", self.betas)
        make_python(self)

    @property
    def told(self) -> str:
        """The recipe in one line, for people."""
        read = ", reading in the input metric" if self.in_metric else ""
        if self.infinite:
            return f"infinite width, {self.hidden_layers} hidden layers, {self.head} head, in closed form with ridge {self.ridge:g}{read}"
        layers = f"{self.hidden_layers} hidden layers of {self.hidden_width}, {self.head} head"
        batch = f" on minibatches of {self.batch}" if self.batch else ""
        return f"{layers}, {self.steps} steps of {self.optimizer} at {self.lr:g}{batch}{read}"

    def replace(self, **changes: Any) -> StudentRecipe:
        """The same recipe with some fields changed; an unknown name is answered with the nearest one."""
        return replace_fields(self, changes)


INFINITE_FIELDS = {"infinite", "hidden_layers", "head", "in_metric", "ridge"}
"""All that tells a student of infinite width; the other fields are of networks."""

GENERAL_RECIPE = StudentRecipe(init="torch")
"""A plain student that nothing was tuned for: PyTorch's default initialisation, Adam 1e-3, 1000 steps."""
