"""One long-lived child process that calls one function, and is killed when a call takes too long or too much.

Third-party generators hang, and third-party scorers run what they are given as code; neither runs in our process. The
child speaks JSON lines, its memory, CPU time and files are limited by the kernel, and once the function is imported an
audit hook refuses to start programs, to open sockets or to write files. This contains accidents and answers written to
cheat a scorer; it is no sandbox for a scorer that is hostile itself.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import Any

MEMORY_BYTES = 4 << 30
MAX_REPLY = 1 << 20
START_TIMEOUT_S = 120.0

REFUSED = frozenset(
    f"{module}.{event}"
    for module, events in {
        "os": "system exec posix_spawn spawn fork forkpty startfile kill killpg remove rename rmdir mkdir link symlink "
        "truncate chmod chown setxattr removexattr utime putenv unsetenv",
        "subprocess": "Popen",
        "pty": "spawn",
        "shutil": "rmtree move copyfile",
        "socket": "__new__ connect bind sendto",
        "ctypes": "dlopen dlsym call_function string_at",
        "signal": "pthread_kill",
        "resource": "setrlimit prlimit",
        "webbrowser": "open",
    }.items()
    for event in events.split()
)
"""Audit events that a call may not cause."""


class CallTimeout(Exception):
    """The call took longer than its limit; the child was killed."""


class CallFailed(Exception):
    """The function raised, the child died, or its reply was too long; the message says which."""


class Worker:
    """Calls ``module:function`` in a child process with JSON arguments and a JSON result.

    target     ``module:function``; the module is looked for where this process would, and in the current folder
    imports    modules that are imported before the first call, so that its time limit is for the call alone
    memory     bytes of address space of the child; None leaves it alone
    guarded    whether the function may only compute and read: no files written, no programs, no sockets

    The child starts at the first call, and again after it had to be killed. Close it, or use it as a context.

    >>> with Worker("math:factorial") as worker:
    ...     worker.call(5, timeout_s=60.0)
    120
    """

    def __init__(
        self,
        target: str,
        *,
        imports: Sequence[str] = (),
        memory: int | None = MEMORY_BYTES,
        guarded: bool = True,
    ) -> None:
        self.target = target
        self._option = {"target": target, "imports": list(imports), "memory": memory, "guarded": guarded}
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def call(self, *argument: Any, timeout_s: float) -> Any:
        """The function's value.

        Raises CallTimeout after ``timeout_s``; CallFailed if the function raised, its reply is longer than 1 MiB or the
        child died; ValueError if the function cannot be imported.
        """
        if self._child is None:
            self._start()
        reply = self._exchange(argument, timeout_s)
        if "error" in reply:
            raise CallFailed(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """Ends the child, and all that it may have started."""
        if self._child is not None:
            child, self._child = self._child, None
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="curbench-")
        path = os.pathsep.join([*(p or os.getcwd() for p in sys.path), os.getcwd()])
        self._child = subprocess.Popen(
            [sys.executable, "-m", "curbench.suites.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
        try:
            reply = self._exchange(self._option, START_TIMEOUT_S)
        except (CallTimeout, CallFailed) as error:
            raise ValueError(f"{self.target} cannot be started in a process of its own: {error}") from None
        if "error" in reply:
            self.close()
            raise ValueError(f"{self.target} cannot be used: {reply['error']}")

    def _exchange(self, message: Any, timeout_s: float) -> dict[str, Any]:
        """Sends one line and reads one; the child is gone after any failure."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        deadline = monotonic() + timeout_s
        out = memoryview(json.dumps(message).encode() + b"\n")
        into, reply = child.stdin.fileno(), bytearray()
        os.set_blocking(into, False)
        while not reply.endswith(b"\n"):
            left = deadline - monotonic()
            if left <= 0:
                self.close()
                raise CallTimeout(f"no answer within {timeout_s:g} s")
            readable, writable, _ = select.select([child.stdout], [into] if out else [], [], left)
            try:
                if writable:
                    out = out[os.write(into, out) :]
                part = os.read(child.stdout.fileno(), 1 << 16) if readable else b"\0"
            except BrokenPipeError:
                part = b""
            if not part:
                self.close()
                raise CallFailed("the process died: out of memory or of time, or killed")
            if readable:
                reply += part
            if len(reply) > MAX_REPLY:
                self.close()
                raise CallFailed(f"its reply is longer than {MAX_REPLY} bytes")
        try:
            return json.loads(reply)
        except ValueError:
            self.close()
            raise CallFailed("its reply is not JSON") from None


# --- The child --------------------------------------------------------------------------------------------------------


def _refuse(event: str, argument: tuple[Any, ...]) -> None:
    writing = event == "open" and isinstance(argument[2], int) and argument[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writing or event in REFUSED:
        raise PermissionError(f"a scorer may not do this: {event}")


def _limit(memory: int | None) -> None:
    import resource

    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serves calls on stdin and stdout until stdin ends; what the function prints is dropped."""
    source, reply = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)

    def answer(value: dict[str, Any]) -> None:
        reply.write(json.dumps(value).encode() + b"\n")
        reply.flush()

    option = json.loads(source.readline())
    module, _, name = option["target"].partition(":")
    try:
        for other in option["imports"]:
            import_module(other)
        function = getattr(import_module(module), name)
        if not callable(function):
            raise TypeError(f"{name!r} is not callable")
        _limit(option["memory"])
    except Exception as error:  # whatever the module of a user raises is reported to the parent, and raised there
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    if option["guarded"]:
        sys.addaudithook(_refuse)
    answer({"value": None})
    for line in source:
        try:
            answer({"value": function(*json.loads(line))})
        except (Exception, SystemExit) as error:
            answer({"error": f"{type(error).__name__}: {error}"[:500]})


if __name__ == "__main__":
    main()
