"""A finished run as one page."""

import pathlib


def write(run: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    return out / "report.html"
