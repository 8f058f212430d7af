"""What a reload says has changed."""

from pathlib import Path

from pooler.config import changes
from tests.config.conftest import LOGIN, Load


def test_changes(load_text: Load, tmp_path: Path) -> None:
    users = tmp_path / "list"
    users.write_text('"f" "one"\n"g" "same"\n')
    old = load_text("""
        auth: {file: list}
        databases:
          app: {pool_size: 20, password: one, settings: {jit: "off"}}
          gone: {}
        users: {u: {password: same}, v: {password: one}}
    """)
    users.write_text('"f" "two"\n"g" "same"\n')
    new = load_text("""
        auth: {file: list}
        listen: {host: [127.0.0.1, "::1"], unix_socket_mode: 0700}
        timeouts: {query_timeout: 1h}
        defaults: {pool_mode: session, server_round_robin: true, server_check_query: ""}
        databases:
          app: {pool_size: 40, password: two, query_timeout: 5}
          come: {}
        users: {u: {password: same}, v: {}}
    """)
    assert [str(change) for change in changes(old, new)] == [
        "listen.host: 127.0.0.1 -> 127.0.0.1, ::1",
        "listen.unix_socket_mode: 0777 -> 0700",
        "timeouts.query_timeout: 0 -> 3600",
        "defaults.pool_mode: transaction -> session",
        "defaults.server_round_robin: false -> true",
        'defaults.server_check_query: ; -> ""',
        "databases.app.pool_size: 20 -> 40",
        "databases.app.query_timeout: default -> 5",
        "databases.app.password: (changed)",
        "databases.app.settings.jit: removed off",
        "databases.gone: removed",
        "databases.come: added",
        "users.v.password: (changed)",
        "auth.file.f: (changed)",
    ]


def test_no_changes(load_text: Load) -> None:
    text = LOGIN + "databases: {app: {password: p}}"
    assert changes(load_text(text), load_text(text)) == []
