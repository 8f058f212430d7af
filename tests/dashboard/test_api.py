"""The JSON API: views as they are, what is asked of them, events, and their bounds."""

import contextlib
import socket
import time

import psycopg
import pytest

from pooler.admin.view import Row
from pooler.admin.views import VIEWS
from pooler.dashboard.looks import WrongQuery, selected
from pooler.rates import POINT
from tests.conftest import RunWithConfig
from tests.dashboard.conftest import Http, basic
from tests.support.pooler import Pooler
from tests.support.standing import until

ROWS = [("a", "u", 1), ("b", "u", 5), ("c", "v", 3)]
LISTS = VIEWS["histograms"]  # database, user, kind, count, ...


def rows(**query: str) -> list[tuple[object, ...]]:
    """What is selected of three rows, without the columns that are all the same."""
    width = len(LISTS.columns)
    full: list[Row] = [(a, u, "wait", n, *[0] * (width - 4)) for a, u, n in ROWS]
    return [(row[0], row[3]) for row in selected(LISTS, full, query, 1000)["rows"]]


def test_rows_are_selected_sorted_and_cut() -> None:
    assert rows() == [("a", 1), ("b", 5), ("c", 3)]
    assert rows(sort="count") == [("a", 1), ("c", 3), ("b", 5)]
    assert rows(sort="-count", limit="2") == [("b", 5), ("c", 3)]
    assert rows(sort="-count", limit="2", offset="2") == [("a", 1)]
    assert rows(user="v") == [("c", 3)]
    assert rows(user="u", count="5") == [("b", 5)]
    assert rows(search="B") == [("b", 5)]
    assert rows(search="nothing") == []


@pytest.mark.parametrize(
    "query", [{"none": "1"}, {"sort": "none"}, {"limit": "-1"}, {"limit": "1e9"}, {"offset": "x"}]
)
def test_a_wrong_query_says_so(query: dict[str, str]) -> None:
    with pytest.raises(WrongQuery):
        rows(**query)


def test_values_of_any_kind_can_be_sorted() -> None:
    width = len(LISTS.columns) - 4
    mixed: list[Row] = [
        ("a", "u", "wait", value, *[0] * width) for value in (2, None, "x", 1.5, True)
    ]
    found = selected(LISTS, mixed, {"sort": "count"}, 1000)["rows"]
    assert [row[3] for row in found] == [None, True, 1.5, 2, "x"]


def test_what_there_is(web: Http) -> None:
    about = web.get("/api/").json
    assert about["views"] == {name: view.help for name, view in VIEWS.items()}
    assert about["point"] == list(POINT)
    assert about["can_log_in"] is True


def test_every_view_can_be_had(dashboard: Pooler, web: Http) -> None:
    with dashboard.connect(application_name="one"), dashboard.connect(dbname="other"):
        for name, view in VIEWS.items():
            found = web.get(f"/api/{name}").json
            assert [column["name"] for column in found["columns"]] == [c.name for c in view.columns]
            assert found["total"] == len(found["rows"])
        clients = web.get("/api/clients?database=app").json
        names = [column["name"] for column in clients["columns"]]
        assert [
            dict(zip(names, row, strict=True))["application_name"] for row in clients["rows"]
        ] == ["one"]
    assert web.get("/api/none").status == 404
    assert web.get("/api/clients?none=1").status == 400


def test_events_are_a_history_and_then_frames(dashboard: Pooler, web: Http) -> None:
    with dashboard.connect() as client, web.events() as events:
        assert next(events) == ("history", [])
        assert next(events) == ("frame", {"tables": {}})
        name, frame = next(events)
        assert name == "frame"
        point = dict(zip(POINT, frame["sample"]["points"][1], strict=True))
        assert (point["database"], point["user"], point["clients"]) == ("app", "app", 1)
        assert point["pool_size"] == 2
        assert frame["tables"]["occupancy"]["total"] == 1
        before = frame["sample"]["time"]
        client.execute("SELECT 1")
        _, frame = next(events)
        assert frame["sample"]["time"] > before
        assert frame["sample"]["points"][1][POINT.index("queries")] > 0
        assert "config" not in frame["tables"]
        with web.events() as others:  # who comes later is shown what was
            name, history = next(others)
            assert [sample["time"] for sample in history][:1] == [before]
            assert next(others)[1]["tables"]["occupancy"]["total"] == 1


def test_viewers_are_bounded_and_make_place(run_with_config: RunWithConfig) -> None:
    web = Http(run_with_config(dashboard={"viewers": 1}))
    with web.events() as events:
        next(events)
        answer = web.get("/api/events")
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert web.get("/api/pools").status == 200
    end = time.monotonic() + 20
    while not _can_watch(web):  # it is noticed with one of the next frames that one has gone
        assert time.monotonic() < end, "a viewer who left keeps his place"
        time.sleep(0.1)


def _can_watch(web: Http) -> bool:
    with contextlib.suppress(AssertionError), web.events() as events:
        next(events)
        return True
    return False


def test_a_viewer_who_reads_nothing_is_dropped(run_with_config: RunWithConfig) -> None:
    """His kernel's buffers full, he costs some frames of memory, and then nothing."""
    pooler = run_with_config(databases={f"database{i}": {"host": "127.0.0.1"} for i in range(1000)})
    web = Http(pooler)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", web.port))
        slow.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with web.events() as events:  # a good one goes on meanwhile
            for _ in range(3):
                assert next(events)[0] in ("history", "frame")
    assert web.get("/api/state").status == 200


def test_commands_check_what_they_are_given(web: Http) -> None:
    def status(path: str, data: object) -> int:
        return web.post(f"/api/commands/{path}", data, Authorization=basic("app")).status

    assert status("none", {}) == 404
    assert status("reload", []) == 400
    assert status("reload", {"database": "app"}) == 400
    assert status("reload", {}) == 200


def test_files_are_sent_again_only_when_they_changed(web: Http) -> None:
    first = web.get("/static/app.css")
    assert first.headers["content-type"].startswith("text/css")
    again = web.get("/static/app.css", **{"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for path in (
        "none.js",
        "vendor/vendor.json",
        "../site.py",
        "..%2fsite.py",
        "vendor/preact.LICENSE",
    ):
        assert web.get(f"/static/{path}").status == 404, path


def test_commands_do_what_the_console_does(dashboard: Pooler, web: Http) -> None:
    def give(name: str, **arguments: object) -> tuple[int, str]:
        answer = web.post(f"/api/commands/{name}", arguments, Authorization=basic("app"))
        return answer.status, answer.json.get("result") or answer.json["error"]

    with dashboard.connect(application_name="kept") as kept, dashboard.connect() as killed:
        kept.execute("SELECT pg_advisory_lock(1)")
        until(lambda: len(_rows(web, "pins", "client")), 1)
        clients = {row[-2]: row for row in _rows(web, "clients", "application_name", "id")}
        assert give("unpin", client=clients["kept"][-1])[0] == 200
        assert give("unpin", client=clients["kept"][-1]) == (
            409,
            f"client {clients['kept'][-1]} is not pinned",
        )
        until(lambda: _rows(web, "pins", "client"), [])
        assert give("kill_client", client=clients[""][-1])[0] == 200
        with pytest.raises(psycopg.OperationalError, match="admin forced disconnect"):
            killed.execute("SELECT 1")
        assert give("pause", database="app") == (
            200,
            "app is paused: its clients wait, and it has no server connections.",
        )
        until(lambda: _rows(web, "occupancy", "database", "paused"), [["app", True]])
        assert give("reconnect", database="app")[0] == 200
        assert give("resume", database="app")[0] == 200
        assert kept.execute("SELECT 2").fetchone() == (2,)
        assert give("resume", database="app") == (409, "database app is not paused")
        assert give("kill_client", client=99999)[0] == 409
    assert dashboard.log_contains(event="dashboard command", command="pause", user="app")


def _rows(web: Http, view: str, *names: str) -> list[list[object]]:
    """Some columns of a view."""
    found = web.get(f"/api/{view}").json
    places = [[column["name"] for column in found["columns"]].index(name) for name in names]
    return [[row[place] for place in places] for row in found["rows"]]
