"""Laws of the clone of all data: it tells what is done in the mean, from the states that may be seen, and objectives may match it."""

import pytest
import torch

import minari_distill as md
from minari_distill.clone import clone_data
from minari_distill.metric import input_metric
from minari_distill.pose import pose
from tests.small_transitions import point_mass


def drawn(n=4000, noise=0.3, seed=0):
    """States, what is done there in the mean, and draws around it."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    mean = 0.6 * torch.sin(x[:, :2])
    return x, mean, mean + noise * torch.randn(n, 2, generator=g)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_clone_averages_the_noise_of_the_actions_away():
    """A tenth of the noise's variance is left after 300 steps, at states of which only draws were seen, of a tanh that reaches 0.6."""
    x, mean, act = drawn()
    known = torch.arange(len(x)) < 3000
    act[~known] = torch.nan  # what is held out is not looked at
    b = clone_data(x, act, known, discrete=False, steps=300, generator=generator())
    assert (b(x) - mean)[~known].square().mean() < 0.1 * 0.3**2


def test_of_few_states_it_is_a_behaviour_all_the_same():
    """Twenty passes over fifty states are two steps, which leave the networks as they began."""
    x, u, _ = drawn(n=50, noise=0.0)
    clone = clone_data(
        x, u, torch.ones(50, dtype=torch.bool), discrete=False, steps=6000, generator=generator()
    )
    assert (clone(x) - u).square().mean() < 0.1 * u.var()


def test_the_same_generator_the_same_clone():
    x, _, act = drawn(200)
    known = torch.ones(200, dtype=torch.bool)
    a, b, c = (
        clone_data(x, act, known, discrete=False, steps=3, generator=generator(s))(x) for s in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_of_discrete_actions_it_tells_how_often_each_is_taken():
    """One of three, by the sign of a number that the state holds, nine times in ten."""
    g = generator()
    x = torch.randn(4000, 2, generator=g)
    usual = torch.where(x[:, 0] > 0, 0, 2)
    taken = torch.where(torch.rand(4000, generator=g) < 0.9, usual, 1)
    act = torch.nn.functional.one_hot(taken, 3).float()
    b = clone_data(
        x, act, torch.ones(4000, dtype=torch.bool), discrete=True, steps=200, generator=generator()
    )
    asked = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])
    torch.testing.assert_close(b(asked), torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.1, 0.9]]), atol=0.08, rtol=0)


@pytest.mark.parametrize("steps", [0, 50])
def test_robust_dbc_matches_the_clone_and_reads_in_its_metric(steps):
    """And the data's own actions, from the identity, with `clone_steps=0`; dbc always does."""
    heard = []
    config = md.make_config(n_syn=8, objective="robust_dbc", clone_steps=steps, precision="float32")
    posed = pose(point_mass(), None, config, heard.append)
    own = pose(point_mass(), None, md.make_config(n_syn=8, objective="dbc", precision="float32")).problem
    p = posed.problem
    assert torch.equal(p.target, own.target) == (steps == 0)
    assert torch.equal(p.metric, torch.eye(2)) == (steps == 0)
    assert [("cloned" in text) for text in heard] == [True] * (steps > 0)
    if steps:
        again = pose(point_mass(), None, config).problem
        assert torch.equal(again.target, p.target) and torch.equal(again.metric, p.metric)
        # M is symmetric and of the states' size, as a teacher's is
        size = (p.obs @ p.metric).square().sum() / p.obs.square().sum()
        assert size.item() == pytest.approx(1.0, rel=1e-4)
        torch.testing.assert_close(p.metric, p.metric.T)
        assert not torch.equal(p.metric, input_metric(lambda x: x, p.obs))
