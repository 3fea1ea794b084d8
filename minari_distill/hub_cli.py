"""The commands `push` and `pull`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

import minari_distill as md
from minari_distill import completion
from minari_distill.errors import HubError
from minari_distill.targets import refuse_existing
from minari_distill.terminal import JsonFlag, one_line_errors, print_json, tell


def push(
    synset: Annotated[
        str,
        typer.Argument(
            help="Id (of Minari, or gallery/…) or folder of a synset, or an hf:// address.",
            autocompletion=completion.synsets,
        ),
    ],
    repository: Annotated[str, typer.Argument(help="USER/REPO on the Hub; made if it does not exist.")],
    name: Annotated[
        str | None, typer.Option(help="Its name there, as hopper-medium-distilled-v0. Default: of the id.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository. Default: the account's.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="A tag for the commit, as v1.0.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Share a synset on the Hugging Face Hub, beside those that the repository holds already.

    Example: `minari-distill push me/hopper-medium-distilled-v0 me/hopper-synsets`
    """
    from huggingface_hub.utils import disable_progress_bars

    from minari_distill.hub.address import as_name
    from minari_distill.hub.card import CardKept

    disable_progress_bars()
    with one_line_errors(as_json), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CardKept)
        pushed = md.load_synset(synset).push_to_hub(
            repository, name=name or as_name(_own_name(synset)), private=private, revision_tag=tag
        )
    notes = [str(warning.message) for warning in caught]
    if as_json:
        result = {"address": pushed.address, "url": pushed.url, "commit": pushed.commit}
        print_json({**result, "changed": pushed.changed, "notes": notes})
        return
    for note in notes:
        tell(note, "yellow")
    what = f"Pushed to {pushed.url}" if pushed.changed else f"{pushed.url} holds it already: nothing was sent"
    tell(what)
    tell(f"Load it with: minari-distill pull {pushed.address}")


def _own_name(synset: str) -> str:
    """The name in what was asked to be pushed: an id, a folder (or the data/ in it), or an address."""
    if synset.startswith("hf://"):
        from minari_distill.hub.address import HubAddress

        where = HubAddress.parse(synset)
        return where.name or where.repo_id.split("/")[1]
    path = Path(os.path.expanduser(synset))
    if path.is_dir():
        path = path.resolve()  # "." has no name
        return path.parent.name if path.name == "data" else path.name
    return path.name


def pull(
    address: Annotated[
        str, typer.Argument(help="hf://USER/REPO/NAME-vN@REVISION; the revision may be left out.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Minari id of the local copy. Default: REPO/NAME-vN.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a synset of that id.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Save a synset from the Hugging Face Hub as a local Minari dataset.

    Example: `minari-distill pull hf://me/hopper-synsets/hopper-medium-distilled-v0`
    """
    from huggingface_hub.utils import disable_progress_bars

    from minari_distill.hub import HubAddress

    disable_progress_bars()
    with one_line_errors(as_json):
        where = HubAddress.parse(address)
        if not (output or where.name):
            raise HubError(
                f"{address} names a whole repository. Say under which id to save it: -o me/hopper-v0"
            )
        target = output or f"{where.repo_id.split('/')[1]}/{where.name}"
        refuse_existing(target, overwrite=overwrite)
        synset = md.load_synset(str(where))
        path = synset.save(target, overwrite=overwrite)
    if as_json:
        print_json({"id": target, "path": str(path), **synset.summary()})
        return
    tell(f"Saved {target} ({len(synset)} pairs) in {path}")
    tell(f"Next: minari-distill evaluate {quote(target)}")
