"""An upgrade: a running pooler hands its listening sockets and its clients to a new process.

`giver` is the old process's part and `taker` the new one's, `shares` how they have one budget of
server connections, `upgrades` what the service knows of all this. See docs/upgrade.md.
"""

from typing import Final

FORMAT: Final = 1
"""Of what they say to each other; raised when a message changes its meaning."""

VARIABLE: Final = "POOLER_SUCCEEDS"
"""In the environment of a new process: the descriptor of its end of what is between them."""
