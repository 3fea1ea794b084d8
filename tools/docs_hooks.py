"""What MkDocs calls while it builds the site.

Settings   The tables of settings are read from the source: names, defaults, presets, and the comments beside them.
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
COMMAND_LINE = re.compile(r"__main__|(\w+_)?cli|completion|terminal")
"""Names of modules that hold commands and their printing: `minari-distill COMMAND --help` documents those."""

OTHER_MODULES = "<!-- the modules that no other page names -->"
SETTINGS = re.compile(r"^<!-- settings of (\w+) -->$", re.M)
_SETTINGS_IN = {"DistillConfig": "config.py", "StudentRecipe": "recipe.py"}

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
        if any(p.startswith("_") for p in parts) or COMMAND_LINE.fullmatch("".join(parts[-1:])):
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


# ------------------------------------------------------------------------------------------- settings


def settings_tables(class_name: str) -> str:
    """A table for each group of a dataclass's fields; what stands beside a field in a comment is its meaning.

    Raises:
        ValueError: A field has no comment.
    """
    text = (PACKAGE / _SETTINGS_IN[class_name]).read_text()
    lines = text.splitlines()
    (node,) = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == class_name)
    changed = _preset_values() if class_name == "DistillConfig" else {}
    columns = [name for name in changed if name != "default"]
    head = [*["setting", "default", *columns, "meaning"]]
    rule = _row(head) + _row(["---"] * len(head))
    out = rule
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or not field.value:
            continue
        group = _group_above(lines, node, field.lineno - 1)
        if group:
            out += f"\n**{group}**\n\n{rule}"
        meaning = _comment(lines[field.lineno - 1 : field.end_lineno])
        if not meaning:
            raise ValueError(f"{class_name}.{field.target.id} has no comment beside it that says what it is")
        name = field.target.id
        cells = [_code(field.value, text), *(changed[column].get(name, "") for column in columns)]
        out += _row([f"`{name}`", *cells, meaning])
    return out


def _preset_values() -> dict[str, dict[str, str]]:
    """Name of a preset → name of a setting → its value, as the source writes it."""
    text = (PACKAGE / "presets.py").read_text()
    (presets,) = (
        n.value
        for n in ast.parse(text).body
        if isinstance(n, ast.AnnAssign) and getattr(n.target, "id", "") == "PRESETS" and n.value
    )
    return {
        ast.literal_eval(preset): {
            ast.literal_eval(k): _code(v, text) for k, v in zip(d.keys, d.values, strict=True)
        }
        for preset, d in zip(presets.keys, presets.values, strict=True)
    }


def _code(value: ast.expr, text: str) -> str:
    return "`" + (ast.get_source_segment(text, value) or "").strip('"') + "`"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _comment(lines: list[str]) -> str:
    """What stands behind the `#` of a field's line or lines; the words of a setting in code type."""
    text = " ".join(line.split("#", 1)[1].strip() for line in lines if "#" in line)
    text = re.sub(r'"([\w:.]+)"', r"`\1`", text)
    return text.replace(" | ", ", ")


def _group_above(lines: list[str], node: ast.ClassDef, number: int) -> str:
    """The comment line right above line `number` (counted from 0), which opens a group of fields."""
    above = lines[number - 1].strip()
    return above.removeprefix("# ") if number > node.lineno and above.startswith("# ") else ""


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
        # a long formula scrolls by itself on a narrow screen
        return f'<div class="formula">{mathml}</div>' if match[1] == "div" else mathml

    return _FORMULA.sub(replace, html)


# ---------------------------------------------------------------------------------------- MkDocs calls


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Fill in the tables of settings, and the modules that no page names."""
    from mkdocs.exceptions import PluginError

    try:
        markdown = SETTINGS.sub(lambda match: settings_tables(match[1]), markdown)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
    modules = unmentioned_modules(ROOT / "docs" / "api") if OTHER_MODULES in markdown else []
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
