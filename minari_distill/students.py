"""Students: plain behavioural cloning on a synset, and the policy that it gives.

    θ ← optimiser step on L_BC(θ) = mean_i ‖π_θ(x_i) − u_i‖² / act_dim,  i over the whole synset, or a random minibatch

(cross-entropy for discrete actions). K students are one flat parameter (K, P): every optimiser here works
element by element, so the K are as independent as if each were trained alone. The inner loop of the distillation
trains them; what it cannot, residual students and weight decay, autograd and `torch.optim` do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from minari_distill.checks import check_seed, check_whole
from minari_distill.devices import resolve_device
from minari_distill.errors import ConfigError, did_you_mean
from minari_distill.infinite import parameters, regress
from minari_distill.inner.loop import InnerLoop
from minari_distill.networks import Architecture, apply_head, fold_metric, forward, initialize
from minari_distill.policy import Policy
from minari_distill.recipe import GENERAL_RECIPE, INFINITE_FIELDS, StudentRecipe


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
