"""The link between the hosts' supervisors: one TCP connection from each host to the first.

    host → first   {"trainkit": 3, "job", "host", "hosts", "nonce"}   this is who I am: is it you I look for?
    first → host   {"nonce"}                                          it is: from here on all is sealed (seal.py)
    host → first   {"procs", "now", "traits"}                         I am here, with that many ranks
    first → host   {"procs": {host: n}, "port", "agent_store",        all are here: start;
                    "generation", "why"}                              or, all have ended: start again, and why
    first → host   {"secret": covered}                                in a cluster: what its engine is to ask for
    host → first   {"failed": true}                                   one of my ranks has failed: end yours
    first → all    {"end": true}                                      a host has failed: end your ranks
    first → all    {"up": true}                                       the engine's head answers: start your daemons
    first → all    {"released": true}                                 the one command has ended well: end the daemons
    first → all    {"absent": [host, ..], "why"}                      whom the engine does not count: fail
    either way     {"stop": signal}                                   I was told to stop: stop too
    host → first   {"passed": n}                                      the highest boundary a rank of mine has passed
    first → all    {"agreed": n}                                      the highest of all: stop after that step
    host → first   {"done": {"exit_code", "failure", "at", ..}}       my ranks have ended, so
    first → all    {"verdict": {"exit_code", "failure"} or {}}        all have, or are lost: leave, with this
    first → host   {"refused": why}                                   before anything is sealed: go away
    either way     {"beat": true or [..]}                             I am alive, and my ranks get on like this
    first → all    {"show": true}                                     nothing goes on: show your ranks' stacks
    host → first   {"stances": [[..], ..]}                            where my ranks stand

Whoever does not come in time is named; whoever falls silent is named after SILENCE, and lost after `peer_timeout`.
A connection that breaks is a supervisor that is gone: lost at once.
"""

from __future__ import annotations

from trainkit.launch.peers.hub import Hub
from trainkit.launch.peers.listening import Again, Ears
from trainkit.launch.peers.spoke import Spoke

__all__ = ["Again", "Ears", "Hub", "Spoke"]
