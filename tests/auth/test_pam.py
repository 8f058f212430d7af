"""Passwords checked by PAM, with service files of the test's own, which only root can make."""

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pooler.pamcheck import pam_check
from tests.conftest import RunWithConfig
from tests.support.rawclient import RawClient, ServerError

SERVICES = Path("/etc/pam.d")

Service = Callable[..., str]

# Reads the password as pam_exec hands it over, with a NUL at its end.
SCRIPT = """#!/bin/sh
echo "$PAM_USER $PAM_RHOST $PAM_TYPE" >> {log}
[ "$(tr -d '\\000')" = {password} ]
"""


@pytest.fixture
def service() -> Iterator[Service]:
    """Makes a service of these lines; its name."""
    pytest.importorskip("pamela", reason="NOT TESTED: PAM, for want of the extra `pam`")
    if os.geteuid() != 0 or not SERVICES.is_dir():
        pytest.skip("NOT TESTED: PAM, for want of the right to make a service in /etc/pam.d")
    made: list[Path] = []

    def make(*lines: str) -> str:
        file = SERVICES / f"pooler-test-{uuid4().hex}"
        made.append(file)
        file.write_text("".join(f"{line}\n" for line in lines))
        return file.name

    yield make
    for file in made:
        file.unlink()


@pytest.fixture
def checked(service: Service, tmp_path: Path) -> tuple[str, Path]:
    """A service that takes one password, and the file where it notes what it was told."""
    log, script = tmp_path / "log", tmp_path / "check"
    script.write_text(SCRIPT.format(log=log, password=shlex.quote("pam-hunter2")))
    script.chmod(0o755)
    auth = f"auth required pam_exec.so quiet expose_authtok {script}"
    return service(auth, "account required pam_permit.so"), log


def test_passwords(checked: tuple[str, Path]) -> None:
    name, log = checked
    assert pam_check(name, "app", "192.0.2.9", "pam-hunter2") == ""
    assert pam_check(name, "app", "192.0.2.9", "wrong").startswith("PAM: ")
    assert pam_check(name, "app", "192.0.2.9", "") != ""
    assert pam_check(name, "app", "", "pam-hunter2") == ""
    assert pam_check(name, "app\0", "", "pam-hunter2") != ""
    assert pam_check(name, "\udcff", "", "pam-hunter2") != ""
    assert log.read_text().splitlines()[0] == "app 192.0.2.9 auth"


def test_modules_that_do_not_ask(service: Service) -> None:
    permit, deny = "required pam_permit.so", "required pam_deny.so"
    assert pam_check(service(f"auth {permit}", f"account {permit}"), "bob", "", "x") == ""
    assert pam_check(service(f"auth {deny}", f"account {permit}"), "bob", "", "x") != ""
    assert pam_check(service(f"auth {permit}", f"account {deny}"), "bob", "", "x") != ""
    assert pam_check(service("auth required pam_gone.so"), "bob", "", "x") != ""


def test_through_the_pooler(checked: tuple[str, Path], run_with_config: RunWithConfig) -> None:
    name, log = checked
    rule = {"type": "host", "database": "all", "user": "all", "address": "all", "method": "pam",
            "pamservice": name}  # fmt: skip
    pooler = run_with_config(auth={"type": "hba", "hba": [rule], "failure_delay": 0})
    with RawClient(pooler.host, pooler.port) as client:
        client.login("app", "app", "pam-hunter2")
        assert client.values("SELECT current_user") == [[b"app"]]
    with RawClient(pooler.host, pooler.port) as client, pytest.raises(ServerError) as refused:
        client.login("app", "app", "wrong-hunter2")
    assert refused.value.fields["C"] == "28000"
    assert refused.value.fields["M"] == 'PAM authentication failed for user "app"'
    assert "hunter2" not in pooler.log_text
    assert log.read_text().splitlines()[0] == "app 127.0.0.1 auth"
