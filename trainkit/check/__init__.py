"""Judges a job before it costs: scripts, requests, artifacts and images, from facts on this machine (docs/check.md)."""
