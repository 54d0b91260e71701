"""What the setting `source` may name: a folder, an archive, or a URL of either."""

from __future__ import annotations

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SOURCEDIR = "sourcedir.tar.gz"
"""What the SDKs call the archive that they make of a source folder."""


def is_url(source: str) -> bool:
    """Whether it must be fetched."""
    return "://" in source


def is_archive(source: str) -> bool:
    """Whether its name says that it must be unpacked."""
    return source.lower().endswith(ARCHIVES)


def module_of(script: str) -> str | None:
    """The module that a script's name means, `-m package.module` or `-mpackage.module`; None where it means a file."""
    return script[2:].strip() if script.startswith("-m") else None
