"""Checkpoints that cost the step a memory copy, never tear, and resume on any number of ranks (docs/checkpoints.md)."""
