"""Docstrings as Markdown: the package writes them for `help()`, where two spaces make a table and `>>>` an example.

An extension of Griffe, which reads the docstrings for the API pages. Above the first section (`Args:` and the like),
examples and paragraphs in columns become code blocks, and the star of π* is no emphasis.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Notes?|Examples?):$", re.M)
_SEVERAL = re.compile(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)+)(: .*\n?(?: {8}.*\n?)*)", re.M)
"""Several names of one meaning: an entry of their section, with the lines that go on."""
_COLUMNS = re.compile(r"\S {2,}\S")


def to_markdown(docstring: str) -> str:
    """The docstring with its examples and tables fenced."""
    section = _SECTION.search(docstring)
    end = section.start() if section else len(docstring)
    paragraphs = [_paragraph(p) for p in re.split(r"\n[ ]*\n", docstring[:end].rstrip("\n"))]
    tail = _SEVERAL.sub(_one_each, docstring[end:].replace("][", "]\\["))
    return "\n\n".join(paragraphs) + (f"\n\n{tail}" if tail else "")


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if text.startswith("    "):
        return text  # a code block already
    if lines[0].startswith(">>>"):
        shown = re.sub(r" *# doctest: \+\w+", "", text)
        return f"```pycon\n{shown}\n```"
    if len(lines) > 1 and sum(bool(_COLUMNS.search(line)) for line in lines) > len(lines) / 2:
        return f"```text\n{text}\n```"
    return text.replace("π*", "π\\*").replace("][", "]\\[")  # "[a][b]" would be a link


def _one_each(entry: re.Match[str]) -> str:
    names, meaning = entry[1].split(", "), entry[2].rstrip("\n")
    return "\n".join(f"    {name}{meaning}" for name in names) + entry[2][len(meaning) :]


class Docstrings(griffe.Extension):
    """Turns every docstring into Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called once all is read: a subpackage's names are shown where they are defined, not twice."""
        packages = [pkg]
        while packages:
            module = packages.pop()
            packages += [m for m in module.members.values() if not m.is_alias and m.is_module]
            module.exports = None
