"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

import minari_distill as md
from minari_distill import completion
from minari_distill.exporters import formats
from minari_distill.exporters.formats import FORMATS
from minari_distill.synset import USE
from minari_distill.terminal import JsonFlag, one_line_errors, print_json, tell


def export(
    synset: Annotated[
        str,
        typer.Argument(
            help="Id (of Minari, or gallery/…) or folder of a synset, or an hf:// address.",
            autocompletion=completion.synsets,
        ),
    ],
    to: Annotated[
        str, typer.Option(help=f"One of: {', '.join(FORMATS)}.", autocompletion=completion.formats)
    ],
    out: Annotated[Path, typer.Option(help="The file to write; a folder for datasets, torchrl, imitation.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a synset in the form in which another codebase trains.

    Example: `minari-distill export me/hopper-medium-distilled-v0 --to npz --out hopper.npz`

    For d3rlpy: `minari-distill export me/hopper-medium-distilled-v0 --to d3rlpy --out hopper.h5`

    Stable-Baselines3 has no such form: `minari_distill.exporters.stable_baselines3.pretrain(model, synset)`.
    """
    with one_line_errors(as_json):
        loaded = md.load_synset(synset)
        path = formats.export(loaded, to, out, overwrite=overwrite)
    if as_json:
        read = FORMATS[to][2]
        print_json(
            {
                "id": synset,
                "format": to,
                "path": str(path),
                "n_syn": len(loaded),
                "read_with": read,
                "use": USE,
            }
        )
        return
    tell(f"Wrote {len(loaded)} pairs for {to} to {path}")
    tell(f"Read it with: {FORMATS[to][2]}")
    tell(USE)
    if loaded.recipe.infinite:
        tell(
            f"Networks read these pairs badly. Make many of them first: minari-distill expand {quote(synset)} -o me/many-v0"
        )
