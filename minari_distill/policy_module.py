"""A policy as one module of torch operations, raw observation in and raw action out, for TorchScript and ONNX.

    observation (n, *shape) ─ flatten ─ (s − mean)/std ─ K students ─ mean ─ into the bounds ─ action (n, *shape)
                                                                    └ discrete ─ argmax ─ action (n,) int64

Whoever opens the file needs neither minari_distill nor the statistics of the data.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from gymnasium import spaces
from torch import Tensor, nn

from minari_distill.errors import ConfigError, missing_package
from minari_distill.networks import forward
from minari_distill.spaces import SpaceCodec
from minari_distill.units import Units

if TYPE_CHECKING:
    from minari_distill.policy import Policy


class PolicyModule(nn.Module):
    """`Policy` for batches of tensors.

    Args:
        policy: Of a Box or Discrete action space. Observations of other spaces than Box are the codec's vectors.

    Raises:
        ConfigError: The action space is another one, which no single tensor holds.
    """

    theta: Tensor
    obs_mean: Tensor
    obs_std: Tensor
    act_low: Tensor
    act_high: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        space = policy.action_codec.space
        if not isinstance(space, spaces.Box | spaces.Discrete):
            raise ConfigError(
                f"TorchScript and ONNX policies have actions of a Box or a Discrete space, not {space}. Save this "
                "policy as .safetensors and read it with md.load_policy."
            )
        self.observation_shape = observation_shape(policy.observation_codec)
        self.batch = as_batch
        self.arch = policy.arch
        self.register_buffer("theta", policy.theta.cpu())
        # buffers, which move with the module, where a tracer would make constants of them
        for name in ("obs_mean", "obs_std", "act_low", "act_high"):
            self.register_buffer(name, getattr(policy.units, name).cpu())
        self.discrete = isinstance(space, spaces.Discrete)
        self.first = int(space.start) if isinstance(space, spaces.Discrete) else 0
        self.action_shape = space.shape or ()
        self.rounds = isinstance(space, spaces.Box) and space.dtype.kind in "iu"
        for name, bound in (("low", policy.action_codec.low), ("high", policy.action_codec.high)):
            self.register_buffer(name, torch.as_tensor(bound, dtype=torch.float32))

    def forward(self, observation: Tensor) -> Tensor:
        """Greedy actions (n, *action shape) for observations (n, *observation shape); one alone is a batch of one."""
        units = Units(self.obs_mean, self.obs_std, self.act_low, self.act_high, self.discrete)
        # Gymnasium's are often float64: normalise before rounding
        vectors = self.batch(observation, list(self.observation_shape)).reshape(-1, self.arch.obs_dim)
        x = units.normalise(vectors).to(self.theta.dtype)
        action = units.unscale(forward(self.theta, x, self.arch)).mean(0)
        if self.discrete:
            return action.argmax(1) + self.first
        action = torch.minimum(torch.maximum(action, self.low), self.high)
        if self.rounds:
            action = action.round()
        return action.reshape(-1, *self.action_shape)

    def example(self) -> Tensor:
        """Two observations, for the tracers."""
        return torch.zeros(2, *self.observation_shape)


def as_batch(observation: Tensor, shape: list[int]) -> Tensor:
    """Observations (n, *shape); one alone is a batch of one. In terms that `torch.jit.script` keeps: a trace has no branches."""
    if observation.dim() == len(shape):
        observation = observation.unsqueeze(0)
    if list(observation.shape[1:]) != shape:
        raise ValueError("Observations of another shape given than the policy's.")
    return observation


def observation_shape(codec: SpaceCodec) -> tuple[int, ...]:
    """Shape of one observation tensor: the Box's own, or the vector's."""
    space = codec.kept_space
    return tuple(space.shape) if isinstance(space, spaces.Box) else (codec.dim,)


def to_torchscript(policy: Policy) -> bytes:
    """The policy as TorchScript, which `torch.jit.load` reads."""
    module = PolicyModule(policy).eval()
    buffer = io.BytesIO()
    with _quiet():
        module.batch = torch.jit.script(as_batch)
        torch.jit.save(torch.jit.trace(module, module.example(), check_trace=False), buffer)
    return buffer.getvalue()


def to_onnx(policy: Policy) -> bytes:
    """The policy as an ONNX graph from "observation" to "action", for batches of any size.

    Raises:
        ConfigError: PyTorch's exporter lacks onnxscript.
    """
    module = PolicyModule(policy).eval()
    try:
        import onnxscript  # noqa: F401  (torch.onnx.export writes with it)
    except ImportError as error:
        raise ConfigError(missing_package("Writing an ONNX policy", "onnxscript", "onnx")) from error
    with _quiet():
        program = torch.onnx.export(
            module,
            (module.example(),),
            input_names=["observation"],
            output_names=["action"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch announces that TorchScript is deprecated, and the exporter what it does not find."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
