"""Inside a rank: run the user's script as `python script.py` would, and leave a record of how it failed.

    python trainkit/launch/rank.py SCRIPT ARGUMENT...
    python trainkit/launch/rank.py -m MODULE ARGUMENT...

What differs from plain Python is only the record (see contract.outcome), written before the exception goes on its
way, so that exit code, traceback, excepthooks and atexit are the script's own. Imports are few: every rank pays them.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
import types
from collections.abc import Sequence
from contextlib import suppress

_RUN_DIR = "TRAINKIT_RUN_DIR"
_SHOW = 63  # as launch.stacks has it
_kept: list[object] = []  # a file that nobody holds would be closed
_own = ""
"""The folder of the script's own files; of a plain script, the one it lies in."""


def main(argv: Sequence[str] | None = None) -> None:
    entry = sys.argv[1:] if argv is None else argv
    forget_own_folder()
    _join_pipe()
    generation = os.path.basename(os.environ.get(_RUN_DIR, ""))  # noqa: PTH119
    if generation.isdecimal():
        os.environ["TORCHELASTIC_RESTART_COUNT"] = generation  # torchrun's agent counts its own restarts only
    run_entry(entry)


def run_entry(entry: Sequence[str]) -> None:
    """Execute `SCRIPT ARGUMENT...` or `-m MODULE ARGUMENT...` as `__main__`. Raises what it raises, SystemExit too."""
    is_module = entry[0] == "-m"
    script, *arguments = entry[is_module:]
    run(script, arguments, is_module=is_module)


def run(script: str, arguments: Sequence[str], *, is_module: bool = False) -> None:
    """The same, for a script and its arguments."""
    if not faulthandler.is_enabled():
        faulthandler.enable()  # a crash in native code shows the Python frames
    _show_stacks_when_asked()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed rank keeps its last lines
    atexit.register(_let_gloo_settle)  # the first to be registered is the last to run
    sys.argv = ["-m" if is_module else script, *arguments]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd() if is_module else _home(script))  # noqa: PTH109
    module = types.ModuleType("__main__")
    # Pickle and multiprocessing find the script's classes and file here.
    sys.modules["__main__"] = module
    try:
        if is_module:
            code = _module_code(script, module)
        else:
            module.__file__ = script
            with open(script, "rb") as source:  # noqa: PTH123
                code = compile(source.read(), script, "exec", dont_inherit=True)  # our __future__ is not the script's
        exec(code, module.__dict__)
    except SystemExit as error:
        error.__traceback__ = _from_script(error)
        if error.code not in (None, 0):
            _record(error)
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (the script may raise anything; it is recorded, shown, and ends us)
        error.__traceback__ = _from_script(error)
        _record(error)
        with suppress(Exception):  # the script may have closed it
            sys.stdout.flush()
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


def _module_code(name: str, module: types.ModuleType) -> types.CodeType:
    """What `python -m name` runs, with what its `__main__` holds beside it. Raises ImportError where there is none."""
    import importlib.util

    global _own
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name = f"{name}.__main__"
        spec = importlib.util.find_spec(name)
    get_code = getattr(spec.loader, "get_code", None) if spec else None
    code = get_code(name) if get_code else None
    if spec is None or code is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.argv[0] = spec.origin
    _own = spec.origin
    for _ in name.split("."):
        _own = _home(_own)
    if not spec.origin.startswith(f"{sys.path[0]}/") or "site-packages" in spec.origin[len(sys.path[0]) :]:
        _own = f"{_own}/{name.partition('.')[0]}"  # installed among others, which are not the script's own
    module.__dict__.update(
        __file__=spec.origin, __spec__=spec, __loader__=spec.loader, __package__=spec.parent, __cached__=spec.cached
    )
    found: types.CodeType = code
    return found


def _show_stacks_when_asked() -> None:
    """Let the supervisor see where this rank stands when it does not get on. faulthandler needs no GIL for that."""
    run_dir, rank = os.environ.get(_RUN_DIR), os.environ.get("RANK", "0")
    if not run_dir or sys.platform != "linux":
        return
    with suppress(OSError, RuntimeError):  # no room for the file, or the signal is taken: then without
        shown = open(f"{run_dir}/{rank}.stacks", "a", encoding="ascii")  # noqa: PTH123, SIM115 (as long as we live)
        faulthandler.register(_SHOW, file=shown, all_threads=True, chain=False)
        shown.write(f"{os.getpid()}\n")
        shown.flush()
        _kept.append(shown)


def _let_gloo_settle() -> None:
    """Let gloo's threads let go of the last collective before the interpreter goes down.

    That takes them the GIL. One that asks for it during the shutdown is unwound through code that cannot be, which
    aborts a rank that had done all its work (torch 2.13, one in ten runs of a script that ends on its last step).
    So the GIL is free here until all of them sleep, twice in a row, for a tenth of a second at most.
    """
    if "torch" not in sys.modules or sys.platform != "linux":
        return
    import time

    threads = [f"/proc/self/task/{thread}" for thread in os.listdir("/proc/self/task")]  # noqa: PTH208
    gloo = [thread for thread in threads if _first_line(f"{thread}/comm") == "pt_gloo_runloop"]
    calm = 0
    for _ in range(100 if gloo else 0):
        time.sleep(0.001)
        states = [_first_line(f"{thread}/stat").rpartition(") ")[2][:1] for thread in gloo]
        calm = calm + 1 if set(states) <= {"S", ""} else 0
        if calm == 2:
            return


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
            return file.readline().strip()
    except OSError:
        return ""  # a thread that has ended


def _home(script: str) -> str:
    return os.path.dirname(script)  # noqa: PTH120 (pathlib is an import that a plain script may not need)


def forget_own_folder() -> None:
    """Take this file's folder, where Python found it, off the path: `import output` is the script's to answer."""
    if not sys.flags.safe_path:
        del sys.path[0]


def _from_script(error: BaseException) -> types.TracebackType | None:
    """The traceback as Python would show it: from the script's first frame on."""
    trace = error.__traceback__
    # `python -m` shows no frames of the search for the module either.
    while trace and trace.tb_frame.f_code.co_filename in (__file__, "<frozen importlib.util>"):
        trace = trace.tb_next
    return trace


def _record(error: BaseException) -> None:
    """Write the record where the supervisor looks for it, and where torchrun does, if that is elsewhere."""
    home = _own or _home(sys.argv[0])
    # The script may have put a json.py of its own in the library's place.
    own = {name: module for name, module in sys.modules.items() if _stands_in(module, name, home=home)}
    path, sys.path = sys.path, [folder for folder in sys.path if folder != home]
    for name in own:
        del sys.modules[name]
    try:
        import json
        import time
        import traceback
    finally:
        sys.path = path
        sys.modules.update(own)

    cause, frame = _cause(error), _own_frame(error, home=home)
    record = {
        "message": {
            "message": cause,
            "extraInfo": {
                "py_callstack": "".join(traceback.format_exception(error)),
                "timestamp": str(int(time.time())),
            },
        },
        "trainkit": {"cause": cause, "frame": frame, "time": time.time(), "exit_code": _exit_code(error)},
    }
    places = {os.environ.get("TORCHELASTIC_ERROR_FILE")}
    if run_dir := os.environ.get(_RUN_DIR):
        places.add(f"{run_dir}/{os.environ.get('RANK', '0')}.error.json")
    for place in filter(None, places):
        try:
            with open(f"{place}.part", "w", encoding="utf-8", errors="replace") as out:  # noqa: PTH123
                json.dump(record, out)
            os.replace(f"{place}.part", place)  # noqa: PTH105
        except OSError as reason:
            print(f"trainkit: cannot write {place}: {reason}", file=sys.stderr)


def _stands_in(module: types.ModuleType, name: str, *, home: str) -> bool:
    """Whether a module of the script's has taken a name of the standard library's."""
    file = str(getattr(module, "__file__", None))
    is_own = file.startswith(f"{home}/") and not str(os.__file__).startswith(f"{home}/")
    return is_own and name.partition(".")[0] in sys.stdlib_module_names


def _cause(error: BaseException) -> str:
    """`Type: message`, as a traceback's last line has it."""
    if isinstance(error, SystemExit):
        return str(error.code) if isinstance(error.code, str) else f"exit code {_exit_code(error)}"
    kind = type(error)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # noqa: BLE001 (it is the script's own __str__)
        text = "<exception str() failed>"
    return f"{module}{kind.__qualname__}" + (f": {text}" if text else "")


def _exit_code(error: BaseException) -> int:
    code = error.code if isinstance(error, SystemExit) else 1
    return code & 0xFF if isinstance(code, int) else 1


def _own_frame(error: BaseException, *, home: str) -> str:
    """`train.py:88 in loss_fn`: the deepest frame in the script's own folder, or "" where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.relpath(error.filename, home)}:{error.lineno}"
    own = ""
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(f"{home}/") and "site-packages" not in code.co_filename[len(home) :]:
            own = f"{os.path.relpath(code.co_filename, home)}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return own


def _join_pipe() -> None:
    """Under torchrun the agent starts us: take our output to the pipe that the supervisor made for this rank."""
    pipe = f"{os.environ.get(_RUN_DIR, '')}/{os.environ.get('RANK', '')}.out"
    try:
        output = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # no such pipe, or nobody reads it: stay on what we were given
    os.set_blocking(output, True)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


if __name__ == "__main__":
    main()
