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
