"""Documentation is code: Python blocks run and print what the page says, commands parse, links lead somewhere."""

import ast
import dataclasses
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

import minari_distill as md
from minari_distill.cli import app
from minari_distill.presets import PRESETS
from tools.docs_hooks import (
    OTHER_MODULES,
    public_names,
    settings_tables,
    to_mathml,
    undocumented,
    written,
)

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
API = ROOT / "docs" / "api"

# A Python block, and the text block right below it, which is what it prints.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.M | re.S)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


NEEDS_A_HUB = ("hub.md",)  # run by tests/hub/test_hub_commands.py
NEEDS_CODEBASES = ("exporters.md",)  # run by test_exporters.py and, codebase by codebase, by integrations/
RUN_ELSEWHERE = NEEDS_A_HUB + NEEDS_CODEBASES


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and p.name not in RUN_ELSEWHERE], ids=name_of)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """In order, in one namespace, in an empty folder; what stands below a block is what it prints."""
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for block, printed in blocks(page):
        capsys.readouterr()
        exec(compile(block, str(page), "exec"), names)
        if printed:
            assert capsys.readouterr().out == printed


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    """Relative links and pictures exist."""
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands(page: Path) -> list[list[str]]:
    """Command lines of the page's shell blocks, as words; a backslash at the end goes on in the next line."""
    shell = "\n".join(re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page.read_text(), re.M | re.S))
    lines = shell.replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.strip()]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_commands_exist(page):
    """Every `minari-distill` line parses with its options, every `python -m benchmarks.…` names a module."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    for words in commands(page):
        if words[0] == "torchrun":
            words = ["minari-distill", *words[words.index("minari_distill") + 1 :]]
        if words[0] == "minari-distill":
            name, *arguments = words[1:]
            group.commands[name].make_context(name, arguments)
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words


def test_every_public_name_is_in_the_api_pages():
    """Names of `__all__` stand in the first page's table; every module is on a page, named or among the others;
    the build itself then fails where one of its names has no docstring."""
    table = set(re.findall(r"^\| \[`md\.(\w+)`\]", (API / "index.md").read_text(), re.M))
    assert table == set(md.__all__)
    assert [p.name for p in API.glob("*.md") if OTHER_MODULES in p.read_text()] == ["engine.md"]
    modules = {name.rpartition(".")[0] for name in public_names()}
    for asked in re.findall(r"^::: (\S+)", "\n".join(p.read_text() for p in API.glob("*.md")), re.M):
        assert asked in modules or any(m.startswith(asked + ".") for m in modules), asked


@pytest.mark.parametrize("name", [n for n in md.__all__ if inspect.isfunction(getattr(md, n))])
def test_public_functions_say_what_goes_in_comes_out_and_goes_wrong(name):
    """Every parameter, the result and the errors of a function of the door are in its docstring."""
    text = inspect.getdoc(getattr(md, name)) or ""
    arguments = text.partition("Args:\n")[2].partition("Returns:\n")[0]
    for parameter in inspect.signature(getattr(md, name)).parameters:
        assert re.search(rf"^ {{4}}\**{parameter}: \S", arguments, re.M), parameter
    assert re.search(r"^Returns:\n {4}\S", text, re.M)
    assert re.search(r"^Raises:\n {4}\w+: \S", text, re.M)


RECORDS = [
    n for n in md.__all__ if inspect.isclass(getattr(md, n)) and dataclasses.is_dataclass(getattr(md, n))
]


@pytest.mark.parametrize("name", RECORDS)
def test_public_records_name_their_fields(name):
    """Every field is in the docstring; those of the settings have their tables."""
    record = getattr(md, name)
    tabled = name in ("DistillConfig", "StudentRecipe")
    text = settings_tables(name) if tabled else inspect.getdoc(record) or ""
    for field in dataclasses.fields(record):
        assert re.search(rf"\b{field.name}\b", text), field.name


def test_a_missing_name_is_noticed(tmp_path):
    """A page with one module covers that module alone, a package with its submodules if told so."""
    (tmp_path / "page.md").write_text("::: minari_distill.outer\n")
    assert "minari_distill.outer.OuterLoop" in written(tmp_path)
    assert "minari_distill.policy.Policy" in undocumented(written(tmp_path))
    (tmp_path / "page.md").write_text("::: minari_distill.inner\n    options:\n      show_submodules: true\n")
    assert "minari_distill.inner.loop.InnerLoop" in written(tmp_path)
    (tmp_path / "page.md").write_text("::: minari_distill.inner\n")
    assert "minari_distill.inner.loop.InnerLoop" not in written(tmp_path)


def test_every_setting_is_in_the_table():
    """A row for each field, with the presets' values; a field without a comment is refused."""
    rows = {m[1]: m[2] for m in re.finditer(r"^\| `(\w+)` \|(.*)\|$", settings_tables("DistillConfig"), re.M)}
    assert list(rows) == [field.name for field in dataclasses.fields(md.DistillConfig)]
    presets = {"quick": 0, "infinite": 1, "paper": 2}
    for field in dataclasses.fields(md.DistillConfig):
        default, *shown = [cell.strip(" `") for cell in rows[field.name].split(" | ")]
        assert default == field.default or ast.literal_eval(default) == field.default, field.name
        for preset, at in presets.items():
            given = PRESETS[preset].get(field.name, "")
            assert shown[at] == given or ast.literal_eval(shown[at]) == given, (preset, field.name)


def test_formulas_become_mathml():
    """A fraction is a fraction; what the converter does not know is refused."""
    pytest.importorskip("latex2mathml", reason="of the extra 'docs'")
    page = '<div class="arithmatex">\\[\\frac{a}{b}\\]</div>'
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in to_mathml(page)
    with pytest.raises(ValueError, match="aligned"):
        to_mathml(page.replace("\\frac{a}{b}", "\\begin{aligned}a &= b\\end{aligned}"))


def test_docstrings_become_markdown():
    """Examples and columns are fenced, sections stay, each of several names gets its entry."""
    pytest.importorskip("griffe", reason="of the extra 'docs'")
    from tools.docstrings import to_markdown

    given = "Add π*.\n\n>>> 1 + 1  # doctest: +SKIP\n2\n\none    1\ntwo    2\n\nArgs:\n    a, b: One [1][2]\n        or two.\n    c: C."
    assert to_markdown(given) == (
        "Add π\\*.\n\n```pycon\n>>> 1 + 1\n2\n```\n\n```text\none    1\ntwo    2\n```\n\n"
        "Args:\n    a: One [1]\\[2]\n        or two.\n    b: One [1]\\[2]\n        or two.\n    c: C."
    )
