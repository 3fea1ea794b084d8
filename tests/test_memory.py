"""The memory budget of the inner loop: what is kept stays inside it, by arithmetic and by measurement."""

import torch

from minari_distill.inner import InnerLoop
from minari_distill.recipe import StudentRecipe


def test_t_1000_and_16_students_fit_24_gb_by_arithmetic():
    """All tensors of a loop that differentiates 1000 steps of 16 full students, counted on the meta device."""
    recipe = StudentRecipe(optimizer="momentum", steps=1000)
    loop = InnerLoop(
        recipe, obs_dim=17, act_dim=6, n_syn=256, n_students=16, window=1000, device="meta", memory_budget=8e9
    )
    seen, total = {}, 0

    def count(value):
        nonlocal total
        if isinstance(value, torch.Tensor):
            base = value if value._base is None else value._base
            if id(base) not in seen:
                seen[id(base)] = base
                total += base.numel() * base.element_size()
        elif isinstance(value, list | tuple):
            for item in value:
                count(item)
        elif hasattr(value, "__dict__"):
            for item in vars(value).values():
                count(item)

    count(loop)
    assert 6e9 < total < 24e9
    assert loop.segment < 1000  # it needed the budget
