"""A Spark of real processes, without the JVM.

spark-class with a master that has a page and asks for the secret, and workers that register and have an executor in a
session of its own; spark-submit, which runs the application.

FAULT names a host and what its worker does: `algo-3 refuses` exits, `algo-3 sulks` never registers.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PROGRAM = globals().get("PROGRAM", "")
WORKERS: dict[str, str] = {}


def install(home: Path) -> Path:
    """Lay it into `home`, as SPARK_HOME is laid, with a java beside."""
    for name in ("spark-class", "spark-submit", "java"):
        program = home / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        run = f"run_path({__file__!r}, {{'PROGRAM': {name!r}}}, '__main__')"
        program.write_text(f"#!{sys.executable}\nfrom runpy import run_path\n{run}\n")
        program.chmod(0o755)
    return home


def configuration() -> dict[str, str]:
    """What spark-defaults.conf says; the last line for a name counts."""
    text = (Path(os.environ["SPARK_CONF_DIR"]) / "spark-defaults.conf").read_text()
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip())


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Registration(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        secret, host = self.rfile.readline().decode().split()
        if secret != configuration()["spark.authenticate.secret"]:
            return
        WORKERS[host] = "ALIVE"
        self.wfile.write(b"registered\n")
        self.rfile.read()
        WORKERS[host] = "DEAD"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        workers = [{"webuiaddress": f"http://{host}:1", "state": state} for host, state in WORKERS.items()]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "ALIVE", "workers": workers}).encode())

    def log_message(self, *_: object) -> None:
        pass


def note_pid(name: str) -> None:
    (Path(os.environ["SPARK_HOME"]) / f"{os.environ['SPARK_PUBLIC_DNS']}.{name}.pid").write_text(str(os.getpid()))


def master() -> None:
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer((option("--host"), int(option("--port"))), Registration)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    note_pid("master")
    HTTPServer(("127.0.0.1", int(option("--webui-port"))), Page).serve_forever()


def worker() -> None:
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"], start_new_session=True)
    own = os.environ["SPARK_PUBLIC_DNS"]
    note_pid("worker")
    match os.environ.get("FAULT", "").split():
        case [host, "refuses"] if host == own:
            sys.exit("no disk for the shuffle")
        case [host, "sulks"] if host == own:
            print("the master's name means nothing to me", flush=True)
            time.sleep(1000)
    where, _, port = sys.argv[-1].removeprefix("spark://").partition(":")
    with socket.create_connection((where, int(port))) as link:
        link.sendall(f"{configuration()['spark.authenticate.secret']} {own}\n".encode())
        while link.recv(100):
            pass
    sys.exit("the master is gone")


def submit() -> None:
    words = [word for word in sys.argv[1:] if word.endswith(".py")]
    os.execv(sys.executable, [sys.executable, words[0], *sys.argv[sys.argv.index(words[0]) + 1 :]])


if __name__ == "__main__":
    if PROGRAM == "spark-submit":
        submit()
    elif sys.argv[1].endswith(".Master"):
        master()
    else:
        worker()
