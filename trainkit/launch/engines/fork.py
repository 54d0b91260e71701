"""Ranks that are forks of a template process (see launch.template), which has imported torch once for all of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trainkit.launch.engines.base import Setting, preferred_port
from trainkit.launch.engines.spawn import Spawn
from trainkit.launch.processes import send, spawn
from trainkit.plan.launch import BOOTSTRAP, LaunchPlan

_PATIENCE = 20.0  # seconds for an answer of the template, which takes milliseconds


class Fork(Spawn):
    """Ranks forked from a template that has imported torch; spawned where the template says that cannot be."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._control: socket.socket | None = None
        self._template = 0
        self._buffer = b""
        self._store = 0
        self._importing = False
        self._on_ready: Callable[[], None] = lambda: None

    def prepare(self, plan: LaunchPlan, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready
        self._control, theirs = socket.socketpair()
        relay = self._setting.relay
        output = relay.pipe("") if relay else os.dup(2)
        command = (sys.executable, str(BOOTSTRAP / "template.py"), str(theirs.fileno()), *plan.preload)
        environ = {**self._setting.environ, **plan.environment}
        try:
            self._template = spawn(
                command, environ=environ, cwd=plan.script.folder, output=output, keep=(theirs.fileno(),)
            )
        finally:
            theirs.close()
            os.close(output)
        self._importing = True
        self._setting.loop.watch(self._control.fileno(), self._imported)

    def meeting_point(self, plan: LaunchPlan) -> tuple[int, bool]:
        if "torch" not in plan.preload or not self._control:
            return super().meeting_point(plan)
        self._end(self._store)  # that of the ranks before
        self._store = 0
        port = preferred_port(plan)
        answer = self._ask({"role": "store", "port": port, "environ": {}, "cwd": "/"}, output=None)
        if "pid" in answer:
            self._store = answer["pid"]
            answer = self._answer()
        if "store" not in answer:
            self._end(self._store)
            self._store = 0
            return super().meeting_point(plan)
        return answer["store"], True

    @property
    def helpers(self) -> frozenset[int]:
        return frozenset({self._store, self._template} - {0})

    def close(self) -> None:
        """End the template and the store. The ranks go on."""
        self._end_template()
        self._end(self._store)
        self._store = 0

    def _end_template(self) -> None:
        if self._control:
            if self._importing:
                self._setting.loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None
        self._end(self._template)
        self._template = 0

    def _start_rank(self, plan: LaunchPlan, rank: int, output: int | None) -> int:
        request = {
            "role": "rank",
            "entry": plan.entry,
            "args": plan.args,
            "environ": {**plan.environment, **plan.rank_environment(rank, run_dir=self._setting.folder(plan))},
            "cwd": str(plan.script.folder),
        }
        answer = self._ask(request, output=output)
        return int(answer["pid"]) if "pid" in answer else super()._start_rank(plan, rank, output)

    @staticmethod
    def _end(pid: int) -> None:
        with suppress(ChildProcessError):  # reaped already; the number may be someone else's by now
            if pid and os.waitpid(pid, os.WNOHANG) == (0, 0):
                send(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _imported(self) -> None:
        assert self._control
        self._importing = False
        self._setting.loop.unwatch(self._control.fileno())
        self._control.settimeout(_PATIENCE)
        self._answer()
        self._on_ready()

    def _ask(self, request: dict[str, Any], *, output: int | None) -> dict[str, Any]:
        """Send a request with the descriptor that will be the new process's output, and return the answer."""
        if not self._control:
            return {}
        data = json.dumps(request).encode() + b"\n"
        descriptor = os.dup(2) if output is None else output
        try:
            sent = socket.send_fds(self._control, [data], [descriptor])
            self._control.sendall(data[sent:])
        except OSError:
            return self._refused("the template process is gone")
        finally:
            if output is None:
                os.close(descriptor)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._control
        while b"\n" not in self._buffer:
            try:
                part = self._control.recv(65536)
            except TimeoutError:
                return self._refused(f"the template process did not answer for {_PATIENCE:g} s")
            except OSError:
                part = b""
            if not part:
                return self._refused("the template process ended early")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return self._refused(answer["refused"]) if "refused" in answer else answer

    def _refused(self, why: str) -> dict[str, Any]:
        self._setting.say(f"ranks are spawned, not forked: {why}")
        self._end_template()  # not the store: ranks that run already may use it
        return {}
