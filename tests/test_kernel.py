"""Laws of the kernel meta-gradient: the kernel is the tangent kernel, its gradient the derivative, and it interpolates."""

import pytest
import torch

from minari_distill.inner.kernel import (
    MOST_DIRECTIONS,
    head_inverse,
    kernel_meta_gradient,
    kernel_outputs,
    output_directions,
)
from minari_distill.networks import Architecture, apply_head, forward, initialize
from tests.test_outer import problem, run, small

ARCH = Architecture(3, 2, (8, 7), "tanh")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def case(arch, K=2, n=5, B=6):
    g = generator()
    double = {"dtype": torch.float64, "generator": g}
    theta = initialize(arch, K, generator=g, dtype=torch.float64)
    theta += 0.1 * torch.randn(theta.shape, **double)
    S, obs = torch.randn(n, arch.obs_dim, **double), torch.randn(K, B, arch.obs_dim, **double)
    A, target = torch.randn(n, arch.act_dim, **double), torch.randn(K, B, arch.act_dim, **double)
    if arch.head == "softmax":
        A, target = A.softmax(-1), target.softmax(-1)
    if arch.head == "tanh":
        A, target = A.tanh(), target.tanh()
    weight = torch.rand(K, B, 1, **double)
    return theta, S, A, obs, target, weight


def settings(arch, ridge=1e-2):
    return {"arch": arch, "directions": output_directions(arch, generator()).double(), "ridge": ridge}


def test_the_kernel_is_the_tangent_kernel_averaged_over_outputs():
    """z(s) = Θ(s, S)(Θ(S, S) + λ θ̄ I)⁻¹ head⁻¹(A) with Θ from autograd's Jacobians of the network."""
    theta, S, A, obs, _, _ = case(ARCH)
    z = kernel_outputs(theta, S, A, obs, **settings(ARCH))
    for k in range(2):

        def outputs(parameters, states):
            return forward(parameters[None], states, ARCH, logits=True)[0]

        at = theta[k]
        J_S = torch.func.jacrev(outputs)(at, S)  # (n, act_dim, P)
        J_x = torch.func.jacrev(outputs)(at, obs[k])
        gram = torch.einsum("iop,jop->ij", J_S, J_S) / ARCH.act_dim
        cross = torch.einsum("iop,jop->ij", J_x, J_S) / ARCH.act_dim
        regular = gram + 1e-2 * gram.diagonal().mean() * torch.eye(len(S), dtype=torch.float64)
        expected = cross @ torch.linalg.solve(regular, torch.atanh(0.97 * A))
        torch.testing.assert_close(z[k], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("head", ["tanh", "linear", "softmax"])
def test_its_gradient_is_the_derivative_of_its_loss(head):
    """Central differences of the summed H in every entry of S and A, in double precision."""
    arch = Architecture(3, 2, (8, 7), head)
    theta, S, A, obs, target, weight = case(arch)
    _, gS, gA, _ = kernel_meta_gradient(theta, S, A, obs, target, weight, **settings(arch))
    eps = 1e-6
    for x, g in ((S, gS), (A, gA)):
        for i in range(x.numel()):
            low, high = x.flatten().clone(), x.flatten().clone()
            low[i] -= eps
            high[i] += eps
            pairs = [(v.view_as(x), A) if x is S else (S, v.view_as(x)) for v in (low, high)]
            H = [
                kernel_meta_gradient(theta, *p, obs, target, weight, **settings(arch))[0].sum() for p in pairs
            ]
            assert ((H[1] - H[0]) / (2 * eps)).item() == pytest.approx(g.flatten()[i].item(), abs=1e-7)


def test_without_ridge_it_returns_the_labels_at_the_pairs():
    """At S itself the regression gives head⁻¹(A), and through the head 0.97 A."""
    theta, S, A, *_ = case(ARCH)
    z = kernel_outputs(theta, S, A, S.expand(2, *S.shape), **settings(ARCH, ridge=1e-12))
    torch.testing.assert_close(apply_head(z, "tanh"), (0.97 * A).expand_as(z), rtol=1e-6, atol=1e-6)


def test_half_a_factor_is_no_gradient():
    """Pairs twice over, and next to no ridge: the failed factorisation is NaN and not numbers; the other student has its own."""
    theta, S, A, obs, target, weight = (t.float() for t in case(ARCH, n=40))
    told = settings(ARCH) | {"directions": torch.eye(2), "ridge": 1e-12}
    z = kernel_outputs(theta, torch.cat([S, S]), torch.cat([A, A]), obs, **told)
    assert z.isnan().flatten(1).any(1).all()
    _, gS, _, _ = kernel_meta_gradient(
        theta, torch.cat([S, S]), torch.cat([A, A]), obs, target, weight, **told
    )
    assert gS.isnan().any()


def test_heads_are_inverted():
    """Worked numbers: atanh(0.97·1) = 2.0923; equal probabilities need equal logits; linear is itself."""
    assert head_inverse(torch.tensor([[1.0]]), "tanh", 0.97).item() == pytest.approx(2.0923, abs=1e-4)
    assert head_inverse(torch.full((1, 4), 0.25), "softmax", 0.97).abs().max().item() < 1e-6
    p = torch.tensor([[0.7, 0.2, 0.1]])
    assert torch.softmax(head_inverse(p, "softmax", 0.97), -1) == pytest.approx(p, abs=3e-3)
    assert torch.equal(head_inverse(p, "linear", 0.97), p)


def test_many_outputs_are_seen_through_a_random_subspace():
    """Up to 8 outputs all are seen; of 20, eight orthonormal directions, others at another draw."""
    assert torch.equal(output_directions(ARCH, generator()), torch.eye(2))
    wide = Architecture(3, 20, (8,), "tanh")
    R = output_directions(wide, generator())
    torch.testing.assert_close(R @ R.T, torch.eye(MOST_DIRECTIONS), rtol=1e-5, atol=1e-5)
    assert not torch.equal(R, output_directions(wide, generator(1)))


KERNEL = {
    "meta_gradient": "kernel",
    "inner_optimizer": "adam",
    "inner_lr": 1e-2,
    "inner_steps": 40,
    "pool_life": 20,
    "student_init": "torch",
    "output_gain": 1.0,
}


@pytest.mark.parametrize("pool", [0, 3])
def test_distilling_by_it_lowers_the_loss_of_students_trained_in_full(pool):
    """60 outer steps take a quarter off the held-out loss of really trained students."""
    from minari_distill.outer import OuterLoop

    config = small(outer_steps=60, student_pool=pool, **KERNEL)
    loop = OuterLoop(*problem(), config, torch.device("cpu"))
    before = loop.held_out_loss()
    assert run(config, 60, loop).held_out_loss() < 0.75 * before


def test_resume_equals_unbroken():
    """State saved after 3 of 8 steps and loaded into a fresh loop gives the same bits after the other 5."""
    config = small(student_pool=3, **KERNEL)
    whole = run(config, 8)
    first = run(config, 3)
    saved = {name: tensor.clone() for name, tensor in first.whole_state().items()}
    second = run(config, 0)
    second.load_state(saved)
    run(config, 5, second)
    assert torch.equal(whole.S, second.S) and torch.equal(whole.A, second.A)
