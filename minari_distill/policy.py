"""`Policy`: trained students with all that lies between raw observations and raw actions, and their file."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minari_distill.errors import ConfigError, DatasetError
from minari_distill.files import write_atomically
from minari_distill.networks import Architecture, forward
from minari_distill.policy_module import to_onnx, to_torchscript
from minari_distill.recipe import StudentRecipe
from minari_distill.spaces import SpaceCodec
from minari_distill.units import Units


class Policy:
    """One student or an ensemble whose actions are averaged: raw observation in, raw action out.

    Attributes:
        theta: (K, P) parameters of the K students.
        recipe: how they were built and trained.
        units: between the source's numbers and the network's.
        observation_codec, action_codec: between the source's spaces and vectors.
    """

    def __init__(
        self, theta: Tensor, recipe: StudentRecipe, units: Units, observation_codec: Any, action_codec: Any
    ):
        self.theta, self.recipe, self.units = theta, recipe, units
        self.observation_codec, self.action_codec = observation_codec, action_codec
        self.arch = Architecture.of(recipe, observation_codec.dim, action_codec.dim)

    def __len__(self) -> int:
        return self.theta.shape[0]

    def members(self) -> list[Policy]:
        """Each student as a policy of its own."""
        return [self._with(self.theta[k : k + 1]) for k in range(len(self))]

    def act(self, observation: Any) -> Any:
        """The greedy action for one observation of the source's observation space.

        Raises:
            DatasetError: It is none of that space.
        """
        try:
            vector = self.observation_codec.encode_one(observation)
        except ValueError as error:  # NumPy's
            pair = (
                isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict)
            )
            raise DatasetError(
                f"This is no observation of {self.observation_codec.space}: {error}"
                + (". env.reset() gives a pair, (observation, info): give its first." if pair else "")
            ) from error
        return self.action_codec.decode_one(self.act_vectors(vector[None])[0])

    def act_vectors(self, obs: np.ndarray) -> np.ndarray:
        """Encoded actions (n, act_dim) for encoded observations (n, obs_dim), in the source's units."""
        return self.each_act_vectors(obs).mean(0)

    @torch.no_grad()
    def each_act_vectors(self, obs: np.ndarray) -> np.ndarray:
        """Actions (K, n, act_dim) of each student, for (n, obs_dim) or for (K, n, obs_dim), its own states.

        Raises:
            ConfigError: The observations have another length.
        """
        given = torch.as_tensor(obs, device=self.theta.device)
        if given.shape[-1:] != (self.arch.obs_dim,):
            raise ConfigError(
                f"Observations of shape {tuple(given.shape)} given, (n, {self.arch.obs_dim}) expected: the vectors of "
                "policy.observation_codec. policy.act takes one observation of the space."
            )
        # Terms of infinite width cancel to a thousandth: rounded to float32, actions would depend on what else is in the batch.
        wide = torch.float64 if self.arch.infinite else self.theta.dtype
        x = self.units.normalise(given).to(wide)  # of float64 observations: before rounding
        actions = forward(self.theta.to(wide), x, self.arch).to(self.theta.dtype)
        return self.units.unscale(actions).cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """Write the policy by suffix; in every form raw observations go in and raw actions come out.

        >>> policy.save("policy.safetensors")  # md.load_policy reads it   # doctest: +SKIP
        >>> policy.save("policy.pt")           # torch.jit.load            # doctest: +SKIP
        >>> policy.save("policy.onnx")         # any ONNX runtime          # doctest: +SKIP

        Args:
            path: Ends in .safetensors, .pt (TorchScript) or .onnx. The latter two map observations (n, *shape) float32
                to actions (n, *shape), or to (n,) int64 where they are discrete; observations of a Dict or Tuple are
                the codec's vectors (n, obs_dim).

        Raises:
            ConfigError: Another suffix, an action space that no single tensor holds, a library that is missing.
        """
        forms = {".safetensors": Policy._to_safetensors, ".pt": to_torchscript, ".onnx": to_onnx}
        path = Path(os.path.expanduser(path))
        if path.suffix not in forms:
            raise ConfigError(f"Policies are saved as {', '.join(forms)}, not as {path.suffix!r}: '{path}'.")
        write_atomically(path, forms[path.suffix](self))
        return path

    def _to_safetensors(self) -> bytes:
        u = self.units
        header = {
            "format": "minari_distill.policy",
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "discrete": json.dumps(u.discrete),
            "observation_codec": json.dumps(self.observation_codec.spec()),
            "action_codec": json.dumps(self.action_codec.spec()),
        }
        tensors = {
            "theta": self.theta,
            "obs_mean": u.obs_mean,
            "obs_std": u.obs_std,
            "act_low": u.act_low,
            "act_high": u.act_high,
        }
        return save({k: v.cpu().contiguous() for k, v in tensors.items()}, header)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read what `save` wrote as safetensors.

        Raises:
            ConfigError: the file is no policy.
        """
        path = Path(os.path.expanduser(path))
        runtime = {".pt": "torch.jit.load", ".onnx": "onnxruntime.InferenceSession"}.get(path.suffix)
        if runtime:
            raise ConfigError(f"'{path}' is for {runtime}; this reads the .safetensors of policy.save().")
        try:
            with safe_open(str(path), "pt") as file:
                header = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a dict)
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{path} is not a policy file ({error}). Write one with policy.save()."
            ) from error
        if header.get("format") != "minari_distill.policy":
            raise ConfigError(f"{path} is a safetensors file but no policy. Write one with policy.save().")
        try:
            policy = cls(
                tensors.pop("theta"),
                StudentRecipe(**json.loads(header["recipe"])),
                Units(**tensors, discrete=json.loads(header["discrete"])),
                SpaceCodec.from_spec(json.loads(header["observation_codec"])),
                SpaceCodec.from_spec(json.loads(header["action_codec"])),
            )
        except ConfigError as error:
            raise ConfigError(
                f"{path} is a damaged policy: {error} Write it anew with policy.save()."
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} is a policy that this minari_distill does not know ({error}). Try: pip install --upgrade minari-distill"
            ) from error
        if reason := policy._unfit():
            raise ConfigError(f"{path} is a damaged policy: {reason}. Write it anew with policy.save().")
        return policy

    def _unfit(self) -> str | None:
        """What is wrong with the numbers, in words; None if nothing is."""
        arch, units, theta = self.arch, self.units, self.theta
        if theta.ndim != 2 or not len(theta) or not theta.is_floating_point():
            return f"its parameters are {theta.dtype} of shape {tuple(theta.shape)}, (K, P) floating-point numbers expected"
        # of infinite width: D, then n rows of S D and c
        fixed = arch.obs_dim**2 if arch.infinite else arch.n_parameters
        rest, row = theta.shape[1] - fixed, arch.obs_dim + arch.act_dim
        if rest < 0 or rest % row or (rest and not arch.infinite):
            return f"it has {theta.shape[1]} parameters a student, which its recipe has not"
        for name, dim in (
            ("obs_mean", arch.obs_dim),
            ("obs_std", arch.obs_dim),
            ("act_low", arch.act_dim),
            ("act_high", arch.act_dim),
        ):
            if tuple(getattr(units, name).shape) != (dim,):
                return f"{name} has shape {tuple(getattr(units, name).shape)}, ({dim},) expected"
        return None

    def _with(self, theta: Tensor) -> Policy:
        return Policy(theta, self.recipe, self.units, self.observation_codec, self.action_codec)


def load_policy(path: str | Path) -> Policy:
    """The policy that `policy.save("….safetensors")` wrote.

    >>> load_policy("policy.safetensors").act(observation)  # doctest: +SKIP

    Args:
        path: The file.

    Returns:
        The policy, on the CPU.

    Raises:
        ConfigError: The file is no policy, or one for other runtimes (`.pt`, `.onnx`).
    """
    return Policy.load(path)
