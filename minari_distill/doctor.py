"""The command `doctor`: what this machine has, and what to type for what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import minari_distill as md
from minari_distill.terminal import JsonFlag, one_line_errors, print_json

LIBRARIES = (
    *("torch", "minari", "gymnasium", "mujoco", "numpy", "h5py", "pyarrow"),
    *("huggingface_hub", "datasets", "safetensors", "matplotlib", "typer", "rich"),
)
EXTRAS = ("tensorboard",)
MARKS = {
    "ok": "[green]✓[/green]",
    "warning": "[yellow]![/yellow]",
    "error": "[red]✗[/red]",
    "absent": "[dim]·[/dim]",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: "ok"; "warning", something will not work; "error", nothing will; "absent", an extra is not installed.
        found: In words.
        repair: What to type; "" if all is well.
    """

    name: str
    status: str
    found: str
    repair: str = ""


def doctor(
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the Hub.")] = 3.0,
    as_json: JsonFlag = False,
) -> None:
    """Versions, device, store, Hub and rendering: what works here, and how to mend what does not.

    Exit code 1 if something that every command needs is broken.

    Example: `minari-distill doctor --json`
    """
    with one_line_errors(as_json):
        found = versions()
        checks = [
            _safely("libraries", lambda: libraries(found)),
            _safely("device", device),
            _safely("threads", threads),
            _safely("store", store),
            _safely("Hub", lambda: hub(timeout)),
            _safely("rendering", rendering),
            *(_safely(name, lambda name=name: extra(name)) for name in EXTRAS),  # type: ignore[misc]
        ]
    broken = any(check.status == "error" for check in checks)
    if as_json:
        print_json({"ok": not broken, "versions": found, "checks": [asdict(check) for check in checks]})
    else:
        _print(found, checks)
    raise typer.Exit(int(broken))


def versions() -> dict[str, str | None]:
    """Of Python, this package and the libraries it stands on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "minari_distill": md.__version__}
    return found | {name: _version(name) for name in LIBRARIES}


def libraries(found: dict[str, str | None]) -> Check:
    """Whether every library is there."""
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return Check(
            "libraries", "error", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )
    return Check("libraries", "ok", f"{len(found)} found, in Python at {sys.prefix}")


def device() -> Check:
    """What device="auto" means here, and in which numbers it computes."""
    import torch

    from minari_distill.devices import resolve_device, resolve_precision

    chosen = resolve_device("auto")
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else platform.machine()
    return Check("device", "ok", f"{chosen} ({name}), {resolve_precision('auto', chosen)}")


def threads() -> Check:
    """Whether PyTorch's threads fit the cores that this process may use."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    found = f"{used} of PyTorch's on {cores} cores"
    if used > cores:
        return Check("threads", "warning", found, f"export OMP_NUM_THREADS={cores}")
    return Check("threads", "ok", found)


def store() -> Check:
    """Whether Minari's folder of datasets can be written, and what it holds."""
    from minari.storage.datasets_root_dir import get_dataset_path

    from minari_distill.locate import local_ids

    try:
        root = get_dataset_path()  # makes it
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        found = f"{error.filename} cannot be written ({error.strerror})"
        return Check("store", "error", found, "export MINARI_DATASETS_PATH=A-FOLDER-OF-YOURS")
    free = shutil.disk_usage(root).free / 1e9
    here = [i for i in local_ids() if (root / i).is_dir()]
    synsets = sum((root / i / "synset").is_dir() for i in here)
    found = f"{root}: {len(here)} datasets, {synsets} of them synsets; {free:.1f} GB free"
    if free < 1:
        return Check("store", "warning", found, "make room, or export MINARI_DATASETS_PATH=ELSEWHERE")
    return Check("store", "ok", found)


def hub(timeout: float) -> Check:
    """Whether the Hugging Face Hub answers, and as whom."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import build_hf_headers, get_session

    where = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return Check("Hub", "warning", f"{where}: offline, for HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    answer: list[Any] = []

    def ask() -> None:
        try:
            url = f"{where}/api/whoami-v2"
            answer.append(get_session().get(url, headers=build_hf_headers(), timeout=timeout))
        except Exception as error:  # the HTTP client's, the operating system's, a proxy's …
            answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no timeout
    asking.start()
    asking.join(timeout)
    repair = "check the network, and HF_ENDPOINT if it is set; only push and pull need the Hub"
    if not answer:
        return Check("Hub", "warning", f"{where} gave no answer in {timeout:g} s", repair)
    if isinstance(answer[0], Exception):
        return Check("Hub", "warning", f"{where} cannot be reached ({type(answer[0]).__name__})", repair)
    status = answer[0].status_code
    if status == 200:
        try:
            account = answer[0].json().get("name", "an unnamed account")
        except (ValueError, AttributeError):  # a page, of a proxy or a captive portal
            return Check("Hub", "warning", f"{where} answers with something that is no Hub's", repair)
        return Check("Hub", "ok", f"{where}, logged in as {account}")
    if status in (401, 403):
        known = "the token is not accepted" if get_token() else "not logged in: public synsets can be pulled"
        return Check("Hub", "warning" if get_token() else "ok", f"{where}, {known}", "hf auth login")
    return Check("Hub", "warning", f"{where} answers with status {status}", "try again later")


def rendering() -> Check:
    """Which OpenGL draws pictures of states without a screen, tried in a process of its own."""
    from minari_distill.plots.strip import SECONDS, opengl_libraries

    tried = []
    for library in opengl_libraries():
        try:
            subprocess.run(
                [sys.executable, "-c", "import mujoco; mujoco.GLContext(8, 8).make_current()"],
                env=os.environ | {"MUJOCO_GL": library},
                capture_output=True,
                check=True,
                timeout=SECONDS,
            )
        except (subprocess.SubprocessError, OSError):
            tried.append(library)
            continue
        return Check("rendering", "ok", f"MuJoCo draws with {library}")
    return Check(
        "rendering",
        "warning",
        f"MuJoCo draws nothing (tried {', '.join(tried)}): no pictures of states",
        "apt-get install libosmesa6 (software) or libegl1; unset MUJOCO_GL if it is set",
    )


def extra(name: str) -> Check:
    """Whether an optional library is there."""
    version = _version(name)
    if version is None:
        return Check(name, "absent", "not installed (optional)", f'pip install "minari-distill[{name}]"')
    return Check(name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _safely(name: str, check: Callable[[], Check]) -> Check:
    """A check that itself breaks is a finding, not the end of the examination."""
    try:
        return check()
    except Exception as error:  # whatever is wrong with this machine
        return Check(name, "error", f"{type(error).__name__}: {error}")


def _print(found: dict[str, str | None], checks: list[Check]) -> None:
    table = Table.grid(padding=(0, 2))
    for check in checks:
        table.add_row(MARKS[check.status], check.name, escape(check.found))
        if check.repair:
            table.add_row("", "", escape(f"→ {check.repair}"), style="dim")
    out = Console()
    out.print(" ".join(f"{name} {version}" for name, version in found.items()), style="dim", highlight=False)
    out.print(table)
