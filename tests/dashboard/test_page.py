"""The page in a browser: what it shows is what the views say, live, and nothing else can act."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.dashboard.conftest import Http, logged
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS
from tests.support.standing import load, until

Browser = Callable[..., Chrome]

EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"

PAGES = ("", "clients", "holders", "waiters", "pins", "statements", "errors", "reload")

TABLE = """
    const table = document.getElementById(arguments[0]);
    if (table === null) return [];
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText);
    return [...table.tBodies[0].rows].map((row) =>
        Object.fromEntries([...row.cells].map((cell, i) => [heads[i], cell.innerText])));
"""


def table(page: Chrome, name: str) -> list[dict[str, str]]:
    """The rows of a table on the page."""
    rows: list[dict[str, str]] = page.execute_script(TABLE, name)
    return rows


def column(page: Chrome, name: str, head: str) -> list[str]:
    """A column of a table on the page, each cell's first line."""
    return [row[head].partition("\n")[0] for row in table(page, name)]


def show(page: Chrome, web: Http, path: str = "") -> None:
    """Open a page of the dashboard and wait until it is live."""
    page.get("about:blank")
    page.get(f"http://{web.netloc}/#/{path}")
    until(lambda: page.find_element(By.CSS_SELECTOR, ".live").text, "live")
    until(lambda: "…" in page.find_element(By.TAG_NAME, "main").text, False)


def viewed(web: Http, name: str) -> list[dict[str, Any]]:
    """A view, as the API has it."""
    found = web.get(f"/api/{name}").json
    names = [one["name"] for one in found["columns"]]
    return [dict(zip(names, row, strict=True)) for row in found["rows"]]


def test_what_it_shows_is_what_the_views_say(
    dashboard: Pooler, web: Http, browser: Browser
) -> None:
    page = browser()
    with load(dashboard) as wait:
        until(lambda: len(viewed(web, "waiters")), 2)
        until(lambda: len(viewed(web, "pins")), 1)
        show(page, web)
        until(lambda: column(page, "pools", "Waiting"), ["2"])
        pool = viewed(web, "occupancy")[0]
        row = table(page, "pools")[0]
        assert row["Pool"].split("\n") == [pool["database"], pool["user"]] == ["app", "app"]
        assert row["Servers in use"] == f"{pool['working']} / {pool['pool_size']}" == "2 / 2"
        assert row["Clients"] == str(pool["clients"]) == "6"
        assert row["Pinned"] == str(pool["pinned"]) == "1"
        shown = viewed(web, "pools")[0]
        assert (shown["cl_active"] + shown["cl_waiting"], shown["cl_waiting"]) == (6, 2)

        holders = {row["Held by"].split("\n")[0]: row["Does"] for row in table(page, "holders")}
        assert holders == {
            row["application_name"]: row["activity"] for row in viewed(web, "queries")
        }
        assert holders == {"pinned": "pinned", "busy": "idle in transaction"}
        assert column(page, "waiters", "Client") == ["waiter0", "waiter1"]
        assert column(page, "waiters", "Client") == [
            row["application_name"] for row in viewed(web, "waiters")
        ]
        pin = viewed(web, "pins")[0]
        assert column(page, "pins", "Why") == [pin["reasons"]] == ["locks"]
        assert column(page, "pins", "Statement") == [pin["statement"]]

        marker = page.execute_script("return window.marker = {}")
        assert marker is not None
        wait()  # what comes later is shown without anything being loaded again
        until(lambda: column(page, "pools", "Waiting"), ["3"])
        until(lambda: column(page, "waiters", "Client"), ["waiter0", "waiter1", "waiter2"])
        assert page.execute_script("return window.marker !== undefined")
        charts = [title.text for title in page.find_elements(By.CSS_SELECTOR, ".chart h3")]
        assert charts[:3] == ["Server connections", "Waiting clients", "Wait for a server"]
        legend = page.find_element(By.CSS_SELECTOR, ".chart .legend").text.split("\n")
        assert legend == ["in use 2", "idle 0", "size 2"]
    until(lambda: column(page, "pools", "Waiting"), ["0"])


def test_pages_of_a_pool_and_of_a_client(dashboard: Pooler, web: Http, browser: Browser) -> None:
    page = browser()
    with load(dashboard):
        until(lambda: len(viewed(web, "waiters")), 2)
        show(page, web, "clients")
        until(lambda: len(table(page, "clients")), 6)
        states = {row["Client"].split("\n")[0]: row["State"] for row in table(page, "clients")}
        assert states == {row["application_name"]: row["state"] for row in viewed(web, "clients")}
        page.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("waiter1")
        until(lambda: column(page, "clients", "Client"), ["waiter1"])
        page.find_element(By.CSS_SELECTOR, "#clients a").click()
        facts = page.find_element(By.TAG_NAME, "main")
        until(lambda: "Place in line" in facts.text, True)
        client = next(row for row in viewed(web, "clients") if row["application_name"] == "waiter1")
        for text in (f"{client['addr']}:{client['port']}", "waiter1", "pool_size"):
            assert text in facts.text

        show(page, web, "pool/app/app")
        until(lambda: len(table(page, "clients")), 6)
        assert page.find_element(By.TAG_NAME, "h1").text == "app / app"
        assert len(table(page, "holders")) == 2
        assert len(page.find_elements(By.CSS_SELECTOR, ".chart canvas")) == 6
        show(page, web, "client/99999")
        assert "no such client" in page.find_element(By.TAG_NAME, "main").text


def test_what_strangers_are_called_is_shown_and_not_run(
    dashboard: Pooler, web: Http, browser: Browser
) -> None:
    page = browser()
    for user, database in ((EVIL, "app"), ("app", EVIL)):
        with pytest.raises(psycopg.OperationalError):
            dashboard.connect(user=quote(user), dbname=quote(database), password="app-password")
    with dashboard.connect(application_name=EVIL) as client:
        client.execute("SELECT pg_advisory_lock(1)")
        client.execute('SELECT 1 AS "' + EVIL.replace('"', "'")[:60] + '"')
        ident = viewed(web, "clients")[0]["id"]
        seen = viewed(web, "clients")[0]["application_name"]
        assert "<script>" in seen
        for path in (*PAGES, f"client/{ident}", "pool/app/app", "pool/%3Cimg%3E/x"):
            show(page, web, path)
            if path in ("", "pins", "holders"):
                until(lambda: seen in page.find_element(By.TAG_NAME, "main").text, True)
            assert page.title == "pooler"
            assert page.find_elements(By.CSS_SELECTOR, "main img, main script") == []


def test_it_asks_nobody_else_and_breaks_no_rule_of_its_own(
    dashboard: Pooler, web: Http, browser: Browser
) -> None:
    page = browser()
    logged(page, "performance")
    logged(page, "browser")
    with load(dashboard):
        for path in PAGES:
            show(page, web, path)
    asked = set()
    for entry in logged(page, "performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    ours = {url for url in asked if url.startswith(f"http://{web.netloc}/")}
    assert asked - ours - {"about:blank"} == set()
    assert f"http://{web.netloc}/api/events" in ours
    assert [entry["message"] for entry in logged(page, "browser")] == []  # no violation, no error


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(
    dashboard: Pooler, web: Http, browser: Browser, theme: str, pictures: Path
) -> None:
    page = browser(width=390, height=844, theme=theme)
    with load(dashboard):
        for path in (*PAGES, "pool/app/app"):
            show(page, web, path)
            width = page.execute_script("return document.documentElement.scrollWidth")
            assert width <= 390, path
            page.save_screenshot(str(pictures / f"{theme}-{path.replace('/', '-')}.png"))


def test_colours_follow_the_system_until_they_are_chosen(web: Http, browser: Browser) -> None:
    def back(page: Chrome) -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    show(browser(), web)
    light = back(browser())
    page = browser(theme="dark")
    until(lambda: back(page) == light, False)
    dark = back(page)
    page.find_element(By.CSS_SELECTOR, "button.theme").click()
    until(lambda: back(page), light)
    page.refresh()
    until(lambda: back(page), light)  # it is remembered
    browser(theme="light")
    until(lambda: len(page.find_elements(By.CSS_SELECTOR, "button.theme")), 1)
    page.find_element(By.CSS_SELECTOR, "button.theme").click()
    until(lambda: back(page), dark)
    page.execute_script("localStorage.clear()")


def test_a_lost_connection_is_said_and_found_again(
    dashboard: Pooler, web: Http, browser: Browser
) -> None:
    page = browser()
    fixed = {**dashboard.config, "metrics": {"listen": f"127.0.0.1:{web.port}"}}
    show(page, web)
    dashboard.terminate()
    until(lambda: page.find_element(By.CSS_SELECTOR, ".live").text, "no connection")
    dashboard.config = fixed
    dashboard.start()
    until(lambda: page.find_element(By.CSS_SELECTOR, ".live").text, "live")


def test_an_administrator_can_do_something(dashboard: Pooler, web: Http, browser: Browser) -> None:
    page = browser()
    show(page, web, "clients")
    assert page.find_elements(By.CSS_SELECTOR, ".act") == []  # without a login
    assert page.find_element(By.CSS_SELECTOR, ".login").text == "Log in"
    page.get(f"http://app:{PASSWORDS['app']}@{web.netloc}/login")
    with dashboard.connect(application_name="victim") as victim:
        show(page, web, "clients")
        assert page.find_element(By.CSS_SELECTOR, ".who").text == "app"
        until(lambda: column(page, "clients", "Client"), ["victim"])

        def asked() -> bool:
            """Whether the click has met the button: the page is live, and may just draw it anew."""
            page.find_element(By.CSS_SELECTOR, "#clients .act.danger").click()
            return bool(page.find_elements(By.CSS_SELECTOR, "dialog .act.danger"))

        until(asked, True)
        page.find_element(By.CSS_SELECTOR, "dialog .act.danger").click()
        until(lambda: "is disconnected" in page.find_element(By.TAG_NAME, "body").text, True)
        with pytest.raises(psycopg.OperationalError, match="admin forced disconnect"):
            victim.execute("SELECT 1")
    assert dashboard.log_contains(event="dashboard command", command="kill_client", user="app")
