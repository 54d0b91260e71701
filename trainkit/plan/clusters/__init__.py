"""Engines that run on several hosts, for a processing job's one command on the first host.

trainkit starts the engine's own daemons, and is no part of what they do.
"""
