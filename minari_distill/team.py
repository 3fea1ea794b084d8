"""The processes that share one distillation, as `torchrun` starts them; one alone is a team of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor

from minari_distill.errors import ConfigError, TeamError


class Team:
    """Rank r of `size` processes."""

    def __init__(self) -> None:
        dist = torch.distributed
        running = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if running else (0, 1)

    def share(self, n_students: int) -> range:
        """The students of this rank; consecutive, and every rank has at least one.

        Raises:
            ConfigError: there are fewer students than ranks.
        """
        if n_students < self.size:
            raise ConfigError(
                f"n_students={n_students} cannot be shared by {self.size} processes. Give --set "
                f"n_students={self.size} or a multiple of it."
            )
        base, extra = divmod(n_students, self.size)
        start = self.rank * base + min(self.rank, extra)
        return range(start, start + base + (self.rank < extra))

    def sum(self, *tensors: Tensor) -> None:
        """Add every rank's tensors up, in place, on all of them.

        Raises:
            TeamError: a rank is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        try:
            torch.distributed.all_reduce(flat)
        except RuntimeError as error:
            raise TeamError(
                f"Rank {self.rank} of {self.size} lost another rank ({str(error).splitlines()[0]}). All ranks end "
                "here; start the same command again with --resume."
            ) from error
        at = 0
        for t in tensors:
            t.copy_(flat[at : at + t.numel()].view_as(t))
            at += t.numel()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up on any rank; all get the same answer."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=device)
        self.sum(votes)
        return bool(votes.item())

    def wait(self, device: torch.device) -> None:
        """Until every rank is here."""
        self.any(False, device)


@contextmanager
def joined() -> Iterator[Team]:
    """Join the team that `torchrun` describes in the environment, if it does; leave it afterwards."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield Team()
    finally:
        torch.distributed.destroy_process_group()
