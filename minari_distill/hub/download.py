"""From the Hub to this machine: a synset's files in Hugging Face's cache, judged before they are opened."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from minari_distill.errors import HubError, SynsetError, did_you_mean
from minari_distill.hub import calls
from minari_distill.hub.address import HubAddress
from minari_distill.hub.remote import COMMIT, Remote, open_api
from minari_distill.integrity import check_folder, check_listing, check_record
from minari_distill.layout import DATA, METADATA, RECORD


def fetch(address: str) -> Path:
    """The folder of a synset from the Hub, for `load_synset`; what is in the cache already is not fetched again.

    The files are those of one commit, and nothing else of the repository is fetched. An address that ends in a
    whole commit, and any address while HF_HUB_OFFLINE is set, is served from the cache without asking the Hub.

    Args:
        address: hf://USER/REPO/NAME-vN@REVISION; without NAME, the only synset of the repository.

    Raises:
        HubError: The Hub cannot be reached, or has no such synset; the message names the repair.
        SynsetError: What it has is no synset, or not a whole one.
    """
    where = HubAddress.parse(address)
    pinned = COMMIT.fullmatch(where.revision or "")
    if constants.HF_HUB_OFFLINE or (pinned and where.name):
        folder = _cached(where)
        if folder is not None and _is_whole(folder):
            return folder
    return calls.insist(lambda: _fetch(where), where.repo_id, "load from")


def _cached(where: HubAddress) -> Path | None:
    """The synset's folder in the cache; without a name, the only one there. None if it is not there, or a file is missing."""
    try:
        snapshot = snapshot_download(
            where.repo_id, repo_type="dataset", revision=where.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    here = Path(snapshot)
    if where.name:
        folders = [here / where.name]
    else:
        folders = [path.parents[1] for path in [here / RECORD, *here.glob(f"*/{RECORD.as_posix()}")]]
    whole = [f for f in folders if all((f / path).is_file() for path in (RECORD, METADATA, DATA))]
    return whole[0] if len(whole) == 1 else None


def _is_whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except SynsetError:
        return False
    return True


def _fetch(where: HubAddress) -> Path:
    remote = Remote.look_up(open_api(), where.repo_id, where.revision)
    prefix = _choose(remote, where)
    sizes = {path.removeprefix(prefix): f.size for path, f in remote.files.items() if path.startswith(prefix)}
    if not prefix:  # pushed whole as a repository: its card and the Hub's own files lie beside
        sizes = {path: size for path, size in sizes.items() if path.split("/")[0] in ("data", "synset")}
    check_listing(sizes, f"{where.repo_id}/{prefix}".rstrip("/"))
    try:
        return _gather(remote, where, prefix, sizes)
    except SynsetError:  # a damaged cache, perhaps: what the Hub sends now decides
        return _gather(remote, where, prefix, sizes, anew=True)


def _gather(
    remote: Remote, where: HubAddress, prefix: str, sizes: dict[str, int | None], *, anew: bool = False
) -> Path:
    """The synset's folder in the cache, every file judged."""
    record = _download(remote, where, prefix, RECORD, anew=anew)
    check_record(record.read_bytes(), sizes, f"{where.repo_id}/{prefix}".rstrip("/"))
    for path in (METADATA, DATA):  # the Parquet file holds the same pairs once more
        _download(remote, where, prefix, path, anew=anew)
    check_folder(record.parents[1])
    return record.parents[1]


def _choose(remote: Remote, where: HubAddress) -> str:
    """The folder of the synset in the repository, with a slash at its end; "" for the repository itself."""
    names = remote.names()
    if where.name in names:
        return f"{where.name}/"
    there = f"It holds {', '.join(names)}." if names else "It holds none; push one with: minari-distill push"
    if where.name:
        if any(path.startswith(f"{where.name}/") for path in remote.files):
            raise SynsetError(
                f"'{where.name}' in '{where.repo_id}' is no synset: it has no {RECORD}. {there} A Minari dataset is "
                "loaded with minari.load_dataset."
            )
        raise HubError(
            f"'{where.repo_id}' holds no synset '{where.name}'.{did_you_mean(where.name, names)} {there}"
        )
    if RECORD.as_posix() in remote.files:
        return ""
    if len(names) == 1:
        return f"{names[0]}/"
    raise HubError(f"Say which synset of '{where.repo_id}', as hf://{where.repo_id}/NAME. {there}")


def _download(remote: Remote, where: HubAddress, prefix: str, path: Path, *, anew: bool = False) -> Path:
    """One file of the commit that was looked at, in the cache.

    It is asked for by the revision's own name, so that the cache knows that name while offline.
    """
    local = Path(
        hf_hub_download(
            remote.repo_id,
            f"{prefix}{path.as_posix()}",
            repo_type="dataset",
            revision=where.revision or constants.DEFAULT_REVISION,
            force_download=anew,
        )
    )
    if remote.commit not in local.parts:
        raise calls.Moved
    return local
