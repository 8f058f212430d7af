"""A pooler that serves the dashboard, HTTP to it, and a headless Chromium."""

import base64
import contextlib
import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

FLAGS = """
    --headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars
"""


@dataclass
class Answer:
    """An HTTP response that has been read."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Http:
    """Requests to a pooler's dashboard."""

    def __init__(self, pooler: Pooler) -> None:
        self.port = pooler.metrics_port
        self.netloc = f"127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> Answer:
        """GET it."""
        return self.request("GET", path, None, headers)

    def post(self, path: str, data: Any, **headers: str) -> Answer:
        """POST as our page does."""
        ours = {
            "X-Pooler": "1",
            "Content-Type": "application/json",
            "Origin": f"http://{self.netloc}",
        }
        return self.request("POST", path, json.dumps(data).encode(), {**ours, **headers})

    def request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        """Send a request; a header that is "" is left out."""
        named = {name: value for name, value in headers.items() if value}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, 15)) as link:
            link.request(method, path, body, named)
            response = link.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    @contextlib.contextmanager
    def events(self, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """Watch: (name, data) of one event after the other."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, 15)) as link:
            link.request("GET", "/api/events", headers=headers)
            response = link.getresponse()
            assert response.status == 200, response.read()
            yield self._events(response)

    @staticmethod
    def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
        name = ""
        while line := response.readline():
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                yield name, json.loads(value)


def logged(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser has logged since it was asked last."""
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def basic(user: str, password: str | None = None) -> str:
    """The Authorization header of a user, with the right password unless told otherwise."""
    text = f"{user}:{PASSWORDS[user] if password is None else password}"
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture
def dashboard(run_with_config: RunWithConfig) -> Pooler:
    """A pooler with two servers per pool, whose administrator is `app`."""
    return run_with_config(
        databases={"*": {"pool_size": 2}}, admin={"users": ["app"]}, auth={"failure_delay": 0}
    )


@pytest.fixture
def web(dashboard: Pooler) -> Http:
    """Requests to it."""
    return Http(dashboard)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser; skips where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("THE PAGE IS NOT TESTED: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(30)
    driver.set_script_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[Callable[..., webdriver.Chrome]]:
    """Gives the browser as a person has set it up: `browser(width=390, theme="dark")`."""

    def set_up(width: int = 1440, height: int = 900, theme: str = "light") -> webdriver.Chrome:
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return chromium

    yield set_up
    chromium.get("about:blank")
    logged(chromium, "browser")
    logged(chromium, "performance")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder
