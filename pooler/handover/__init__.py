"""An upgrade: a running pooler hands its listening sockets and its clients to a new process.

`giver` is the old process's part and `taker` the new one's; the `estate` is what is given, the
`heir` who takes it. `mover` and `arrivals` are the clients on their way, `shares` how all processes
have one budget of server connections, `upgrades` what a service knows of all this. See
docs/upgrade.md.
"""

from typing import Final

FORMAT: Final = 2
"""Of what they say to each other; raised when a message changes its meaning."""

VARIABLE: Final = "POOLER_SUCCEEDS"
"""In the environment of a new process: the descriptor of its end of what is between them."""

Kind = tuple[str, str, str]
"""What a listening socket is for ("tcp", "unix", "metrics", "systemd"), host or path, port."""
