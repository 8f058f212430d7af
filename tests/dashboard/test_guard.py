"""Who may ask what: addresses, names, origins, passwords."""

import time

import pytest

from pooler.config.model import Dashboard
from pooler.dashboard.guard import HEADERS, not_served, wrong_host, wrong_origin
from tests.conftest import RunWithConfig
from tests.dashboard.conftest import Http, basic
from tests.support.pooler import Pooler

EVERYTHING = ("/", "/static/app.js", "/api/", "/api/pools", "/api/events")


@pytest.mark.parametrize(
    "header", ["127.0.0.1:9127", "[::1]:9127", "localhost", "10.1.2.3", "db-1"]
)
def test_names_that_reach_us(header: str) -> None:
    assert wrong_host(Dashboard(hosts=("db-1",)), header) == ""


@pytest.mark.parametrize(
    "header", ["evil.example:9127", "127.0.0.1.evil.example", "", "localhost.evil", "[::1", "db-2"]
)
def test_names_that_somebody_else_made_point_here(header: str) -> None:
    assert "dashboard.hosts" in wrong_host(Dashboard(hosts=("db-1",)), header)


@pytest.mark.parametrize(
    ("headers", "right"),
    [
        ({"X-Pooler": "1", "Host": "a:1"}, True),  # not a browser: curl
        ({"X-Pooler": "1", "Host": "a:1", "Origin": "http://a:1"}, True),
        ({"X-Pooler": "1", "Host": "a:1", "Origin": "https://A:1"}, True),  # behind a proxy
        ({"X-Pooler": "1", "Host": "a:1", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Host": "a:1", "Origin": "http://a:1"}, False),  # a form
        ({"X-Pooler": "1", "Host": "a:1", "Origin": "http://a:2"}, False),
        ({"X-Pooler": "1", "Host": "a:1", "Origin": "null"}, False),
        ({"X-Pooler": "1", "Host": "a:1", "Sec-Fetch-Site": "cross-site"}, False),
        ({"X-Pooler": "1", "Host": "a:1", "Sec-Fetch-Site": "same-site"}, False),
    ],
)
def test_where_a_change_may_come_from(headers: dict[str, str], right: bool) -> None:
    assert (wrong_origin(headers) == "") is right


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_it_is_served_on_loopback(host: str) -> None:
    assert not_served(Dashboard(), host) == ""


@pytest.mark.parametrize("host", ["10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "2001:db8::1"])
def test_it_is_not_served_elsewhere_unless_told_to(host: str) -> None:
    assert "dashboard.remote" in not_served(Dashboard(), host)
    assert not_served(Dashboard(remote=True), host) == ""
    assert "dashboard.enabled" in not_served(Dashboard(remote=True, enabled=False), "::1")


def test_every_answer_has_the_headers(web: Http) -> None:
    for path in (*EVERYTHING[:-1], "/static/none", "/api/none", "/login"):
        answer = web.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name.lower()] == value, path


def test_a_name_that_points_here_reaches_nothing(web: Http) -> None:
    for path in EVERYTHING:
        answer = web.get(path, Host="rebound.example")
        assert (answer.status, b"dashboard.hosts" in answer.body) == (421, True), path
    assert web.get("/metrics", Host="rebound.example").status == 200  # scraped by any name


def test_it_can_be_off_while_metrics_are_on(run_with_config: RunWithConfig) -> None:
    web = Http(run_with_config(dashboard={"enabled": False}))
    assert {web.get(path).status for path in EVERYTHING} == {404}
    assert web.get("/metrics").status == 200
    assert web.get("/healthz").status == 200


def test_looking_needs_no_password_and_doing_does(web: Http) -> None:
    assert web.get("/api/").json["user"] is None
    assert web.post("/api/commands/reload", {}).status == 401
    assert web.post("/api/commands/reload", {}, Authorization=basic("app")).status == 200


def test_looking_can_be_made_to_need_one(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(
        admin={"users": ["app"]}, dashboard={"login_to_look": True}, auth={"failure_delay": 0}
    )
    web = Http(pooler)
    for path in EVERYTHING:
        answer = web.get(path)
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert web.get("/", Authorization=basic("app")).status == 200
    assert web.get("/api/", Authorization=basic("app")).json["user"] == "app"


def test_what_is_no_administrators_password(web: Http) -> None:
    for authorization in (
        basic("app", "wrong"),
        basic("app", ""),
        basic("alice"),  # a right password, but not an administrator's
        basic("nobody", "x"),
        "Basic",
        "Basic ///",
        "Basic !!!!",
        "Basic Og==",  # ":"
        "Bearer app-password",
    ):
        answer = web.post("/api/commands/reload", {}, Authorization=authorization)
        assert answer.status == 401, authorization


def test_without_administrators_it_is_read_only(run_with_config: RunWithConfig) -> None:
    web = Http(run_with_config())
    answer = web.post("/api/commands/reload", {}, Authorization=basic("app"))
    assert (answer.status, b"admin.users" in answer.body) == (403, True)
    assert web.get("/api/").json["can_log_in"] is False


def test_trust_is_not_enough(run_with_config: RunWithConfig) -> None:
    """Where clients need no password, an administrator's is asked for all the same."""
    web = Http(run_with_config(auth={"type": "trust"}, admin={"users": ["app", "bare"]}))
    assert web.post("/api/commands/reload", {}, Authorization=basic("app", "x")).status == 401
    assert web.post("/api/commands/reload", {}, Authorization=basic("bare", "")).status == 401
    assert web.post("/api/commands/reload", {}, Authorization=basic("app")).status == 200


def test_a_page_of_somebody_else_can_change_nothing(dashboard: Pooler, web: Http) -> None:
    authorization = basic("app")  # as a browser sends it along
    for name, value in (
        ("X-Pooler", ""),
        ("Origin", "http://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Host", "evil.example"),
    ):
        headers = {"Authorization": authorization, name: value}
        assert web.post("/api/commands/reload", {}, **headers).status in (403, 421), name
    plain = {"Authorization": authorization, "Content-Type": "text/plain"}
    assert web.post("/api/commands/reload", {}, **plain).status == 415
    assert web.get("/api/commands/reload", Authorization=authorization).status in (404, 405)
    assert not dashboard.log_contains(event="reloaded")


def test_guessing_is_slowed_down(run_with_config: RunWithConfig) -> None:
    web = Http(run_with_config(admin={"users": ["app"]}, auth={"failure_delay": 0.3}))
    guess = basic("app", "guess")
    web.post("/api/commands/reload", {}, Authorization=guess)
    began = time.monotonic()
    assert web.post("/api/commands/reload", {}, Authorization=guess).status == 401
    assert time.monotonic() - began >= 0.3


def test_a_changed_password_counts_at_once(dashboard: Pooler, web: Http) -> None:
    assert web.post("/api/commands/reload", {}, Authorization=basic("app")).status == 200
    users = {**dashboard.config["users"], "app": {"password": "changed"}}
    dashboard.reload({**dashboard.config, "users": users})
    assert web.post("/api/commands/reload", {}, Authorization=basic("app")).status == 401
    changed = basic("app", "changed")
    assert web.post("/api/commands/reload", {}, Authorization=changed).status == 200
