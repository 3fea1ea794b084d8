"""The command line: the same words as the Python door."""

from __future__ import annotations

import dataclasses
import math
import re
from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import minari_distill as md
from minari_distill import completion, hub_cli
from minari_distill.benchmark.cli import benchmark
from minari_distill.checks import check_seed
from minari_distill.doctor import doctor
from minari_distill.errors import ConfigError
from minari_distill.expand import NOISE
from minari_distill.export_cli import export
from minari_distill.progress import Progress
from minari_distill.show.cli import show
from minari_distill.students import resolve_recipe
from minari_distill.targets import refuse_existing
from minari_distill.team import joined
from minari_distill.tensorboard import curves
from minari_distill.terminal import (
    Commands,
    JsonFlag,
    SettingsCommand,
    one_line_errors,
    parse_settings,
    print_json,
    reporter,
    set_verbosity,
    stop_on_interrupt,
    tell,
)

app = typer.Typer(
    cls=Commands,
    help="Distil Minari datasets into a few hundred (state, action) pairs that behavioural cloning learns from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done; 1 an error, with how to mend it; 2 an unknown option or argument; 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        print(f"minari-distill {md.__version__}")
        raise typer.Exit


@app.callback()
def main(
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the libraries' own messages, and errors whole.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options for every command."""
    set_verbosity(verbose)


@app.command(cls=SettingsCommand)
def distill(
    datasets: Annotated[
        list[str],
        typer.Argument(help="Minari ids or folders; several are joined.", autocompletion=completion.datasets),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Minari id of the synset. Default: distilled/NAME-v0."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="A teacher's .safetensors, or an agent's file: .zip (Stable-Baselines3), .d3 (d3rlpy), .onnx, "
            ".pt (TorchScript); a .zip or .d3 runs code that it holds. Else one is learnt."
        ),
    ] = None,
    n_syn: Annotated[int | None, typer.Option(help="Number of synthetic pairs.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="default, infinite, quick or paper. Default: default.",
            autocompletion=completion.presets,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="auto, dbc, robust_dbc, filtered_dbc, pbc, av_pbc or tempered_pbc.",
            autocompletion=completion.objectives,
        ),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="An observation part to leave out; may be repeated.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, or float64 for a float64 dataset.")] = "float32",
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same synset, on one device. Default: 0.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: auto.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other setting, as name=value; may be repeated.",
            autocompletion=completion.settings,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the checkpoint. Default: below runs/, by the synset's name."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a synset of that id.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's curves of the losses.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Distil a dataset and save the synset as a local Minari dataset.

    Example: `minari-distill distill mujoco/hopper/medium-v0 --n-syn 256 --preset quick`

    Several processes: `torchrun --nproc-per-node=2 -m minari_distill distill ID --set n_students=2`
    """
    with one_line_errors(as_json):
        settings = parse_settings(
            setting, preset=preset, seed=seed, device=device, n_syn=n_syn, objective=objective
        )
        md.make_config(**settings)  # a name that is no setting, before anything is loaded
        target = output or f"distilled/{_slug(datasets)}-v0"
        folder = run_dir or Path("runs") / re.sub(r"[^A-Za-z0-9_.-]+", "-", target).strip("-.")
        overwrite = overwrite or (resume and _is_of_run(target, folder))
        refuse_existing(target, overwrite=overwrite)
        with (
            joined() as team,
            reporter(quiet=as_json or team.rank > 0) as report,
            stop_on_interrupt() as should_stop,
            curves(tensorboard, report) if tensorboard and not team.rank else nullcontext(report) as report,
        ):
            synset = md.distill(
                datasets if len(datasets) > 1 else datasets[0],
                teacher=teacher,
                run_dir=folder,
                resume=resume,
                drop=drop or (),
                dtype=dtype,
                report=report,
                should_stop=should_stop,
                **settings,
            )
            # inside: the others wait for it, and an interruption does not
            path = None if team.rank else synset.save(target, overwrite=overwrite)
        if path is None:
            return
        done, total = synset.metadata["outer_steps_done"], synset.config.outer_steps if synset.config else 0
        if as_json:
            print_json({"id": target, "path": str(path), "stopped": done < total, **synset.summary()})
            return
        if done < total:
            tell(
                f"Stopped after {done} of {total} steps; the best synset so far is saved. Go on with the same command and --resume."
            )
        tell(
            f"Saved {target} ({len(synset)} pairs, held-out loss {synset.metadata['held_out_loss']:.4f}) in {path}"
        )
        tell(f"Next: minari-distill evaluate {quote(target)}")


def _is_of_run(target: str, folder: Path) -> bool:
    """Whether the synset that lies at `target` is what the run in `folder` saved when it was stopped."""
    from minari_distill.runs import began

    try:
        synset = md.load_synset(target)
    except md.MinariDistillError:
        return False
    return synset.config is not None and began(folder, synset.config, synset.source)


@app.command()
def evaluate(
    synset: Annotated[
        str,
        typer.Argument(
            help="Id (of Minari, or gallery/…) or folder of a synset, or an hf:// address.",
            autocompletion=completion.synsets,
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="recipe (the synset's own) or general (untuned).", autocompletion=completion.recipes
        ),
    ] = "recipe",
    students: Annotated[
        int,
        typer.Option(
            min=1,
            help="Students to train; those of infinite width are one, rolled out for all their episodes.",
        ),
    ] = 5,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes a student.")] = 10,
    ensemble: Annotated[int, typer.Option(min=1, help="Students in one averaging policy; 1 = none.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the students; episodes start from 1000 × seed.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Train students on a synset and roll them out in its environment.

    Example: `minari-distill evaluate me/hopper-medium-distilled-v0 --recipe general`
    """
    with one_line_errors(as_json), reporter(quiet=as_json) as report:
        if check_seed(seed) >= 2**63 // 1000:  # as given, before it is multiplied
            raise ConfigError(f"seed={seed} must be below {2**63 // 1000}: episodes start from 1000 × seed.")
        loaded = md.load_synset(synset)
        if resolve_recipe(loaded.recipe, recipe, {}).infinite:  # its students are all the same one
            if ensemble > 1:
                report(
                    Progress(
                        "message",
                        "Students of infinite width are all the same one: an ensemble of them is that one.",
                    )
                )
            students, episodes, ensemble = 1, students * episodes, 1
        policies = []
        for k in range(students):
            policies.append(
                md.behavior_clone(loaded, recipe=recipe, n_policies=ensemble, seed=1000 * seed + k)
            )
            report(Progress("students", step=k + 1, total=students))
        score = md.evaluate(policies, loaded, n_episodes=episodes, seed=1000 * seed, report=report)
    if as_json:
        print_json({"id": synset, "recipe": recipe, "ensemble": ensemble, **score.to_json()})
        return
    tell(f"{recipe} students of {synset}: {score}")
    tell(f"Reference scores: {score.ref_origin or 'none'}", "dim")


@app.command()
def expand(
    synset: Annotated[
        str,
        typer.Argument(
            help="Id (of Minari, or gallery/…) or folder of a synset, or an hf:// address.",
            autocompletion=completion.synsets,
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Minari id of the many pairs.")],
    pairs: Annotated[int, typer.Option(help="Pairs to make.")] = 20_000,
    noise: Annotated[
        float, typer.Option(help="Around the synset's states, in their standard deviations.")
    ] = NOISE,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a synset of that id.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make many pairs of a few, labelled by the student that they were distilled for: what other codebases' networks learn from.

    Example: `minari-distill expand me/hopper-infinite-v0 -o me/hopper-expanded-v0`
    """
    with one_line_errors(as_json):
        refuse_existing(output, overwrite=overwrite)
        many = md.expand(md.load_synset(synset), pairs, noise=noise, seed=seed)
        path = many.save(output, overwrite=overwrite)
    if as_json:
        print_json({"id": output, "path": str(path), **many.summary()})
        return
    tell(f"Saved {output} ({len(many)} pairs) in {path}")
    tell(f"Next: minari-distill evaluate {quote(output)}, or minari-distill export {quote(output)} --to …")


@app.command()
def gallery(as_json: JsonFlag = False) -> None:
    """The synsets that ship with the package, with their scores; every command that reads a synset takes their ids.

    Example: `minari-distill gallery`
    """
    with one_line_errors(as_json):
        entries = md.gallery()
    if as_json:
        print_json({"synsets": [dataclasses.asdict(entry) for entry in entries]})
        return
    print(entries)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the report and the plot.")] = Path("demo-output"),
    target: Annotated[str, typer.Option(help="Minari id of the synset.")] = "demo/hopper-distilled-v0",
    seed: Annotated[int, typer.Option(help="Of teacher, synset and students.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Distil the embedded Hopper dataset and compare the students with baselines; needs no network.

    Example: `minari-distill demo --output demo-output`
    """
    from minari_distill.demo import run_demo

    with one_line_errors(as_json):
        with reporter(quiet=as_json) as report, stop_on_interrupt() as should_stop:
            result = run_demo(output, target, seed=seed, report=report, should_stop=should_stop)
        if as_json:
            print_json(result)
            return
        table = Table(title="Students on 256 pairs, Hopper (normalised score, 95 % interval)")
        for name in ("policy", "score", "share of teacher"):
            table.add_column(name)
        teacher = result["scores"]["teacher"]["mean"]
        for name, row in result["scores"].items():
            score = md.Score(row["mean"], row["ci95_half_width"] or math.nan, row["n_policies"])
            table.add_row(
                name.replace("_", " "), str(score), f"{row['mean'] / teacher:.0%}" if teacher > 0 else "–"
            )
        Console().print(table)
        if result["stopped"]:
            tell(
                "Stopped early: these are the scores of unfinished synsets. Run the demo again for the whole.",
                "yellow",
            )
        tell(f"Report: {output / 'report.json'}   Learning curve: {output / 'learning-curve.png'}")
        tell(f"The synset is the Minari dataset {target}: minari show {quote(target)}")
        second = result["synset_at_infinite_width"]
        tell(f"The one at infinite width, for students of this package alone: {second}")


def _slug(datasets: list[str]) -> str:
    """hopper-medium-replay from obd/hopper/medium-replay-v0."""
    names = []
    for name in datasets:
        parts = [p for p in Path(name).parts if p not in ("/", "data")]
        names.append("-".join(parts[-2:]).rsplit("-v", 1)[0])
    return "+".join(names).replace("+", "-and-")


app.command()(show)
app.command()(doctor)
app.command()(hub_cli.push)
app.command()(hub_cli.pull)
app.command()(export)
app.command(cls=SettingsCommand)(benchmark)

if __name__ == "__main__":
    app()
