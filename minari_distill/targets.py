"""Where a synset is saved: a Minari id or a folder, free to be written.

Everything that would end a save is told before hours of work by `refuse_existing`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from minari.namespace import create_namespace, list_local_namespaces
from minari.storage.datasets_root_dir import get_dataset_path

from minari_distill import layout
from minari_distill.errors import SynsetError
from minari_distill.integrity import NOTES
from minari_distill.locate import MINARI_ID


def refuse_existing(target: str | Path, *, overwrite: bool = False) -> None:
    """Say beforehand what `save(target, overwrite=overwrite)` would say after hours of work.

    Raises:
        SynsetError: A bad id, or something is there already.
    """
    folder = resolve_target(target)[0]
    refuse_folder(folder, target, overwrite)
    above = next(parent for parent in folder.resolve().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise SynsetError(f"'{target}' cannot be saved: nothing can be written in {above}.")


def refuse_folder(folder: Path, target: str | Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a synset to be overwritten.

    Raises:
        SynsetError: As said; `target` is what the user called it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise SynsetError(
            f"'{target}' exists already, in {folder}. Choose another name, or replace it with overwrite=True "
            "(--overwrite)."
        )
    if not any(_speaks_of_a_synset(folder / file) for file in (layout.METADATA, layout.RECORD)):
        raise SynsetError(
            f"'{target}' exists in {folder} and is no synset: it is not overwritten. Choose another name."
        )
    for path in _beside(folder):
        if path.suffix not in NOTES and not path.name.startswith("."):
            raise SynsetError(
                f"'{target}' is not overwritten: '{path.relative_to(folder)}' lies in its folder {folder} and would be lost. "
                "Move it elsewhere, or choose another name."
            )


def _speaks_of_a_synset(path: Path) -> bool:
    """Whether a file names our format: also one that is damaged, or of another version, which is what saving anew mends."""
    return path.is_file() and f'"{layout.FORMAT}"' in path.read_text(errors="replace")


def notes_in(folder: Path) -> list[Path]:
    """Notes and pictures that somebody has put beside a synset's own files."""
    return [path for path in _beside(folder) if path.suffix in NOTES]


def _beside(folder: Path) -> list[Path]:
    ours = {folder / file for file in layout.FILES}
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in ours]


def resolve_target(target: str | Path) -> tuple[Path, str]:
    """The folder to write, and the Minari id to write in it.

    Raises:
        SynsetError: A name that Minari or the Hub would refuse.
    """
    if isinstance(target, str) and MINARI_ID.fullmatch(target):
        _check_id(target)
        folder = get_dataset_path(target)
        _refuse_inside(folder, target)
        return folder, target
    text = os.fspath(target)
    folder = Path(os.path.expanduser(text)).absolute()
    if isinstance(target, str) and not (text.startswith((".", "~")) or os.path.isabs(text)):
        raise SynsetError(
            f"{target!r} is no Minari id. Write (namespace/)name-v0 in letters, digits, '-' and '_', namespaces of "
            f"two characters or more, for instance 'me/{_as_name(text)}-v0'; for a folder write './{text}'."
        )
    name = folder.name if MINARI_ID.fullmatch(folder.name) else f"{_as_name(folder.name)}-v0"
    _check_id(name)
    return folder, name


def _refuse_inside(folder: Path, target: str) -> None:
    for parent in folder.parents[: len(Path(target).parts) - 1]:  # those that the id names
        if (parent / "data" / "metadata.json").is_file():
            raise SynsetError(f"{target!r} would lie inside the dataset in {parent}. Choose another name.")


def _check_id(dataset_id: str) -> None:
    # The Hub's grammar on top of Minari's: a synset must be pushable under its own name.
    for name in dataset_id.split("/"):
        if "--" in name or name.startswith("-") or name.endswith("-") or len(name) > 96:
            raise SynsetError(
                f"{dataset_id!r}: the Hub refuses the name {name!r}. Use single dashes inside the name and at most "
                f"96 characters, for instance '{_as_name(name)}'."
            )


def _as_name(text: str) -> str:
    name = re.sub(r"-v\d+$", "", text.rstrip("/").split("/")[-1])
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "synset"


def register_namespace(dataset_id: str) -> None:
    """Tell Minari of the namespace of an id that is new to it."""
    namespace = dataset_id.rpartition("/")[0]  # empty for a folder elsewhere
    if namespace and namespace not in list_local_namespaces():
        with suppress(ValueError):  # another process has just told it
            create_namespace(namespace)
