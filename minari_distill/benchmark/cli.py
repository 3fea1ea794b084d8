"""The command `benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minari_distill import completion
from minari_distill.errors import ConfigError
from minari_distill.terminal import (
    JsonFlag,
    one_line_errors,
    parse_settings,
    print_json,
    reporter,
    stop_on_interrupt,
    tell,
)

Names = list[str] | None


def benchmark(
    dataset: Annotated[
        Names,
        typer.Option(
            help="ID, ID=TEACHER or ID+ID=TEACHER (ids read as one); may be repeated.",
            autocompletion=completion.datasets,
        ),
    ] = None,
    objective: Annotated[
        Names,
        typer.Option(
            help="auto, dbc, robust_dbc, filtered_dbc, pbc, av_pbc or tempered_pbc; may be repeated.",
            autocompletion=completion.objectives,
        ),
    ] = None,
    size: Annotated[list[int] | None, typer.Option(help="Pairs of a synset; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of synsets and students; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results; what it holds is skipped.")] = Path(
        "results"
    ),
    preset: Annotated[
        str, typer.Option(help="default, infinite, quick or paper.", autocompletion=completion.presets)
    ] = "default",
    label: Annotated[
        str | None, typer.Option(help="Name of these settings in the tables. Default: the preset.")
    ] = None,
    setting: Annotated[
        Names,
        typer.Option(
            "--set",
            help="Any other setting, as name=value; may be repeated.",
            autocompletion=completion.settings,
        ),
    ] = None,
    read: Annotated[
        Names,
        typer.Option(help="main, ensembles, architectures, optimizers, expanded; default: the first two."),
    ] = None,
    snapshot: Annotated[
        list[int] | None,
        typer.Option(help="Score the synset after so many outer steps too; may be repeated."),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Random pairs, relabelled pairs, BC on all data.")] = True,
    students: Annotated[int, typer.Option(help="Students a score.")] = 5,
    episodes: Annotated[int, typer.Option(help="Episodes a student.")] = 10,
    ensemble: Annotated[int, typer.Option(help="Students of an ensemble.")] = 10,
    ensembles: Annotated[int, typer.Option(help="Ensembles a score.")] = 1,
    bc_steps: Annotated[int, typer.Option(help="Steps of BC on all data.")] = 25_000,
    bc_batch: Annotated[int, typer.Option(help="Its minibatch.")] = 256,
    jobs: Annotated[int, typer.Option(help="Cells at once, each in its own process, GPUs in turn.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads a job. Default: cores / jobs.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Write tables and figures too.")] = False,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Run nothing; write them.")] = False,
    docs: Annotated[
        Path | None,
        typer.Option(help="A Markdown page to fill, between its comments table1 and /table1, and so on."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score distilled synsets and their baselines over a grid; what was done already is skipped.

    Example: `minari-distill benchmark --dataset mujoco/hopper/medium-v0 --size 64 --size 256 --out results --tables`
    """
    from minari_distill.benchmark.cells import Dataset, grid
    from minari_distill.benchmark.rows import apart, collect, write_results
    from minari_distill.benchmark.run import Outcome, run_cells
    from minari_distill.benchmark.tables import all_tables, check_page, write_tables

    with one_line_errors(as_json):
        if bool(dataset) == tables_only:
            raise ConfigError(
                "Give the datasets to run with --dataset ID, or --tables-only to write the tables of what was run."
            )
        if docs:
            check_page(docs)
        outcome = Outcome(0, 0, {})
        if not tables_only:
            cells = grid(
                [Dataset.parse(text) for text in dataset or []],
                objectives=objective or ["auto"],
                sizes=size or [256],
                seeds=seed or [0],
                groups=read or ["main", "ensembles"],
                snapshots=snapshot or [],
                preset=preset,
                label=label,
                settings=parse_settings(setting),
                baselines=baselines,
                n_students=students,
                n_episodes=episodes,
                ensemble=ensemble,
                n_ensembles=ensembles,
                bc_steps=bc_steps,
                bc_batch=bc_batch,
            )
            with reporter(quiet=as_json) as report, stop_on_interrupt() as should_stop:
                outcome = run_cells(
                    cells, out, jobs=jobs, threads=threads, report=report, should_stop=should_stop
                )
        rows = collect(out)
        if not rows:
            went = " ".join(dict.fromkeys(outcome.failed.values()))
            if tables_only:
                went = "Run some cells first: minari-distill benchmark --dataset ID."
            if outcome.left:
                went += " Nothing was finished yet: the same command goes on where it is."
            raise ConfigError(f"'{out}' holds no results. {went.strip()}")
        files = list(write_results(rows, out))
        if tables or tables_only or docs:
            from minari_distill.benchmark.figures import all_figures, fill_figures

            shown = apart(rows)
            files.append(write_tables(all_tables(shown), out, docs))
            made = all_figures(shown, out, docs.parent / "figures" if docs else out / "figures")
            files += [path for paths in made.values() for path in paths]
            if docs:
                fill_figures(docs, made)
                files.append(docs)
        if as_json:
            print_json({**vars(outcome), "rows": len(rows), "files": [str(path) for path in files]})
        else:
            tell(
                f"{outcome.done} cells done, {outcome.skipped} were done before, {len(outcome.failed)} failed"
                + (f", {outcome.left} to go on with by the same command" if outcome.left else "")
                + f"; {len(rows)} rows.",
                "red" if outcome.failed else None,
            )
            for path in files:
                tell(f"Written: {path}")
    if outcome.failed:
        raise typer.Exit(1)
