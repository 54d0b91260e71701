"""Planted mistakes, and what `trainkit check` says of each."""
