"""Files and folders that are either whole or as they were before."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename: no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    except OSError as fault:  # which names the temporary file
        raise OSError(fault.errno, fault.strerror, str(path)) from fault
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, _mode(path))  # a temporary file is its owner's alone
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """That of the file to be replaced, else what `open` would give a new one."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def building_folder(folder: Path) -> Iterator[Path]:
    """Build a folder's new content in a hidden sibling, which takes its place when the block ends.

    A block that raises leaves what was there, and no trace of its own. A process that is killed leaves what was
    there and a hidden sibling, which the next block for the same folder clears away. Inside the block nobody
    else can build the same folder.

    Raises:
        BlockingIOError: Another process is building this folder.
    """
    folder = folder.resolve()  # what a link leads to is replaced, not the link
    made = _make_parents(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with _locked(folder.with_name(f".{folder.name}.lock")):
            _clear_leftovers(folder)
            temporary.mkdir()
            try:
                yield temporary
                _flush_tree(temporary)
                if folder.exists():
                    _exchange(temporary, folder)  # `temporary` is now what was there
                else:
                    temporary.rename(folder)
            finally:
                if temporary.is_dir():
                    shutil.rmtree(temporary, ignore_errors=True)
                else:  # a file was there
                    temporary.unlink(missing_ok=True)
    except BaseException:
        for parent in made:
            with suppress(OSError):  # someone else has put something in it
                parent.rmdir()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which goes away with its holder, even a killed one."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # its last holder removed the file between our two calls
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _exchange(a: Path, b: Path) -> None:
    """Exchange two folders, in one step where the system can (Linux: renameat2 with RENAME_EXCHANGE)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    if renameat2 and renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0:
        return
    aside = b.with_name(f".{b.name}.aside")
    b.rename(aside)
    try:
        a.rename(b)
    except BaseException:
        aside.rename(b)
        raise
    aside.rename(a)


def _make_parents(folder: Path) -> list[Path]:
    """Make the folders above `folder`; returns those that were missing, innermost first."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left; bring back what one had put aside."""
    ours = re.compile(re.escape(f".{folder.name}.") + r"(\d+\.partial|aside)")  # not those of "x.v2" for "x"
    for path in list(folder.parent.iterdir()):
        if not ours.fullmatch(path.name):
            continue
        if path.suffix == ".aside" and not folder.exists():
            path.rename(folder)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:  # what was there, and was to be replaced, was a file
            path.unlink()


def _flush_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
