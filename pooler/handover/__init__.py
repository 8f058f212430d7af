"""An upgrade: a running pooler hands its listening sockets and its clients to a new process.

`giver` is the old process's part and `taker` the new one's, `channel` what is between them,
`places` how they share server connections, `control` how an upgrade is asked for. See
docs/upgrade.md.
"""
