"""Progress as TensorBoard's curves; an extra: `pip install "minari-distill[tensorboard]"`.

    with curves("tensorboard") as report:
        md.distill("mujoco/hopper/medium-v0", report=report)

Then `tensorboard --logdir tensorboard`. A curve a stage and number: teacher/loss, distil/loss, distil/held_out_loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minari_distill.errors import ConfigError, missing_package
from minari_distill.progress import Progress, Report


@contextmanager
def curves(folder: str | Path, also: Report | None = None) -> Iterator[Report]:
    """A receiver of progress that writes TensorBoard's event files into `folder`.

    Args:
        folder: Made if need be; a folder a run.
        also: Another receiver that gets everything too.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(missing_package("TensorBoard logging", "tensorboard", "tensorboard")) from error
    writer = SummaryWriter(str(folder))
    written: dict[str, float] = {}

    def report(progress: Progress) -> None:
        if also:
            also(progress)
        if progress.stage == "message":
            return
        for name in ("loss", "held_out_loss"):
            value, tag = getattr(progress, name), f"{progress.stage}/{name}"
            # Between two validations the same number is reported at every step.
            if value is not None and written.get(tag) != value:
                writer.add_scalar(tag, value, progress.step)
                written[tag] = value

    try:
        yield report
    finally:
        writer.close()
