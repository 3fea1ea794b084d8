"""The processes that share one distillation, as `torchrun` starts them; one alone is a team of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
        # a group that somebody else began may know GPUs alone
        self._asked_on = "cuda" if running and "cpu:" not in dist.get_backend_config() else "cpu"

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

    def votes(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is up on any rank; all get the same answer.

        Counted on the CPU where the group can: the host of a GPU then goes on without waiting for it.
        """
        if self.size == 1:
            return list(flags)
        counted = torch.tensor([float(flag) for flag in flags], device=self._asked_on)
        self.sum(counted)
        return [n > 0 for n in counted.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; all get the same answer."""
        return self.votes([flag])[0]

    def first_alone(
        self,
        work: Callable[[Callable[[], bool]], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Rank 0 does `work`, and asks what it is given about once a second; the others wait, for hours if need be.

        Args:
            work: Its argument says whether `should_stop` does, on any rank.
            should_stop: Of this rank.

        Raises:
            TeamError: on the others, if the work of the first failed.
        """
        if self.rank:
            done = failed = False
            while not (done or failed):
                _, done, failed = self.votes([should_stop(), False, False])
            if failed:
                raise TeamError(
                    f"Rank {self.rank} of {self.size}: the first rank ended, and its message says why."
                )
            return
        try:
            work(lambda: self.votes([should_stop(), False, False])[0])
        except BaseException:
            with suppress(TeamError):  # or another rank is gone, and cannot be told
                self.votes([False, False, True])
            raise
        self.votes([False, True, False])


@contextmanager
def joined(silence: timedelta = timedelta(minutes=30)) -> Iterator[Team]:
    """Join the team that `torchrun` describes in the environment, if it does; leave it afterwards.

    Args:
        silence: After this long without a word from a rank, it is lost.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local < gpus:  # more processes than GPUs may still share a run on the CPU
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"  # which of them, each tensor's device decides
    torch.distributed.init_process_group(backend, timeout=silence)
    try:
        yield Team()
        with suppress(RuntimeError):  # a rank that failed tells so itself
            torch.distributed.barrier()  # who leaves first might take the others along
    finally:
        # Ends gloo's threads: one that still holds a tensor while Python shuts down aborts the process.
        torch.distributed.destroy_process_group()
