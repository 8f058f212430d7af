"""A folder with PgBouncer configurations, and PgBouncer itself where it is installed."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from pooler.config import Config, load
from pooler.config.load import Form
from pooler.embedded import _Account, free_port
from pooler.importer import ini_form
from pooler.importer.convert import Imported, convert
from tests.tls.certificates import Authority

EXAMPLES = Path(__file__).parent / "ini"

LoadIni = Callable[..., Config]
Convert = Callable[[str], Imported]


class Disk:
    """Files, without a load that watches them."""

    def text(self, file: str) -> bytes | str:
        try:
            return Path(file).read_bytes()
        except OSError as error:
            return f"can not be read: {error.strerror}"

    def exists(self, file: str) -> bool:
        return Path(file).exists()

    def folder(self, name: str) -> list[str] | str:
        return [entry.name for entry in Path(name).iterdir()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example files, where we are: names of files are relative to that."""
    shutil.copytree(EXAMPLES, tmp_path / "ini")
    folder = tmp_path / "ini"
    authority = Authority(folder, "ca")
    authority.issue("localhost", ["localhost"], file="server")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def load_ini(folder: Path) -> LoadIni:
    """Loads an example, or a text as a file of its own."""

    def loaded(name: str = "text.ini", text: str | None = None, form: Form = ini_form) -> Config:
        if text is not None:
            (folder / name).write_text(text)
        return load(str(folder / name), environ={}, form=form)

    return loaded


@pytest.fixture
def converted(folder: Path) -> Convert:
    """Converts a text."""

    def done(text: str) -> Imported:
        (folder / "text.ini").write_text(text)
        return convert("text.ini", Disk())

    return done


class PgBouncer:
    """The real one, with a configuration whose place to listen it is given here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, text: str) -> bool:
        """Whether it loads this: sections, of which the last one is [pgbouncer]."""
        own = f"\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
        ini = self.folder / "pgbouncer.ini"
        ini.write_text(text + own)
        log = self.folder / "pgbouncer.log"
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                ["pgbouncer", ini], stdout=stream, stderr=stream, **_Account.choose().popen
            )
        deadline = time.monotonic() + 15
        while b"process up" not in log.read_bytes():
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return True

    def console(self, command: str) -> list[dict[str, object]]:
        """The rows of a SHOW, by column."""
        dsn = f"host=127.0.0.1 port={self.port} user=any dbname=pgbouncer"
        with psycopg.ClientCursor(psycopg.connect(dsn, autocommit=True)) as cursor:
            cursor.execute(command)
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            cursor.connection.close()
        return rows

    def stop(self) -> None:
        """SIGKILL: it has nothing to lose."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def pgbouncer(tmp_path: Path) -> Iterator[PgBouncer]:
    """PgBouncer, not started."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed: nothing was compared with it")
    for above in (tmp_path, *tmp_path.parents):  # it does not run as root, and has to get there
        if above.owner() == "root" and above.stat().st_mode & 0o055 != 0o055:
            above.chmod(above.stat().st_mode | 0o055)
    with ExitStack() as stack:
        bouncer = PgBouncer(tmp_path)
        stack.callback(bouncer.stop)
        yield bouncer
