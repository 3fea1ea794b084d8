"""From this machine to the Hub: one commit that holds all of a synset, or none."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from minari_distill import plots
from minari_distill.errors import HubError
from minari_distill.hub import calls
from minari_distill.hub.address import HubAddress, as_name, check_name, check_repo_id, check_tag
from minari_distill.hub.card import lists, write_card
from minari_distill.hub.remote import Remote, open_api
from minari_distill.layout import DATA, METADATA, PARQUET, RECORD
from minari_distill.recorded import history_of
from minari_distill.synset import Synset

_LONGEST = 60  # characters of a name made of the sources' ids, the rest apart
CARD, NAMESPACE = "README.md", "namespace_metadata.json"
SYNSET_FILES = tuple(path.as_posix() for path in (DATA, METADATA, PARQUET, RECORD))


@dataclass(frozen=True)
class Pushed:
    """Where a synset is now.

    Attributes:
        address: For `load_synset`, with the tag or the commit, so that it means the same for ever.
        url: The repository's page.
        commit: The commit that holds it.
        changed: False if the repository held it already, and nothing was sent.
    """

    address: str
    url: str
    commit: str
    changed: bool


def push(
    synset: Synset,
    repo_id: str,
    *,
    name: str | None = None,
    private: bool | None = None,
    revision_tag: str | None = None,
) -> Pushed:
    """Put a synset into a dataset repository, beside those that it holds already.

    What has the name already is replaced; the repository's history keeps it. Pushing the same synset again changes
    nothing. Several may push at once: whoever comes second begins again from what the first one left.

    Args:
        synset: What to push.
        repo_id: "user/repo"; made if it does not exist.
        name: Its name there, as "hopper-medium-distilled-v0"; by default made of the source's id.
        private: Whether a new repository is private; by default what the account's settings say.
        revision_tag: A tag for the commit, as "v1.0".

    Raises:
        HubError: It cannot be pushed; the message names the repair, and the repository is whole.
    """
    by_default, name = name is None, name or default_name(synset)
    check_repo_id(repo_id)
    check_name(name)
    if revision_tag is not None:
        check_tag(revision_tag)
    api = open_api()
    remote = calls.insist(lambda: _open_repository(api, repo_id, private), repo_id, "push to")
    if by_default:
        calls.insist(lambda: _refuse_another_source(remote, synset, name), repo_id, "push to")
    with tempfile.TemporaryDirectory() as folder:
        draft = _Draft.write(Path(folder), synset, remote, name)
        if revision_tag is not None:
            calls.insist(lambda: _tag_is_free(api, draft, revision_tag), repo_id, "push to")
        commit, changed = calls.insist(lambda: _commit(api, draft), repo_id, "push to")
        if revision_tag is not None:
            calls.insist(lambda: _tag(api, draft, revision_tag, commit), repo_id, "tag")
    return Pushed(
        str(HubAddress(repo_id, name, revision_tag or commit)),
        f"{constants.ENDPOINT}/datasets/{repo_id}",
        commit,
        changed,
    )


def default_name(synset: Synset) -> str:
    """The name made of the sources' ids: "hopper-medium-distilled-v0" of mujoco/hopper/medium-v0; "-expanded" of what `expand` made."""
    stems = ["-".join(re.sub(r"-v\d+$", "", i).split("/")[-2:]) for i in synset.source.dataset_ids]
    kind = "expanded" if "expansion" in synset.metadata else "distilled"
    stem = "-and-".join(dict.fromkeys(stems))
    if len(stem) > _LONGEST:
        told = hashlib.sha256("\n".join(synset.source.dataset_ids).encode()).hexdigest()[:8]
        stem = f"{stem[:_LONGEST]}-{told}"
    return as_name(f"{stem}-{kind}")


def _refuse_another_source(remote: Remote, synset: Synset, name: str) -> None:
    """A name that nobody chose replaces only what was made of the same datasets: of ids that end alike it is the same."""
    try:
        there = json.loads(remote.read(f"{name}/{RECORD.as_posix()}") or "{}")["source"]["dataset_ids"]
    except (ValueError, KeyError, TypeError):
        return  # nothing, or nothing that can be read: pushing anew mends it
    if there != list(synset.source.dataset_ids):
        raise HubError(
            f"'{remote.repo_id}' holds a '{name}' of {', '.join(map(str, there))}, and this synset is of "
            f"{', '.join(synset.source.dataset_ids)}. Give it a name of its own with name= (--name), or that one to replace it."
        )


# --------------------------------------------------------------------------------------------- the draft


@dataclass
class _Draft:
    """A synset's files as they are to lie in the repository, in a temporary folder of the same layout.

    Attributes:
        folder: Holds name/{data,synset}/…
        met: The synset that the first look found under this name, by its synset.json's hash; None for none.
        draw: Draws the figures into the folder, once; returns their paths.
    """

    folder: Path
    synset: Synset
    repo_id: str
    name: str
    met: str | None
    draw: Callable[[], list[str]]

    @classmethod
    def write(cls, folder: Path, synset: Synset, remote: Remote, name: str) -> _Draft:
        (folder / name).mkdir()
        synset.write(folder / name, f"{remote.repo_id.split('/')[1]}/{name}")
        met = remote.content_id(f"{name}/{RECORD.as_posix()}")
        return cls(folder, synset, remote.repo_id, name, met, cache(lambda: _draw(folder, synset, name)))

    def is_in(self, remote: Remote) -> bool:
        """Whether the repository holds this very synset under this name."""
        return all(
            remote.holds(f"{self.name}/{path}", self.folder / self.name / path) for path in SYNSET_FILES
        )

    def changes(self, remote: Remote) -> list[CommitOperationAdd | CommitOperationDelete]:
        """What turns the repository into the union of what it holds and this synset; nothing if it is that."""
        card = remote.read(CARD)
        names = {*remote.names(), self.name}
        there = self.is_in(remote)
        texts = {NAMESPACE: _namespace(remote, names)}
        stale: list[str] = []
        if not (there and lists(card, self.name)):
            figures = self.draw()
            texts[CARD] = write_card(
                card, self.synset, self.repo_id, self.name, figures=figures, present=names
            )
            stale = [p for p in remote.files if p.startswith(f"card/{self.name}/") and p not in figures]
        else:
            figures = []
        for path, text in texts.items():
            (self.folder / path).write_bytes(text.encode())
        paths = [f"{self.name}/{path}" for path in SYNSET_FILES] + figures + list(texts)
        add = [path for path in paths if not remote.holds(path, self.folder / path)]
        return [
            *(CommitOperationAdd(path, self.folder / path) for path in add),
            *(CommitOperationDelete(path) for path in stale),
        ]


def _draw(folder: Path, synset: Synset, name: str) -> list[str]:
    """The card's figures, as far as this synset and this machine allow."""
    (folder / "card" / name).mkdir(parents=True, exist_ok=True)
    states, curve = f"card/{name}/states.png", f"card/{name}/learning-curve.png"
    figures = [states] if plots.render_strip(synset, folder / states) else []
    history = history_of(synset)
    if len(history) > 1:
        plots.held_out_curve(history, name, folder / curve)
        figures.append(curve)
    return figures


def _namespace(remote: Remote, names: set[str]) -> str:
    """Minari's list of the repository's datasets, with every synset in it and none that has gone."""
    text = remote.read(NAMESPACE)
    try:
        before = json.loads(text) if text else {}
        others = [str(i) for i in before.get("datasets", [])]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise HubError(
            f"{NAMESPACE} of '{remote.repo_id}' is no list of Minari datasets ({error}). Delete it on the Hub and push "
            "again: it is then written anew."
        ) from error
    repo = remote.repo_id.split("/")[1]
    kept = {i for i in others if f"{i.removeprefix(f'{repo}/')}/{METADATA.as_posix()}" in remote.files}
    datasets = sorted(kept | {f"{repo}/{name}" for name in names})
    if before.get("datasets") == datasets and text is not None:
        return text
    description = before.get("description") or "Synsets: small distilled datasets for behavioural cloning."
    return json.dumps(
        {"namespaces": [], **before, "description": description, "datasets": datasets}, indent=1
    )


# ------------------------------------------------------------------------------------------ the Hub's side


def _open_repository(api: HfApi, repo_id: str, private: bool | None) -> Remote:
    """A first look at the repository, which is made if need be, as private as was asked."""
    try:
        found = Remote.look_up(api, repo_id)
    except RepositoryNotFoundError:
        found = None
    if found is None:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        found = Remote.look_up(api, repo_id)
    if private is not None and found.private != private:
        is_, asked = ("private", "public") if found.private else ("public", "private")
        raise HubError(
            f"'{repo_id}' is {is_} and {asked} was asked for; nothing was sent. Change it at "
            f"{constants.ENDPOINT}/datasets/{repo_id}/settings, or push to another repository."
        )
    return found


def _commit(api: HfApi, draft: _Draft) -> tuple[str, bool]:
    """One look and, if something is missing, one commit on top of exactly what was seen."""
    remote = Remote.look_up(api, draft.repo_id)
    seen = remote.content_id(f"{draft.name}/{RECORD.as_posix()}")
    if seen != draft.met and not draft.is_in(remote):
        raise HubError(
            f"Someone else has pushed another '{draft.name}' to '{draft.repo_id}' at this moment; it was not touched. "
            f"Choose another name, or push again to replace it."
        )
    changes = draft.changes(remote)
    if not changes:
        return remote.commit, False
    try:
        done = api.create_commit(
            draft.repo_id,
            changes,
            commit_message=f"Synset {draft.name}",
            repo_type="dataset",
            parent_commit=remote.commit,
        )
    except HfHubHTTPError as error:
        if error.response.status_code in (409, 412):
            raise calls.Moved from error
        raise
    return done.oid, True


def _tag_is_free(api: HfApi, draft: _Draft, tag: str) -> bool:
    """Whether the tag may still be given; False if it marks this very synset already.

    Raises:
        HubError: It marks something else.
    """
    tags = {ref.name for ref in api.list_repo_refs(draft.repo_id, repo_type="dataset").tags}
    if tag not in tags:
        return True
    if draft.is_in(Remote.look_up(api, draft.repo_id, tag)):
        return False
    raise HubError(
        f"The tag '{tag}' of '{draft.repo_id}' exists and marks another content. Choose another tag; there are "
        f"{', '.join(sorted(tags))}."
    )


def _tag(api: HfApi, draft: _Draft, tag: str, commit: str) -> None:
    if _tag_is_free(api, draft, tag):
        api.create_tag(draft.repo_id, tag=tag, revision=commit, repo_type="dataset")
