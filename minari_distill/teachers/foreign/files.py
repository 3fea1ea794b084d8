"""Files of foreign agents."""

from __future__ import annotations

from pathlib import Path

from minari_distill.errors import TeacherError


def check_exists(path: Path) -> None:
    """Refuse a path that is no file."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TeacherError(
            f"Teacher file '{path}' {what}. Give the file of an agent, or leave `teacher` out to learn one."
        )
