"""Faults planted in a real training on two hosts, under any launcher."""
