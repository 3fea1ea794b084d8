"""What every command shares: where it prints, and how an error looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from minari_distill.errors import MinariDistillError

console = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


@contextmanager
def one_line_errors(as_json: bool) -> Iterator[None]:
    """An error that a user can repair is one red line (or {"error": …}) and exit code 1."""
    try:
        yield
    except MinariDistillError as error:
        if as_json:
            print_json({"error": str(error), "kind": type(error).__name__})
        else:
            console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("Interrupted.", style="red")
        raise typer.Exit(130) from None


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2))
