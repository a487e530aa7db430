"""Fixtures that start processes and end each of them, and the one hook that runs async tests."""

import asyncio
import contextlib
import inspect
import os
import resource

import pytest
from helpers.certificates import Authority
from helpers.loops import LOOPS, processes
from helpers.process import BINARY, eventually
from helpers.redis_server import Redis, TlsSettings, Trio
from helpers.server import Server
from helpers.upgrade import UNDER

# An async test that hangs fails after this many seconds.
TEST_SECONDS = 120


def pytest_configure(config):
    config.addinivalue_line("markers", "over_tls: runs twice, with a plain Redis and with one that speaks TLS")
    config.addinivalue_line("markers", "alone: measures times, so that no other test may run beside it")
    config.addinivalue_line("markers", "plain: is about a plain listener, or about bytes on its socket")
    config.addinivalue_line("markers", "one_loop(why): expects of a whole server something that each of several loops has for itself")


def pytest_collection_modifyitems(config, items):
    left_out = [("--over-tls", "plain"), ("--loops", "one_loop")]
    names = [name for option, name in left_out if config.getoption(option)]
    deselected = [item for item in items if any(map(item.get_closest_marker, names))]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def pytest_addoption(parser):
    parser.addoption("--over-tls", action="store_true", help="clients come by TLS")
    parser.addoption("--loops", help="servers have as many loops, unless a test says how many")


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """An authority that signs certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session", autouse=True)
def clients_over_tls(request):
    """Gives servers a certificate if their clients come by TLS."""
    if request.config.getoption("--over-tls"):
        Server.authority = request.getfixturevalue("authority")


def pytest_sessionstart(session):
    Server.loops = session.config.getoption("--loops")
    if not os.access(BINARY, os.X_OK):
        pytest.exit(f"no binary at {BINARY}: run `cargo build --release` first", returncode=2)
    # A thousand clients live in this process; a login shell often allows 1,024 descriptors.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), TEST_SECONDS))
    return True


@pytest.fixture
def start():
    """Starts servers: `start(*flags, redis=…)`. Each must end in good order after the test."""
    servers = []

    def start(*flags, ready=True, **options):
        server = Server(*flags, **options)
        servers.append(server)
        if ready and options.get("redis"):
            server.wait_ready()
        return server

    with contextlib.ExitStack() as ends:
        ends.callback(lambda: [print(server.log()) for server in servers])
        yield start
        for server in servers:
            ends.callback(server.stop)


@pytest.fixture
def start_loops(start):
    """Starts servers of several loops."""
    def start_loops(*flags, loops=LOOPS, **options):
        server = start("--loops", loops, *flags, **options)
        # The log may be behind the lines of the start.
        eventually(lambda: len(processes(server)) == loops, "all loops have begun")
        return server

    return start_loops


@pytest.fixture
def program(tmp_path):
    """A file that is the binary, until a test puts something else there."""
    path = tmp_path / "oneloop"
    path.symlink_to(BINARY)
    return path


@pytest.fixture
def begin(start, program):
    """Starts servers that an upgrade replaces by what lies in the file of `program`."""
    def begin(*flags, **options):
        return start("--topics", "news", *flags, wrapper=(*UNDER, program), **options)
    return begin


@pytest.fixture
def server(start):
    """A server with a key and an embedded publishers' port; every user may subscribe to `news`."""
    return start("--topics", "news")


def pytest_generate_tests(metafunc):
    if "security" in metafunc.fixturenames and metafunc.definition.get_closest_marker("over_tls"):
        metafunc.parametrize("security", ["plain", "tls"])


@pytest.fixture
def security():
    """The security of the servers' way to Redis, `plain` or `tls`."""
    return "plain"


@pytest.fixture
def start_redis(security, request):
    """Starts Redis servers: `start_redis(password=…)`."""
    with contextlib.ExitStack() as ends:
        def start_redis(*arguments, **options):
            if security == "tls":
                options = {"tls": TlsSettings(request.getfixturevalue("authority"))} | options
            redis = Redis(*arguments, **options)
            ends.callback(redis.end)
            return redis

        yield start_redis


@pytest.fixture
def redis(start_redis):
    return start_redis()


@pytest.fixture
def trio(start_redis, tmp_path):
    """Three Sentinels that watch a primary and two replicas."""
    primary = start_redis()
    replicas = [start_redis("--replicaof", "127.0.0.1", str(primary.port)) for _ in range(2)]
    trio = Trio(tmp_path, primary, *replicas)
    with contextlib.ExitStack() as ends:
        ends.callback(trio.end)
        yield trio
