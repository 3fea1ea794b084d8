"""Students: plain behavioural cloning on a synset, and the policy that it gives.

    θ ← optimiser step on L_BC(θ) = mean_i ‖π_θ(x_i) − u_i‖² / act_dim,  i over the whole synset, or a random minibatch

(cross-entropy for discrete actions). K students are one flat parameter (K, P): every optimiser here works
element by element, so the K are as independent as if each were trained alone. The inner loop of the distillation
trains them; what it cannot, residual students and weight decay, autograd and `torch.optim` do.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minari_distill.checks import check_seed, check_whole
from minari_distill.devices import resolve_device
from minari_distill.errors import ConfigError, DatasetError, did_you_mean
from minari_distill.files import write_atomically
from minari_distill.infinite import parameters, regress
from minari_distill.inner.loop import InnerLoop
from minari_distill.networks import Architecture, apply_head, fold_metric, forward, initialize
from minari_distill.policy_module import to_onnx, to_torchscript
from minari_distill.recipe import GENERAL_RECIPE, INFINITE_FIELDS, StudentRecipe
from minari_distill.spaces import SpaceCodec
from minari_distill.units import Units


def train_students(
    S: Tensor,
    A: Tensor,
    recipe: StudentRecipe,
    n_students: int,
    generator: torch.Generator,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Parameters (K, P) of K students trained by `recipe`; of infinite width there is one, (1, P), however many are asked.

    Args:
        S: (n, obs_dim) normalised observations.
        A: (n, act_dim) actions in [−1, 1], or probabilities for the softmax head.
        recipe: architecture, initialisation, optimiser, steps.
        n_students: K.
        generator: draws the initial parameters and the minibatches; on the device of S.
        should_stop: asked before every step; once true, the parameters are those so far.

    Raises:
        ConfigError: The students diverged.
    """
    arch = Architecture.of(recipe, S.shape[1], A.shape[1])
    if recipe.infinite:
        c = regress(S.double(), A.double(), layers=recipe.hidden_layers, head=recipe.head, ridge=recipe.ridge)
        c = c.to(S.dtype)
        if not bool(torch.isfinite(c).all()):
            raise ConfigError(
                f"ridge={recipe.ridge} is too small for pairs as near to one another as these: give ridge=1e-2."
            )
        return parameters(S, c).unsqueeze(0)
    theta = initialize(
        arch,
        n_students,
        scheme=recipe.init,
        output_gain=recipe.output_gain,
        generator=generator,
        dtype=S.dtype,
    )
    batches = takewhile(lambda _: not should_stop(), _batches(S, A, recipe, n_students, generator))
    if recipe.residual or recipe.weight_decay or recipe.optimizer == "adamw":
        return _finite(_train_by_autograd(theta, batches, arch, recipe), recipe)
    loop = InnerLoop(
        recipe,
        obs_dim=S.shape[1],
        act_dim=A.shape[1],
        n_syn=_batch_size(recipe, len(S)),
        n_students=n_students,
        device=S.device,
        precision=str(S.dtype).removeprefix("torch."),
    )
    loop.start(theta)
    for x, u in batches:
        loop.feed(x, u)
        loop.advance()
    return _finite(loop.master, recipe)


def _finite(theta: Tensor, recipe: StudentRecipe) -> Tensor:
    diverged = int((~torch.isfinite(theta).all(1)).sum())
    if diverged:
        raise ConfigError(
            f"{diverged} of {len(theta)} students diverged: lower the recipe's lr (now {recipe.lr}), or choose optimizer='adam'."
        )
    return theta


def _batch_size(recipe: StudentRecipe, n_pairs: int) -> int:
    return recipe.batch if 0 < recipe.batch < n_pairs else n_pairs


def _batches(
    S: Tensor, A: Tensor, recipe: StudentRecipe, n_students: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of each step: all of them, or (K, batch, ·), each student's own draw."""
    n = _batch_size(recipe, len(S))
    for _ in range(recipe.steps):
        if n == len(S):
            yield S, A
        else:
            i = torch.randint(len(S), (n_students, n), generator=generator, device=S.device)
            yield S[i], A[i]


def _train_by_autograd(
    theta: Tensor, batches: Iterator[tuple[Tensor, Tensor]], arch: Architecture, recipe: StudentRecipe
) -> Tensor:
    theta.requires_grad_()
    optimizer = make_optimizer(theta, recipe)
    for x, u in batches:
        optimizer.zero_grad(set_to_none=True)
        z = forward(theta, x, arch, logits=True)
        if recipe.head == "softmax":
            loss = -(u * torch.log_softmax(z, -1)).sum(-1).mean(-1).sum()
        else:
            loss = (apply_head(z, recipe.head) - u).square().mean((1, 2)).sum()
        loss.backward()
        optimizer.step()
    return theta.detach()


def make_optimizer(theta: Tensor, recipe: StudentRecipe) -> torch.optim.Optimizer:
    """The torch optimiser that `recipe` names."""
    if recipe.optimizer in ("sgd", "momentum"):
        momentum = recipe.momentum if recipe.optimizer == "momentum" else 0.0
        return torch.optim.SGD([theta], recipe.lr, momentum=momentum, weight_decay=recipe.weight_decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind([theta], recipe.lr, recipe.betas, recipe.eps, weight_decay=recipe.weight_decay)


def resolve_recipe(
    own: StudentRecipe, recipe: str | StudentRecipe, changes: Mapping[str, Any]
) -> StudentRecipe:
    """A recipe by name ("recipe": the synset's own, "general": one that nothing was tuned for) or as given."""
    if isinstance(recipe, StudentRecipe):
        chosen = recipe
    elif recipe == "recipe":
        chosen = own
    elif recipe == "general":
        chosen = GENERAL_RECIPE.replace(head="softmax") if own.head == "softmax" else GENERAL_RECIPE
    else:
        near = did_you_mean(str(recipe), ("recipe", "general"))
        raise ConfigError(
            f"recipe={recipe!r} is unknown.{near} Give 'recipe' (the synset's own) or 'general', or in Python a StudentRecipe."
        )
    chosen = chosen.replace(**changes)
    meaningless = sorted(set(changes) - INFINITE_FIELDS)
    if chosen.infinite and meaningless:
        raise ConfigError(
            f"{', '.join(meaningless)} given, which a student of infinite width does not have. For a network, add infinite=False."
        )
    return chosen


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


def behavior_clone(
    synset: Any,
    *,
    recipe: str | StudentRecipe = "recipe",
    n_policies: int = 1,
    seed: int = 0,
    device: str = "cpu",
    **changes: Any,
) -> Policy:
    """Train a student, or an ensemble, on a synset; seconds for one on a CPU.

    >>> policy = behavior_clone(synset)  # doctest: +SKIP
    >>> action = policy.act(observation)  # doctest: +SKIP
    >>> wide = behavior_clone(synset, recipe="general", hidden_width=512)  # doctest: +SKIP

    Args:
        synset: A `Synset`.
        recipe: "recipe" (the one the synset was distilled for), "general" (one that nothing was tuned for) or
            a `StudentRecipe`.
        n_policies: Students trained at once; several make an ensemble whose actions are averaged.
            `policy.members()` takes it apart. Of infinite width there is one student, however many are asked.
        seed: Of the students' initial parameters.
        device: "cpu", "cuda" or "auto".
        **changes: Fields of the recipe to replace, for instance optimizer="sgd", hidden_layers=5.

    Returns:
        The policy: raw observations in, raw actions inside the bounds out.

    Raises:
        ConfigError: An unknown recipe or field, or no policies at all.
    """
    n_policies = check_whole("n_policies", n_policies)
    seed = check_seed(seed)
    if not hasattr(synset, "recipe"):
        raise ConfigError(
            f"{synset!r} is no Synset. Read one with load_synset, for instance load_synset('me/hopper-v0')."
        )
    chosen = resolve_recipe(synset.recipe, recipe, changes)
    if chosen.head == "softmax" and not synset.action_codec.is_discrete:
        raise ConfigError(
            'head="softmax" gives probabilities of discrete actions, and these actions are not. Give head="tanh" or head="linear".'
        )
    device = str(resolve_device(device))
    units = synset.units().to(device)
    S = units.normalise(torch.as_tensor(synset.observations, device=device)).float()
    metric = None
    if chosen.in_metric:
        if synset.input_metric is None:
            raise ConfigError(
                "in_metric=True: this synset has no input metric. It was distilled with metric_share=0, by an older release or "
                "from observations of more than 1024 numbers, or made by expand. Give in_metric=False."
            )
        metric = torch.as_tensor(synset.input_metric, device=device)
        S = S @ metric
    A = units.scale(torch.as_tensor(synset.actions, device=device).float())
    generator = torch.Generator(device).manual_seed(seed)
    theta = train_students(S, A, chosen, n_policies, generator)
    if metric is not None:
        theta = fold_metric(theta, metric, Architecture.of(chosen, S.shape[1], A.shape[1]))
    return Policy(theta, chosen, units, synset.observation_codec, synset.action_codec)
