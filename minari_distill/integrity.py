"""What a synset's folder may hold, whoever wrote it: known files, of the sizes and hashes that synset.json records.

A folder that comes from someone else is judged in three steps, each before the next is taken: its listing, then
synset.json alone, then the rest. Nothing in it is ever run or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from minari_distill.errors import SynsetError
from minari_distill.layout import DATA, FORMAT, FORMAT_VERSION, METADATA, PARQUET, RECORD

LARGEST_JSON = 8 * 2**20  # bytes of synset.json and of metadata.json
LARGEST_DATA = 2 * 2**30  # bytes of the pairs; 256 of them take half a million
LEAST_EPISODE = 100  # bytes that an episode takes in HDF5, whatever it holds
NOTES = (".md", ".txt", ".png", ".jpg", ".svg", ".gif")  # never read, so they may lie beside


def check_listing(sizes: Mapping[str, int | None], where: str) -> None:
    """Judge the files of a synset's folder by their names and sizes.

    Args:
        sizes: Bytes by path inside the folder.
        where: Whose folder, for the messages.

    Raises:
        SynsetError: A file is missing, does not belong there, or is too large.
    """
    limits = {DATA: LARGEST_DATA, PARQUET: LARGEST_DATA, METADATA: LARGEST_JSON, RECORD: LARGEST_JSON}
    known = {path.as_posix(): limit for path, limit in limits.items()}
    for path, limit in known.items():
        if path not in sizes:
            raise SynsetError(
                f"'{where}' is no whole synset: it has no {path}. Ask its owner to push it again."
            )
        size = sizes[path]
        if size is None or not 0 < size <= limit:
            raise SynsetError(
                f"'{where}' is refused: its {path} is said to have {size} bytes, of a synset it has at most {limit}."
            )
    for path in sizes:
        notes = path.endswith(NOTES) and PurePosixPath(path).parts[0] not in ("data", "synset")
        if path not in known and not (notes and ".." not in PurePosixPath(path).parts):
            raise SynsetError(
                f"'{where}' is refused: '{path}' does not belong to a synset, which holds {', '.join(known)}. "
                "Nothing of it was opened. Ask its owner to remove the file."
            )


def check_record(content: bytes, sizes: Mapping[str, int | None], where: str) -> dict[str, Any]:
    """The record in synset.json, judged against the listing of the folder.

    Raises:
        SynsetError: It is no record of this format, or says something else than the listing.
    """
    record = _parse(content, f"{where}/{RECORD.as_posix()}")
    if record.get("format") != FORMAT:
        raise SynsetError(f"'{where}' is refused: its synset.json is not of the format {FORMAT!r}.")
    if record.get("format_version") != FORMAT_VERSION:
        raise SynsetError(
            f"'{where}' is a synset of format version {record.get('format_version')!r}, this minari_distill reads "
            f"{FORMAT_VERSION}. Try: pip install --upgrade minari-distill"
        )
    files = record.get("files")
    if not isinstance(files, dict) or set(files) != {DATA.as_posix(), PARQUET.as_posix()}:
        raise SynsetError(
            f"'{where}' is refused: synset.json records the files {sorted(files) if isinstance(files, dict) else files}"
            f", of a synset they are {DATA.as_posix()} and {PARQUET.as_posix()}."
        )
    for path, file in files.items():
        if not isinstance(file, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(file.get("sha256"))):
            raise SynsetError(f"'{where}' is refused: synset.json has no checksum of {path}.")
        if file.get("bytes") != sizes[path]:
            raise SynsetError(
                f"'{where}' is refused: {path} has {sizes[path]} bytes, synset.json says {file.get('bytes')}."
            )
    n_syn, data_bytes = record.get("n_syn"), files[DATA.as_posix()]["bytes"]
    if not isinstance(n_syn, int) or not 1 <= n_syn <= data_bytes // LEAST_EPISODE:
        raise SynsetError(
            f"'{where}' is refused: synset.json says n_syn={n_syn}, for which {data_bytes} bytes of data are no place."
        )
    return record


def check_folder(folder: Path) -> None:
    """Compare the files of a synset's folder with its synset.json; nothing to do where there is none.

    Raises:
        SynsetError: A file is not the one that was saved.
    """
    if not (folder / RECORD).is_file():
        return  # the Minari part alone, as Minari's own tools copy it
    record = _parse((folder / RECORD).read_bytes(), str(folder / RECORD))
    files = record.pop("files", None)
    for path in (DATA, PARQUET):
        if (folder / path).is_file():
            with (folder / path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            recorded = files.get(path.as_posix()) if isinstance(files, dict) else None
            if not isinstance(recorded, dict) or recorded.get("sha256") != found:
                raise SynsetError(
                    f"'{folder / path}' is not the file whose checksum synset.json records: it was changed or "
                    "damaged after it was saved. Save or pull the synset anew."
                )
    metadata = _parse((folder / METADATA).read_bytes(), str(folder / METADATA))
    if metadata.get("synset") != record:
        raise SynsetError(
            f"'{folder}': metadata.json and synset.json tell different things of the synset: one of them was "
            "changed after it was saved. Save or pull the synset anew."
        )


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets in brackets in …
        raise SynsetError(f"'{where}' is no JSON ({error}). Save or pull the synset anew.") from error
    if not isinstance(value, dict):
        raise SynsetError(f"'{where}' holds no JSON object. Save or pull the synset anew.")
    return value
