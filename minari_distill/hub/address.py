"""Where a synset lies on the Hub: hf://USER/REPO/NAME-vN@REVISION."""

from __future__ import annotations

import re
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from minari_distill.errors import HubError

_ADDRESS = re.compile(
    r"hf://(?:datasets/)?(?P<repo>[^/@]+/[^/@]+)(?:/(?P<name>[^/@]+))?(?:@(?P<revision>.+))?", re.ASCII
)
_NAME = re.compile(r"[A-Za-z0-9_](?:-?[A-Za-z0-9_])*-v\d+", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[./-]?[A-Za-z0-9_])*", re.ASCII)  # so no "..", "//" or leading "/"
_EXAMPLE = "hf://me/hopper-synsets/hopper-medium-distilled-v0"


@dataclass(frozen=True)
class HubAddress:
    """A synset in a dataset repository.

    >>> HubAddress.parse("hf://me/synsets/hopper-v0@v1.0")
    HubAddress(repo_id='me/synsets', name='hopper-v0', revision='v1.0')

    Attributes:
        repo_id: "user/repo".
        name: Its folder; None for the only synset of the repository.
        revision: A branch, tag or commit; None for the newest on main.
    """

    repo_id: str
    name: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read hf://USER/REPO[/NAME-vN][@REVISION].

        Raises:
            HubError: It is no such address.
        """
        match = _ADDRESS.fullmatch(text)
        if not match:
            raise HubError(f"'{text}' is no address of a synset. Write hf://USER/REPO/NAME-vN, as {_EXAMPLE}")
        repo_id, name, revision = match.group("repo", "name", "revision")
        check_repo_id(repo_id)
        if name is not None:
            check_name(name)
        if revision is not None:
            check_revision(revision)
        return cls(repo_id, name, revision)

    def __str__(self) -> str:
        name = f"/{self.name}" if self.name else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo_id}{name}{revision}"


def check_repo_id(repo_id: str) -> None:
    """Refuse what the Hub or Minari would refuse as "user/repo".

    Raises:
        HubError: With what to write instead.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(
            f"{error} Write the repository as user/name, for instance me/hopper-synsets."
        ) from error
    user, slash, repo = repo_id.partition("/")
    if not slash:
        raise HubError(
            f"{repo_id!r} names no user. Write the repository as user/name, for instance me/{repo_id}."
        )
    if not re.fullmatch(r"[-\w]{2,}", repo, re.ASCII):  # it is the namespace of the Minari ids
        better = re.sub(r"[^-\w]+", "-", repo, flags=re.ASCII).ljust(2, "_")
        raise HubError(
            f"Minari cannot read from a repository called {repo!r}. Use two or more letters, digits, '-' and '_', for "
            f"instance {user}/{better}."
        )


def check_name(name: str) -> None:
    """Refuse what the Hub or Minari would refuse as a synset's name.

    Raises:
        HubError: With what to write instead.
    """
    if not _NAME.fullmatch(name) or len(name) > 96:
        raise HubError(
            f"{name!r} is no name of a synset. Write letters, digits, single '-' and '_', and a version at the end, "
            f"for instance '{as_name(name)}'."
        )


def check_revision(revision: str) -> None:
    """Refuse what Git would refuse as a branch, tag or commit.

    Raises:
        HubError: With what to write instead.
    """
    if not _REVISION.fullmatch(revision) or revision.endswith(".lock"):
        raise HubError(f"{revision!r} is no name of a tag, branch or commit. Write one as 'v1.0' or 'main'.")


def check_tag(tag: str) -> None:
    """Refuse as a tag what `check_revision` refuses, and the branch itself, which would move on.

    Raises:
        HubError: With what to write instead.
    """
    check_revision(tag)
    if tag == "main" or tag.startswith("refs/"):
        raise HubError(f"{tag!r} is a branch, which moves on with every push. Write a tag as 'v1.0'.")


def as_name(text: str) -> str:
    """A name made of `text`.

    >>> as_name("Hopper (medium)"), as_name("hopper-v2")
    ('Hopper-medium-v0', 'hopper-v2')
    """
    stem, version = re.fullmatch(r"(.*?)(-v\d+)?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-")[:80].rstrip("-")
    return f"{stem or 'synset'}{version or '-v0'}"
