"""The helper that starts processes without the imports: they begin, are stopped, and end as new interpreters do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import warm_processes
from tests.helpers.waiting import GIVE_UP_S, until

pytestmark = [
    pytest.mark.slow,  # imports torch in a process of its own
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the server"),
]

ROOT = Path(__file__).parents[1]

STATE = """
import json, os, resource, signal, subprocess, sys, threading
print(json.dumps({
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "name": __name__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "environment": dict(os.environ), "folder": os.getcwd(),
    "inherited": sorted(subprocess.check_output("env", text=True).splitlines()),
    "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": len(os.listdir("/proc/self/task")), "files": sorted(os.listdir("/proc/self/fd")),
    "input": sys.stdin.read(), "session": os.getsid(0) == os.getpid(), "limits": resource.getrlimit(resource.RLIMIT_AS),
    "streams": [[each.encoding, each.errors, each.line_buffering, each.fileno()]
                for each in (sys.stdin, sys.stdout, sys.stderr)],
}))
"""
"""Prints what a process finds around it."""

WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(600)"


def new(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter, to compare."""
    return subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=GIVE_UP_S, **options,
    )  # fmt: skip


def start(output: Path, code: str, *arguments: str, **options: Any) -> warm_processes.Process:
    with output.open("w") as stdout:
        return warm_processes.start(["-c", code, *arguments], stdout=stdout, **options)


def ready(output: Path) -> bool:
    return "ready" in output.read_text()


@pytest.mark.parametrize("option", ["-c", "-m"])
def test_a_process_finds_what_a_new_interpreter_finds(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.py").write_text(STATE)
    program = STATE if option == "-c" else "state"
    monkeypatch.setenv("SEARCHDB_MODEL", "demo")
    arguments = [option, program, "one", "-two"]
    for environment in (dict(os.environ), os.environ | {"DATABASE_URL": "postgresql:///x"}):
        warm = warm_processes.run(arguments, cwd=tmp_path, env=environment, timeout=GIVE_UP_S)
        assert (warm.returncode, warm.stderr) == (0, "")
        assert json.loads(warm.stdout) == json.loads(new(arguments, cwd=tmp_path, env=environment).stdout)


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "print('printed')\nraise SystemExit",
        "import sys; sys.exit(7)",
        "import sys; sys.exit('said')",
        "import os; print('lost', end=''); os._exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import atexit, sys, threading, time\natexit.register(print, 'at the exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nsys.exit(5)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import os, sys\nif not os.fork(): sys.exit(4)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))",
    ],
)
def test_a_process_ends_as_a_new_interpreter_does(code: str) -> None:
    warm, expected = warm_processes.run(["-c", code], timeout=GIVE_UP_S), new(["-c", code])
    assert (warm.returncode, warm.stdout, warm.stderr) == (expected.returncode, expected.stdout, expected.stderr)


@pytest.mark.parametrize("code", ["1 / 0", "raise KeyboardInterrupt", "def ("])
def test_an_exception_that_nobody_catches_ends_it_with_a_traceback(code: str) -> None:
    warm, expected = warm_processes.run(["-c", code], timeout=GIVE_UP_S), new(["-c", code])
    assert warm.returncode == expected.returncode != 0
    assert warm.stderr.startswith("Traceback (most recent call last):\n")
    assert warm.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]


def test_streams_are_the_files_given(tmp_path: Path) -> None:
    given, printed = tmp_path / "given", tmp_path / "printed"
    given.write_text("text")
    code = "import sys; print(sys.stdin.read()); sys.stdout.flush(); print('error', file=sys.stderr)"
    with given.open() as stdin:
        process = start(printed, code, stdin=stdin, stderr=subprocess.STDOUT)
    assert process.wait(GIVE_UP_S) == 0
    assert printed.read_text() == "text\nerror\n"


def test_it_is_stopped_by_signals(tmp_path: Path) -> None:
    for number, expected in ((signal.SIGTERM, -15), (signal.SIGINT, -2), (signal.SIGKILL, -9)):
        output = tmp_path / number.name
        process = start(output, WAITS, stderr=subprocess.DEVNULL)
        until(lambda: ready(output), "the process")  # noqa: B023 - it is called at once
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        waits: list[int] = []
        others = [threading.Thread(target=lambda: waits.append(process.wait())) for _ in range(2)]  # noqa: B023
        for other in others:
            other.start()
        for other in others:
            other.join(GIVE_UP_S)
        assert waits == [expected] * 2
        assert process.poll() == process.returncode == expected
        until(lambda: not Path(f"/proc/{process.pid}").exists(), "the server to forget it")  # noqa: B023
        process.kill()  # is nothing now


def test_a_group_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = f"import os\nchild = os.fork()\nif child: print(child, flush=True)\n{WAITS}"
    output = tmp_path / "output"
    process = start(output, code, start_new_session=True)
    until(lambda: output.read_text().count("ready") == 2, "both processes")
    child = int(output.read_text().replace("ready", "").split()[0])
    assert os.getpgid(child) == os.getsid(child) == process.pid != os.getpgrp()
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(GIVE_UP_S) == -signal.SIGKILL
    until(lambda: not _runs(child), "the end of the other process")


def _runs(pid: int) -> bool:
    """Whether a process has neither ended nor been waited for; an orphan may stay for a while after its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_draw_different_random_numbers() -> None:
    code = "import numpy, random, uuid\nprint(numpy.random.rand(), random.random(), uuid.uuid4())"
    drawn = [warm_processes.run(["-c", code], timeout=GIVE_UP_S).stdout.split() for _ in range(2)]
    assert len({number for numbers in drawn for number in numbers}) == 6


def test_libraries_are_imported_and_searchdbs_modules_are_not() -> None:
    code = "import sys\nprint('torch' in sys.modules, 'searchdb.ingest' in sys.modules, 'web' in sys.modules)"
    assert warm_processes.run(["-c", code], timeout=GIVE_UP_S).stdout == "True False False\n"


def test_variables_that_imports_may_have_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="OMP_NUM_THREADS may be read by an import"):
        warm_processes.start(["-c", "pass"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    without = {name: value for name, value in os.environ.items() if name != "PATH"}
    with pytest.raises(ValueError, match="PATH may be read by an import"):
        warm_processes.start(["-c", "pass"], env=without)
    monkeypatch.setenv("SET_BY_A_LIBRARY", "meanwhile")
    code = "import os; print(os.environ['SET_BY_A_LIBRARY'])"
    assert warm_processes.run(["-c", code], timeout=GIVE_UP_S).stdout == "meanwhile\n"
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    with pytest.raises(ValueError, match="HF_HOME may be read by an import"):
        warm_processes.start(["-c", "pass"])


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="no process was started"):
        warm_processes.start(["-c", "pass"], cwd=tmp_path / "none")


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path, how: str) -> None:
    code = f"""
import subprocess, sys, time
from tests.helpers import warm_processes
warm_processes._servers.append(warm_processes._Server(empty=True))
process = warm_processes.start(["-c", {WAITS!r}], stdout=subprocess.DEVNULL)
print(warm_processes._servers[0]._process.pid, process.pid, flush=True)
time.sleep(600 if {how!r} == "kill" else 0)
"""
    output = tmp_path / "output"
    with output.open("w") as stdout:
        user = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=stdout)
    until(lambda: output.read_text().count("\n"), "the process")
    server, started = map(int, output.read_text().split())
    try:
        if how == "kill":
            user.kill()
        user.wait(GIVE_UP_S)
        until(lambda: not _runs(server), "the end of the server")
        assert _runs(started)  # as every process whose parent has ended
    finally:
        os.kill(started, signal.SIGKILL)
