"""node-postgres, by password and over TLS, with its defaults; its errors are PostgreSQL's."""

import json
import os
import subprocess
from typing import Any

import pytest

from tests.drivers.toolchains import node_modules
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.tls.conftest import Certificates, Poolers, config_for, listening

_SCRIPT = """
const { Client } = require('pg');
const fs = require('fs');
const asked = JSON.parse(process.argv[1]);
if (asked.ssl) asked.ssl.ca = fs.readFileSync(asked.ssl.ca, 'utf8');
(async () => {
  const client = new Client(asked);
  try {
    await client.connect();
    const rows = [];
    for (let i = 0; i < 3; i++) {
      const named = { name: 'twice', text: 'SELECT $1::int * 2 AS n', values: [i] };
      rows.push((await client.query(named)).rows[0].n);
    }
    await client.query("SET application_name = 'node'");
    const shown = await client.query('SHOW application_name');
    let failed = null;
    try { await client.query('SELECT 1/0'); } catch (error) { failed = error.code; }
    const encrypted = client.connection.stream.encrypted === true;
    await client.end();
    const name = shown.rows[0].application_name;
    console.log(JSON.stringify({ rows, name, failed, encrypted }));
  } catch (error) {
    console.log(JSON.stringify({ code: error.code, text: error.message }));
    process.exit(0);
  }
})();
"""


@pytest.fixture(scope="session")
def node() -> str:
    """Where node-postgres is; skips where that cannot be had."""
    return node_modules()


@pytest.fixture(scope="session")
def served(poolers: Poolers, postgres: Postgres, certs: Certificates) -> Pooler:
    return poolers.get("node", config_for(postgres, tls=listening(certs, "prefer")))


def run(node: str, pooler: Pooler, **options: Any) -> dict[str, Any]:
    asked = {"host": "localhost", "port": pooler.port, "database": "app", "user": "app"}
    asked |= {"password": PASSWORDS["app"], **options}
    done = subprocess.run(
        ["node", "-e", _SCRIPT, json.dumps(asked)],
        env={**os.environ, "NODE_PATH": node},
        capture_output=True,
        timeout=30,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


GOOD = {"rows": [0, 2, 4], "name": "node", "failed": "22012"}


def test_password(node: str, served: Pooler) -> None:
    assert run(node, served, host="127.0.0.1") == {**GOOD, "encrypted": False}


def test_tls(node: str, served: Pooler, certs: Certificates) -> None:
    assert run(node, served, ssl={"ca": str(certs.ca.file)}) == {**GOOD, "encrypted": True}


def test_tls_of_another_authority(node: str, served: Pooler, certs: Certificates) -> None:
    answer = run(node, served, ssl={"ca": str(certs.stranger.file)})
    assert "certificate" in answer["text"]


def test_channel_binding(node: str, served: Pooler, certs: Certificates) -> None:
    answer = run(node, served, ssl={"ca": str(certs.ca.file)}, enableChannelBinding=True)
    assert answer == {**GOOD, "encrypted": True}


def test_wrong_password(node: str, served: Pooler) -> None:
    answer = run(node, served, host="127.0.0.1", password="wrong")
    assert answer["code"] == "28P01"
    assert answer["text"] == 'password authentication failed for user "app"'
