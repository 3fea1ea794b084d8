"""A repository as it is at one commit: which files, of which content."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import RevisionNotFoundError

from minari_distill import __version__
from minari_distill.errors import HubError, did_you_mean
from minari_distill.hub import calls
from minari_distill.layout import RECORD

COMMIT = re.compile(r"[0-9a-f]{40}")


def open_api() -> HfApi:
    """The Hub's client; which login it uses is huggingface_hub's own matter."""
    return HfApi(library_name="minari-distill", library_version=__version__)


@dataclass(frozen=True)
class Remote:
    """A look at a repository.

    Attributes:
        repo_id: "user/repo".
        commit: 40 hexadecimal digits.
        private: Whether only some may see it.
        files: huggingface_hub's entry of each file, by path.
    """

    repo_id: str
    commit: str
    private: bool
    files: dict[str, Any]

    @classmethod
    def look_up(cls, api: HfApi, repo_id: str, revision: str | None = None) -> Remote:
        """Ask the Hub what the repository holds at a revision (None: the newest on main)."""
        try:
            info: Any = api.repo_info(
                repo_id, repo_type="dataset", revision=revision, files_metadata=True, timeout=calls.PATIENCE
            )
        except RevisionNotFoundError:
            refs = api.list_repo_refs(repo_id, repo_type="dataset")
            names = [ref.name for ref in [*refs.branches, *refs.tags]]
            raise HubError(
                f"'{repo_id}' has no revision '{revision}'.{did_you_mean(str(revision), names)} It has "
                f"{', '.join(names) or 'none yet'}, and commits."
            ) from None
        if not COMMIT.fullmatch(str(info.sha)):
            raise HubError(
                f"'{repo_id}': the Hub names the commit {info.sha!r}, which is none. Try again later."
            )
        siblings = {entry.rfilename: entry for entry in info.siblings or []}
        return cls(repo_id, str(info.sha), bool(info.private), siblings)

    def names(self) -> list[str]:
        """Names of the synsets in it."""
        tail = f"/{RECORD.as_posix()}"
        return sorted(p.removesuffix(tail) for p in self.files if p.endswith(tail) and p.count("/") == 2)

    def content_id(self, path: str) -> str | None:
        """A hash of a file's content, None where it is not there: SHA-256 of large files, else Git's own."""
        entry = self.files.get(path)
        return None if entry is None else entry.lfs.sha256 if entry.lfs else entry.blob_id

    def holds(self, path: str, local: Path) -> bool:
        """Whether the file at `path` has the content of a local one."""
        there = self.content_id(path)
        if there is None or self.files[path].size != local.stat().st_size:
            return False
        content = local.read_bytes()
        if self.files[path].lfs:
            return hashlib.sha256(content).hexdigest() == there
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there

    def read(self, path: str) -> str | None:
        """A small text file, None where it is not there."""
        if path not in self.files:
            return None
        local = hf_hub_download(self.repo_id, path, repo_type="dataset", revision=self.commit)
        try:
            return Path(local).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise HubError(
                f"{path} of '{self.repo_id}' is no text in UTF-8 ({error}), and would be damaged. Save it as UTF-8 on the Hub, and "
                "try again."
            ) from error
