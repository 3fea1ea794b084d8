"""The paper's tables as Markdown, from the rows of a benchmark.

A score is mean ± 95 % half-width (fraction of the teacher's). With several synset seeds the mean and the interval
are over the seeds; with one, the interval is over its students (over the episodes of a single policy). The line
below each table names seeds, students and episodes.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from minari_distill.benchmark.cells import ARCHITECTURES, OPTIMIZERS, PROTOCOLS
from minari_distill.errors import ConfigError
from minari_distill.evaluate import Score
from minari_distill.files import write_atomically

Row = dict[str, Any]

_NAMES = {
    "random": "random pairs",
    "relabelled": "relabelled pairs",
    "dbc": "DBC",
    "robust_dbc": "robust DBC",
    "filtered_dbc": "filtered DBC",
    "pbc": "PBC",
    "av_pbc": "Av-PBC",
    "tempered_pbc": "tempered PBC",
    "auto": "auto",
    "bc": "BC on all data",
    "teacher": "teacher",
}
"""Methods by their names in the tables, in the tables' order; objectives of one's own stand before "bc"."""


def all_tables(rows: Sequence[Row]) -> dict[str, str]:
    """Markdown by marker: table1 … table5; a table without rows is left out."""
    makers: dict[str, Callable[[Sequence[Row]], str]] = {
        "table1": objectives_table,
        "table2": students_table,
        "table3": ensembles_table,
        "table4": cost_table,
        "table5": sizes_table,
        "table6": expanded_table,
    }
    made = {name: maker(rows) for name, maker in makers.items()}
    return {name: text for name, text in made.items() if text}


def objectives_table(rows: Sequence[Row]) -> str:
    """Table 1: objectives beside random pairs, relabelled pairs, BC on all data and the teacher."""
    main = at_main_size(r for r in rows if r["group"] == "main")
    parts = []
    for protocol in PROTOCOLS:
        chosen = [r for r in main if r["protocol"] in (protocol, "bc", "teacher")]
        if any(r["protocol"] == protocol for r in chosen):
            parts.append(_by_dataset(chosen, f"`{protocol}` students", method_name, method_order))
    return "\n\n".join(parts)


def students_table(rows: Sequence[Row]) -> str:
    """Table 2: other architectures and optimisers."""
    parts = []
    for group, variants in (("architectures", list(ARCHITECTURES)), ("optimizers", list(OPTIMIZERS))):
        for protocol in PROTOCOLS:
            chosen = [
                r for r in at_main_size(r for r in rows if r["group"] == group) if r["protocol"] == protocol
            ]
            if chosen:
                parts.append(
                    _by_dataset(
                        chosen,
                        f"{group}, `{protocol}` otherwise",
                        lambda r: f"{r['variant']}{_whose(r, chosen)}",  # noqa: B023  (used at once)
                        lambda r, v=variants: v.index(r["variant"]),  # type: ignore[misc]
                    )
                )
    return "\n\n".join(parts)


def ensembles_table(rows: Sequence[Row]) -> str:
    """Table 3: one student beside averaging ensembles, on the same synsets."""
    ensembles = at_main_size(r for r in rows if r["group"] == "ensembles")
    if not ensembles:
        return ""
    read = {_synset(r) for r in ensembles}
    single = [r for r in rows if r["group"] == "main" and _synset(r) in read]
    return _by_dataset(
        [*single, *ensembles],
        "students",
        lambda r: f"{method_name(r)}, `{r['protocol']}`, {r['variant'] or 'one student'}",
        lambda r: (method_order(r), PROTOCOLS.index(r["protocol"]), r["ensemble"]),
    )


def cost_table(rows: Sequence[Row]) -> str:
    """Table 4: steps and seconds to train students, on a synset and on all data, and what the synset took."""
    chosen = [
        r
        for r in at_main_size(r for r in rows if r["group"] == "main")
        if r["protocol"] in (*PROTOCOLS, "bc") and r["method"] not in ("random", "relabelled")
    ]
    if not any(r["protocol"] in PROTOCOLS for r in chosen):
        return ""
    chosen.sort(key=lambda r: (r["dataset"], method_order(r), r["protocol"]))
    body = []
    for (dataset, name, protocol), same in groupby(
        chosen, lambda r: (r["dataset"], method_name(r), r["protocol"])
    ):
        several = list(same)
        first = several[0]
        body.append(
            [
                dataset,
                name if protocol == "bc" else f"{name}, `{protocol}`",
                f"{first['n_pairs']:,}",
                f"{first['student_steps']:,} of {first['student_batch']}",
                f"{statistics.mean(r['student_seconds'] for r in several):.1f} for {first['trained_together']}",
                _seconds(several),
                score_text(several),
            ]
        )
    head = ["dataset", "students", "pairs", "steps of batch", "seconds for students", "distillation", "score"]
    where = "; ".join(sorted({f"{r['hardware']}, {r['threads']} threads" for r in chosen}))
    return f"{markdown(head, body)}\n\n{protocol_line(chosen)} Measured on: {where}."


def sizes_table(rows: Sequence[Row]) -> str:
    """Table 5: sizes of the synset, where there are several."""
    chosen = [r for r in rows if r["group"] == "main" and r["protocol"] in PROTOCOLS]
    chosen.sort(key=lambda r: (r["dataset"], method_order(r), PROTOCOLS.index(r["protocol"])))
    lines = [
        list(same) for _, same in groupby(chosen, lambda r: (r["dataset"], method_name(r), r["protocol"]))
    ]
    lines = [line for line in lines if len({r["n_syn"] for r in line}) > 1]
    shown = [r for line in lines for r in line]
    if not shown:
        return ""
    sizes = sorted({r["n_syn"] for r in shown})
    body = [
        [
            line[0]["dataset"],
            f"{method_name(line[0])}, `{line[0]['protocol']}`",
            *(score_text([r for r in line if r["n_syn"] == n]) for n in sizes),
        ]
        for line in lines
    ]
    return f"{markdown(['dataset', 'students', *map(str, sizes)], body)}\n\n{protocol_line(shown)}"


def expanded_table(rows: Sequence[Row]) -> str:
    """Table 6: networks taught by the pairs' own students, beside these and those taught by the pairs."""
    expanded = at_main_size(r for r in rows if r["group"] == "expanded")
    if not expanded:
        return ""
    read = {_synset(r) for r in expanded}
    main = [r for r in rows if r["group"] == "main" and _synset(r) in read]
    return _by_dataset(
        [*main, *expanded],
        "students",
        lambda r: (
            f"{method_name(r)}, " + (f"expanded to {r['variant']}" if r["variant"] else f"`{r['protocol']}`")
        ),
        lambda r: (method_order(r), [*PROTOCOLS, "expanded"].index(r["protocol"])),
    )


# ------------------------------------------------------------------------------------------- a score


def at_main_size(rows: Any) -> list[Row]:
    """Rows at the size that most have, of several such the largest, and rows that have none."""
    rows = list(rows)
    sizes = Counter(r["n_syn"] for r in rows if r["n_syn"])
    main = max(sizes, key=lambda n: (sizes[n], n), default=None)
    return [r for r in rows if r["n_syn"] in (None, main)]


def score_of(rows: Sequence[Row]) -> Score:
    """Mean and interval of rows that differ only by seed."""
    if len(rows) == 1:
        width = rows[0]["ci95_half_width"]
        return Score(rows[0]["mean"], math.nan if width is None else width, 1)
    return Score.of([r["mean"] for r in rows])


def fraction_of(rows: Sequence[Row]) -> float | None:
    """Mean fraction of the teacher's score; None where a row has no teacher."""
    fractions = [r["fraction_of_teacher"] for r in rows]
    return None if not fractions or None in fractions else statistics.mean(fractions)


def score_text(rows: Sequence[Row]) -> str:
    """`38.2 ± 1.5 (50 %)`, or a dash without rows."""
    if not rows:
        return "–"
    fraction = fraction_of(rows)
    return f"{score_of(rows)}" + ("" if fraction is None else f" ({fraction:.0%})".replace("%", " %"))


def protocol_line(rows: Sequence[Row]) -> str:
    """What is behind the scores of a table."""
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for r in rows:
        if r["method"] not in ("teacher", "bc"):
            seeds.setdefault((r["dataset"], r["method"], r["label"], r["n_syn"]), set()).add(r["seed"])
    counts = sorted({len(s) for s in seeds.values()})
    students = sorted(
        {(r["n_policies"], r["n_episodes"]) for r in rows if r["method"] != "teacher"}, reverse=True
    )
    parts = []
    if counts:
        many = " or ".join(map(str, counts))
        parts.append(f"{many} synset seed{'' if counts == [1] else 's'}")
    parts += [f"{n} policies × {e} episodes" if n > 1 else f"1 policy × {e} episodes" for n, e in students]
    sizes = sorted({r["n_syn"] for r in rows if r["n_syn"]})
    if sizes:
        parts.append(f"{', '.join(map(str, sizes))} pairs")
    units = sorted({r["unit"] for r in rows})
    return f"Mean ± 95 % interval (fraction of the teacher's); {'; '.join(parts)}; greedy; score: {' / '.join(units)}."


# ------------------------------------------------------------------------------------------ Markdown


def markdown(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill_markers(page: str, tables: dict[str, str]) -> str:
    """Put each table between `<!-- name -->` and `<!-- /name -->`; other text stays.

    Raises:
        ConfigError: A marker is missing.
    """
    for name, text in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ConfigError(
                f"The page has no place for {name}: write '{start}' and '{end}' where it belongs."
            )
        page = f"{before}{start}\n{text}\n{end}{after}"
    return page


def check_page(page: Path) -> None:
    """Refuse, before hours of work, a page that no table can be put in.

    Raises:
        ConfigError: It does not exist, or has no marker at all.
    """
    if not page.is_file():
        raise ConfigError(f"--docs '{page}' is no file. Give a Markdown page with markers.")
    if "<!-- table" not in page.read_text():
        raise ConfigError(
            f"--docs '{page}' has no place for a table: write '<!-- table1 -->' and '<!-- /table1 -->' where the first belongs."
        )


def write_tables(tables: dict[str, str], out: Path, page: Path | None = None) -> Path:
    """`tables.md` in `out`, and the tables between the markers of `page`."""
    path = out / "tables.md"
    text = "\n\n".join(f"## {name.replace('table', 'Table ')}\n\n{table}" for name, table in tables.items())
    write_atomically(path, f"{text}\n".encode())
    if page is not None:
        write_atomically(page, fill_markers(page.read_text(), tables).encode())
    return path


def _by_dataset(
    rows: Sequence[Row], corner: str, name: Callable[[Row], str], order: Callable[[Row], Any]
) -> str:
    """Names by datasets, the longer side downwards, and the means over the datasets, where a name has them all."""
    ordered = sorted(rows, key=order)
    names = list(dict.fromkeys(name(r) for r in ordered))
    datasets = sorted({r["dataset"] for r in rows})
    cells = [[[r for r in ordered if name(r) == n and r["dataset"] == d] for d in datasets] for n in names]
    shown = [["", *(d.replace("+", " + ") for d in datasets)]]
    shown += [[n, *map(score_text, line)] for n, line in zip(names, cells, strict=True)]
    if len(datasets) > 1:
        shown = [[*line, mean] for line, mean in zip(shown, ["mean", *map(_mean_text, cells)], strict=True)]
    if len(datasets) > len(names):
        shown = [list(line) for line in zip(*shown, strict=True)]
    return f"{markdown([corner, *shown[0][1:]], shown[1:])}\n\n{protocol_line(rows)}"


def _mean_text(several: list[list[Row]]) -> str:
    if not all(several):
        return "–"  # a mean over other datasets than its neighbour's would mislead
    fractions = [fraction_of(rows) for rows in several]
    known = [f for f in fractions if f is not None]
    mean = statistics.mean(score_of(rows).mean for rows in several)
    share = f" ({statistics.mean(known):.0%})".replace("%", " %") if len(known) == len(several) else ""
    return f"{mean:.1f}{share}"


def method_name(row: Row) -> str:
    """Av-PBC (default): what depends on settings carries their label."""
    method: str = row["method"]
    name = _NAMES.get(method, method)
    return f"{name} ({row['label']})" if row["label"] else name


def method_order(row: Row) -> tuple[int, bool, str, str]:
    """For sorting: baselines first, then the objectives, then what learns from all data."""
    order = [*_NAMES]
    place = row["method"] if row["method"] in _NAMES else "bc"
    return order.index(place), row["method"] == place, row["method"], row["label"]


def _whose(row: Row, rows: Sequence[Row]) -> str:
    several = len({method_name(r) for r in rows}) > 1
    return f", {method_name(row)}" if several else ""


def _synset(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("dataset", "teacher_digest", "label", "method", "n_syn", "seed"))


def _seconds(rows: Sequence[Row]) -> str:
    if rows[0]["distillation_seconds"] is None:
        return "–"
    seconds = statistics.mean(r["distillation_seconds"] for r in rows)
    return f"{rows[0]['outer_steps']:,} steps, {seconds:.0f} s"
