"""What every command shares: where it prints, how an error looks, settings, progress, interruption."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from typer.core import TyperCommand, TyperGroup

from minari_distill.config import DistillConfig
from minari_distill.errors import ConfigError, MinariDistillError
from minari_distill.layout import to_json
from minari_distill.progress import Progress, duration

console = Console(stderr=True)
log = logging.getLogger("minari_distill")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def tell(text: str, style: str | None = None) -> None:
    """A line for people, as it is: paths may hold brackets, and a command is to be copied whole."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def one_line_errors(as_json: bool) -> Iterator[None]:
    """An error that a user can repair is one red line (or {"error": …}) and exit code 1."""
    try:
        yield
    except (MinariDistillError, OSError) as error:
        log.debug("The error in full:", exc_info=True)
        text = str(error)
        if isinstance(error, OSError):  # of a file or a folder that was named, or of the store
            named = error.filename2 or error.filename or "A file"  # of two, the second is what was asked for
            text = f"{named}: {error.strerror or error}. Give another place, or see: minari-distill doctor"
        if not (as_json and _print_error(text, error)):
            tell(text, "red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as stopped:
        if not (as_json and _print_error("Interrupted.", stopped)):
            tell("Interrupted.", "red")
        raise typer.Exit(130) from None


def set_verbosity(verbose: bool) -> None:
    """Let the libraries speak (log records from INFO, warnings) and show errors whole, or be quiet."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what an encoding does not know is a question mark, and no traceback
            stream.reconfigure(errors="replace")
    if verbose:
        handler = RichHandler(console=console, show_path=False)
        logging.basicConfig(
            level=logging.INFO, format="%(name)s: %(message)s", handlers=[handler], force=True
        )
        log.setLevel(logging.DEBUG)
        logging.captureWarnings(True)
        warnings.simplefilter("default")
    else:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)


def print_json(value: Any) -> None:
    """One JSON object on standard output; what is NaN or infinite is null."""
    print(json.dumps(to_json(value), indent=2, allow_nan=False))


def _print_error(text: str, error: BaseException) -> bool:
    """The error as JSON; False from all but the first of several processes, which alone speaks JSON."""
    first = not int(os.environ.get("RANK", "0"))
    if first:
        print_json({"error": text, "kind": type(error).__name__})
    return first


class Commands(TyperGroup):
    """All commands: with --json, a wrong option or argument is answered in JSON too."""

    def main(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """As typer does; exit code 2 where it refuses what was typed."""
        if "--json" not in (sys.argv if args is None else args) or not options.get("standalone_mode", True):
            return super().main(args, *rest, **options)
        try:
            code = super().main(args, *rest, **options | {"standalone_mode": False})
        except Exception as error:  # click's ClickException, of whichever click typer carries
            if not hasattr(error, "format_message"):
                raise
            text = error.format_message()
            if not _print_error(text, error):
                tell(text, "red")
            code = error.exit_code  # type: ignore[attr-defined]
        sys.exit(code if isinstance(code, int) else 0)


class SettingsCommand(TyperCommand):
    """A command with `--set`: a setting that is given as an option of its own is told how it is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, with a better answer to an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # click's NoSuchOption, of whichever click typer carries
            option = str(getattr(error, "option_name", None))
            name = option.lstrip("-").replace("-", "_")
            near = getattr(error, "possibilities", None) or []
            if name in DistillConfig.__dataclass_fields__ and f"--{name.replace('_', '-')}" not in near:
                error.message = f"No such option: {option}. It is a setting: --set {name}=VALUE"  # type: ignore[attr-defined]
                error.possibilities = None  # type: ignore[attr-defined]
            raise


def parse_settings(pairs: list[str] | None, **given: Any) -> dict[str, Any]:
    """`--set name=value` pairs and the options that were given; values are JSON where they can be."""
    settings = {name: value for name, value in given.items() if value is not None}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r} must be name=value, for example --set inner_lr=0.1.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = _number_or_text(text)
        if given.get(name) not in (None, value):
            raise ConfigError(
                f"--{name.replace('_', '-')} {given[name]} and --set {pair} are given: leave one of them out."
            )
        settings[name] = value
    return settings


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)  # ".06", which JSON does not know
    except ValueError:
        return text


_ENDING = "Ending after this step; press Ctrl-C again to end at once."


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks the run to end at the next step; a second one ends it at once."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # Not in the handler itself: it may have interrupted this thread in the midst of a print, with the console's
        # lock held, while the bars' thread holds theirs and waits for it.
        Thread(target=tell, args=(_ENDING, "yellow")).start()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def reporter(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Messages as lines, stages as bars with loss, held-out loss and time left."""
    if quiet:
        yield lambda progress: None
        return
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Bars(
        *columns, TextColumn("{task.fields[note]}"), console=console, disable=not sys.stderr.isatty()
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def report(progress: Progress) -> None:
            if progress.stage == "message":
                tell(progress.text)
                return
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total, note="")
            note = []
            if progress.loss is not None:
                note.append(f"loss {progress.loss:.4f}")
            if progress.held_out_loss is not None:
                note.append(f"held out {progress.held_out_loss:.4f}")
            if progress.seconds_left is not None and progress.step < progress.total:
                note.append(f"{duration(progress.seconds_left)} left")
            bars.update(
                tasks[progress.stage], completed=progress.step, total=progress.total, note="  ".join(note)
            )

        yield report
