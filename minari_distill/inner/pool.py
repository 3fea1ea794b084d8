"""Students that live on from one outer step to the next (the pool of FRePo; Zhou, Nezhadarya and Ba, 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.inner.loop import InnerLoop


class StudentPool:
    """M sets of K students at different ages, each going on from where it was left.

    Set m's first life ends after m/M of T, so that the sets' ages are spread from the beginning.
    """

    def __init__(self, config: DistillConfig, inner: InnerLoop):
        self.inner, self.size = inner, config.student_pool
        self.window, self.horizon = (
            config.window_steps,
            min(config.pool_life or config.inner_steps, config.inner_steps),
        )
        self.sets = [[t.clone() for t in inner.state()] for _ in range(self.size)]
        self._end = [t.clone() for t in inner.state()]
        # Steps each set has yet to live before it starts anew; 0 = it starts at its next turn.
        self.left = torch.zeros(self.size, dtype=torch.int64)
        self._born = torch.zeros(self.size, dtype=torch.int64)

    def resume(self, step: int) -> bool:
        """Go on with the set whose turn it is; False if its life is over, and another begins with fresh students."""
        m = step % self.size
        if self.left[m] < self.window:
            share = m / self.size if self._born[m] == 0 else 1.0
            self.left[m] = max(self.window, round(share * self.horizon))
            self._born[m] += 1
            return False
        self.inner.resume(self.sets[m])
        return True

    def life(self, step: int) -> int:
        """Which of all lives, counted from 0, the set whose turn it is lives or will begin at this step."""
        m = step % self.size
        over = self.left[m] < self.window
        return (int(self._born[m]) + int(over) - 1) * self.size + m

    def note_end(self) -> None:
        """Copy the students at the window's end, before the way back runs parts of it again."""
        for copy, now in zip(self._end, self.inner.state(), strict=True):
            copy.copy_(now)

    def leave(self, step: int) -> None:
        """Keep the set for its next turn."""
        m = step % self.size
        self.left[m] -= self.window
        for mine, end in zip(self.sets[m], self._end, strict=True):
            mine.copy_(end)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on."""
        tensors = {f"pool.{m}.{i}": t for m, s in enumerate(self.sets) for i, t in enumerate(s)}
        return {**tensors, "pool.left": self.left, "pool.born": self._born}
