import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from alert_site import Here
from hook_receiver import SECRET, Receiver, receiving
from lake_site import Site
from s3_server import S3, s3_server
from sqlalchemy import create_engine, text

from dsops_controller.dataops.lake.places import Folder, Place

PG_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def cluster() -> Iterator[str]:
    """Run a private PostgreSQL on a socket in its own folder; yield the folder."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    as_user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "nobody")
    binaries = PG_BINARIES[-1].parent
    options = f"-k {folder} -c listen_addresses= -c fsync=off"

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], cwd=folder, check=True, capture_output=True)

    try:
        run(str(binaries / "initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "dsops", "--no-sync", "-E", "UTF8")
        run(str(binaries / "pg_ctl"), "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            yield str(folder)
        finally:
            run(str(binaries / "pg_ctl"), "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a lake is: in an object store when the parameter of ``new_url`` is "s3", else in a folder."""
    if request.node.callspec.params["new_url"] != "s3":
        return Folder(tmp_path / "lake")
    server: S3 = request.getfixturevalue("s3")
    return server.place()


@pytest.fixture
def site(new_url: Callable[[Path], str], place: Place, tmp_path: Path) -> Iterator[Site]:
    made = Site(new_url(tmp_path), place)
    yield made
    made.close()


@pytest.fixture
def here(tmp_path: Path, new_url: Callable[[Path], str]) -> Here:
    (tmp_path / "hook.secret").write_text(SECRET + "\n")
    return Here(tmp_path, new_url(tmp_path))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def new_url(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    if request.param in {"sqlite", "s3"}:
        yield lambda folder: f"sqlite:///{folder}/state.db"
        return
    if not PG_BINARIES:
        pytest.skip("PostgreSQL's initdb is not installed under /usr/lib/postgresql")
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'dsops[postgresql]'")
    running: AbstractContextManager[str] = cluster()
    with running as socket:
        numbers = iter(range(1000))

        def create(_folder: Path) -> str:
            name = f"db{next(numbers)}"
            admin = create_engine(f"postgresql+psycopg://dsops@/postgres?host={socket}", isolation_level="AUTOCOMMIT")
            with admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            admin.dispose()
            return f"postgresql+psycopg://dsops@/{name}?host={socket}"

        yield create
