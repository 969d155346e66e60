"""What bash starts as `searchdb` in `warm_shell`: it passes its streams on, waits for the process, and ends as it does.

It imports as little as it can, and nothing of the tests.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main() -> None:
    address, *arguments = sys.argv[1:]
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109 - a string
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        answer = server.recv(16)
    if not answer:
        sys.exit("no process was started")
    status = int(answer)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)  # without a look at standard output, which may be closed


if __name__ == "__main__":
    main()
