"""What a processing script imports. Nothing heavy comes with it: engines are fetched when they are used."""

from __future__ import annotations

from trainkit.processing.here import job

__all__ = ["job"]
