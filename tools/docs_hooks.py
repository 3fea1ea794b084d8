"""What MkDocs calls while it builds the site.

Formulas   TeX between dollar signs becomes MathML, which browsers draw by themselves: no script, no fonts to fetch.
Coverage   The build fails if a public name of the package has no place in the API pages.

A name is public if no part of its path begins with an underscore and its module is not the command line's: functions,
classes, and whatever an `__all__` names.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minari_distill"
COMMAND_LINE = {"__main__", "cli", "hub_cli", "terminal"}
"""Names of modules that hold commands and their printing: `minari-distill COMMAND --help` documents those."""

OTHER_MODULES = "<!-- the modules that no other page names -->"

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_anchors: set[str] = set()


# ------------------------------------------------------------------------------------------- coverage


def public_names() -> list[str]:
    """Dotted paths of all public functions and classes, and of what `__all__` names, where each is defined."""
    names = dict.fromkeys(
        f"{module}.{node.name}"
        for module, tree in _modules().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    for module in _modules():
        names |= dict.fromkeys(_home(module, name) for name in _all(module))
    return list(names)


def undocumented(documented: set[str]) -> list[str]:
    """Public names that are not among `documented`."""
    return [name for name in public_names() if name not in documented]


def unmentioned_modules(folder: Path) -> list[str]:
    """Modules with public names that no `:::` line of the pages in `folder` covers."""
    covered = written(folder)
    return list(dict.fromkeys(n.rpartition(".")[0] for n in public_names() if n not in covered))


def written(folder: Path) -> set[str]:
    """Public names that the `:::` lines of the pages in `folder` ask for: each alone, or by its module or package."""
    pages = "\n".join(page.read_text() for page in sorted(folder.glob("*.md")))
    found: set[str] = set()
    for asked, options in re.findall(r"^::: (\S+)\n((?: {4}.*\n)*)", pages + "\n", re.M):
        deep = "show_submodules: true" in options
        for name in public_names():
            module = name.rpartition(".")[0]
            if asked in (name, module) or (deep and name.startswith(asked + ".")):
                found.add(name)
    return found


@cache
def _modules() -> dict[str, ast.Module]:
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if COMMAND_LINE & set(parts[-1:]) or any(p.startswith("_") for p in parts):
            continue
        modules[".".join((PACKAGE.name, *parts))] = ast.parse(path.read_text())
    return modules


def _all(module: str) -> list[str]:
    for node in _modules()[module].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def _home(module: str, name: str) -> str:
    """Where a name that `module` offers is defined."""
    for node in _modules()[module].body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE.name):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _home(node.module, alias.name)
    return f"{module}.{name}"


# ------------------------------------------------------------------------------------------- formulas


def to_mathml(html: str) -> str:
    """Every formula of a page as MathML.

    Raises:
        ValueError: One holds something that the converter does not know.
    """
    from html import unescape

    from latex2mathml.converter import convert

    def replace(match: re.Match[str]) -> str:
        tex = unescape(match[2])
        mathml = convert(tex, display="block" if match[1] == "div" else "inline")
        if re.search(r"\\|&(?!#?\w+;)", mathml):
            raise ValueError(f"This formula cannot be drawn, write it with simpler commands: {tex}")
        return mathml

    return _FORMULA.sub(replace, html)


# ---------------------------------------------------------------------------------------- MkDocs calls


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Write the modules that no page names where the pages say `OTHER_MODULES`."""
    if OTHER_MODULES not in markdown:
        return markdown
    modules = unmentioned_modules(ROOT / "docs" / "api")
    return markdown.replace(OTHER_MODULES, "\n\n".join(f"::: {module}" for module in modules))


def on_page_content(html: str, page: Any, **kwargs: Any) -> str:
    """Formulas to MathML; note the anchors of the API pages."""
    from mkdocs.exceptions import PluginError

    if page.file.src_uri.startswith("api/"):
        _anchors.update(re.findall(r'id="(minari_distill[\w.]*)"', html))
    try:
        return to_mathml(html)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def on_post_build(**kwargs: Any) -> None:
    """Fail if a public name has no anchor in the API pages."""
    from mkdocs.exceptions import PluginError

    missing = undocumented(_anchors)
    if missing:
        raise PluginError(
            f"No place in docs/api for: {', '.join(missing)}. Write a docstring, and a line '::: MODULE' in the page "
            "where it belongs."
        )
