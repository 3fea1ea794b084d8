"""One HTML page about one synset: no script, nothing fetched, images inside, so that it can be mailed or archived."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import minari_distill
from minari_distill.files import write_atomically
from minari_distill.layout import to_json
from minari_distill.locate import local_ids
from minari_distill.recorded import is_number
from minari_distill.show.facts import facts, score_lines, score_unit
from minari_distill.show.figures import Drawing
from minari_distill.synset import USE, Synset

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2328; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .2em 0 .1em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #d1d9e0; }
.lead { color: #59636e; margin: 0 0 1.2rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; margin: 0; list-style: none; }
.numbers li { flex: 1 1 9rem; border: 1px solid #d1d9e0; border-radius: 8px; padding: .6rem .9rem; }
.numbers b { display: block; font-size: 1.35rem; color: #0072b2; }
.numbers span { color: #59636e; font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .38rem .7rem; border-bottom: 1px solid #e6eaef; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
thead th.n { text-align: right; }
figure { margin: 1.4rem 0; text-align: center; }
img { max-width: 100%; height: auto; }
figcaption { color: #59636e; font-size: .9rem; }
pre { background: #f6f8fa; border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font-size: .88rem; }
summary { cursor: pointer; color: #0072b2; }
.note { border-left: 4px solid #e69f00; background: #fdf6e7; padding: .5rem .9rem; margin: .6rem 0; }
footer { margin-top: 2.5rem; color: #59636e; font-size: .85rem; }
"""


def write_page(synset: Synset, name: str, drawing: Drawing, path: Path) -> Path:
    """Write the page.

    Args:
        synset: What it is about.
        name: The synset's id, for titles and commands.
        drawing: Its figures, put into the page.
        path: The HTML file to write.
    """
    source = ", ".join(synset.source.dataset_ids)
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="lead">{len(synset)} synthetic (state, action) pairs, distilled from {escape(source)}. '
        f"{escape(USE)}</p>",
        _numbers(synset),
        *(f'<p class="note">{escape(note)}</p>' for note in drawing.notes),
        _scores(synset),
        "<h2>Figures</h2>",
        *(_figure(figure.path, figure.caption) for figure in drawing.figures),
        "<h2>Use</h2>",
        f"<pre>{escape(_use(name))}</pre>",
        "<h2>Where it comes from</h2>",
        _table(facts(synset)),
        _details("Settings of the distillation", dataclasses.asdict(synset.config) if synset.config else {}),
        _details("The teacher", synset.metadata.get("teacher")),
        f"<footer>Written by minari_distill {minari_distill.__version__}: minari-distill show {escape(name)} "
        "--html FILE</footer>",
    ]
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # the browser itself refuses whatever is not in the page
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f'<link rel="icon" href="data:,">\n<title>{escape(name)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return path


def _numbers(synset: Synset) -> str:
    """The few numbers that a reader looks for first."""
    items = [(f"{len(synset):,}", "pairs")]
    if synset.source.total_steps:
        items.append((f"{synset.source.total_steps:,}", "steps in the source"))
        items.append((f"1 : {synset.source.total_steps / len(synset):,.0f}", "compression"))
    if is_number(loss := synset.metadata.get("held_out_loss")):
        items.append((f"{loss:.4f}", "loss on held-out states"))
    cells = "".join(f"<li><b>{escape(value)}</b><span>{escape(label)}</span></li>" for value, label in items)
    return f'<ul class="numbers">{cells}</ul>'


def _scores(synset: Synset) -> str:
    lines = [
        f'<tr><th>{escape(r.policy)}</th><td class="n">{escape(r.score)}</td><td>{escape(r.rollouts)}</td></tr>'
        for r in score_lines(synset)
    ]
    if not lines:
        return ""
    head = '<tr><th>policy</th><th class="n">score</th><th>policies × episodes</th></tr>'
    origin = synset.source.ref_origin
    unit = f"; unit: {score_unit(synset)}" if score_unit(synset) else ""
    below = f"<p>Mean ± 95 % interval of greedy rollouts{escape(unit)}. Reference scores: {escape(origin or 'none')}.</p>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<h2>Scores</h2>\n<div class="scroll">{table}</div>\n{below}'


def _table(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return f"<table><tbody>{rows}</tbody></table>"


def _details(title: str, record: Any) -> str:
    """A record that opens on a click."""
    if not record:
        return ""
    text = json.dumps(to_json(record), indent=1)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _figure(path: Path, caption: str) -> str:
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big")  # of the PNG's header, in pixels; fewer on the page: sharp
    image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    text = escape(caption)
    return (
        f'<figure><img src="{image}" width="{width * 2 // 3}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _use(name: str) -> str:
    use = f"""import minari_distill as md

policy = md.behavior_clone(md.load_synset("{name}"))
action = policy.act(observation)"""
    if name in local_ids():
        use += f"""

import minari
dataset = minari.load_dataset("{name}")  # an ordinary Minari dataset"""
    return use
