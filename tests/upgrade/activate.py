"""Does what systemd does for a service with sockets: `python -m tests.upgrade.activate CONFIG`.

Opens one for TCP, one for each path in ACTIVATE_PATHS and one for Prometheus, and becomes the
pooler with these.
"""

import os
import socket
import sys


def main() -> None:
    """Open, and become the pooler."""
    sockets = [("postgresql", socket.create_server(("127.0.0.1", 0)))]
    for path in filter(None, os.environ.get("ACTIVATE_PATHS", "").split(":")):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        sockets.append(("unix", sock))
    sockets.append(("metrics", socket.create_server(("127.0.0.1", 0))))
    spare = [os.dup(sock.fileno()) for _, sock in sockets]  # out of the way of 3 and up
    high = [os.dup2(file, 100 + number) for number, file in enumerate(spare)]
    for number, file in enumerate(high):
        os.dup2(file, 3 + number)
    os.closerange(3 + len(sockets), 200)
    os.environ["LISTEN_FDS"] = str(len(sockets))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in sockets)
    os.environ["LISTEN_PID"] = os.environ.get("ACTIVATE_PID", str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", "pooler", *sys.argv[1:]])


if __name__ == "__main__":
    main()
