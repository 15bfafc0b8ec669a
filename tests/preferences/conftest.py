"""Both databases: SQLite in a file, and a PostgreSQL server of the tests' own where its programs are installed."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from trivium.preferences.judgement import Sample
from trivium.preferences.store import PreferenceStore

URL_VARIABLE = "TRIVIUM_TEST_POSTGRES"
"""A `postgresql://` URL of a server to use instead, whose schemas the tests may make and drop."""


def _program(name: str) -> Path | None:
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]
    return next((folder / name for folder in folders if (folder / name).exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server on a socket of its own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra `postgres`)")
    if url := os.environ.get(URL_VARIABLE):
        yield url
        return
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip(f"no PostgreSQL server is installed, and {URL_VARIABLE} names none")
    user = None
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="trivium-pg-"))  # pytest's own folders are closed to other users
    data = folder / "data"

    def call(*command: object) -> None:
        words = [str(word) for word in command]
        done = subprocess.run(words, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)
        assert done.returncode == 0, done.stderr.decode()

    try:
        if user is not None:
            shutil.chown(folder, user)
        call(initdb, "-D", data, "-U", "trivium", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses='' -c fsync=off -c shared_buffers=16MB -k {folder}"
        call(pg_ctl, "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql://trivium@/postgres?host={quote(str(folder), safe='')}"
        finally:
            call(pg_ctl, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_numbers = itertools.count()


@pytest.fixture
def postgres_location(postgres: str) -> Iterator[str]:
    """URL of an empty schema."""
    import psycopg

    schema = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())  # a name cannot be a value
        yield f"{postgres}&options={quote(f'-csearch_path={schema}', safe='')}"
        connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_location")
    return str(tmp_path / "preferences.db")


@pytest.fixture
def store(location: str) -> Iterator[PreferenceStore]:
    """An empty store, in either database."""
    with PreferenceStore(location) as opened:
        yield opened


MODEL = "model-f00d"


def add_answers(store: PreferenceStore, prompts: int, answers: int = 2) -> list[str]:
    """Prompts with so many distinct answers each, the first of which passes its tests; their names."""
    names = store.add_prompts((f"def f{at:04}(x):\n", f"task-{at}", "") for at in range(prompts))
    with store.transaction():
        for at, name in enumerate(names):
            store.add_samples(
                (
                    name,
                    Sample(
                        text=f"    return x + {at} * {index}\n",
                        model=MODEL,
                        sample=index,
                        passed=index == 0,
                        tests_passed=4 if index == 0 else 1,
                        tests_total=4,
                        verdict="passed" if index == 0 else "failed",
                    ),
                )
                for index in range(answers)
            )
    return names


@pytest.fixture(scope="session")
def with_answers() -> Callable[..., list[str]]:
    """`with_answers(store, prompts, answers=2)`: see `add_answers`."""
    return add_answers


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Any]:
    """The page of twelve pairs."""
    from label_site import Site

    made = Site(str(tmp_path / "preferences.db"))
    add_answers(made.store, 12)
    made.configure()
    yield made
    made.store.close()
