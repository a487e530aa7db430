"""`oneloop publish` and `oneloop subscribe`: a machine without redis-cli is enough."""

import json
import os
import subprocess
import threading
from types import SimpleNamespace

import pytest
from helpers.process import BINARY, DEADLINE, environment, eventually, oneloop, run
from helpers.tcp_proxy import TcpProxy
from helpers.tokens import SECRET, token

HELLO = {"hello": "world"}


class Ear:
    """An `oneloop subscribe` that runs, and what it has printed so far."""

    def __init__(self, *arguments, **variables):
        self.process = subprocess.Popen(
            [BINARY, "subscribe", *map(str, arguments)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**variables),
        )
        self.lines, self.notes = [], []
        pipes = [(self.process.stdout, self.lines), (self.process.stderr, self.notes)]
        self.readers = [threading.Thread(target=self.keep, args=pipe, daemon=True) for pipe in pipes]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def keep(pipe, kept):
        for line in pipe:
            kept.append(line.decode().rstrip("\n"))

    def noted(self, text):
        eventually(lambda: any(text in note for note in self.notes), f"{text!r} in {self.notes}")

    def end(self):
        """Waits for its exit status; by then all that it printed is kept."""
        status = self.process.wait(timeout=DEADLINE)
        for reader in self.readers:
            reader.join(DEADLINE)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def publish(server, *words, flags=(), **options):
    host, port = server.publishers
    return run(BINARY, "publish", "--publishers", f"{host}:{port}", *flags, *words, **options)


async def test_publish_reaches_whom_the_topic_names_and_says_how_many(server):
    async with server.client("42") as client, server.client("7") as bystander:
        done = publish(server, "pub.user.42", json.dumps(HELLO))
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
        done = publish(server, "pub.user.42", "-", input='{"by":"stdin"}\n')
        assert (done.returncode, done.stdout) == (0, "1\n")
        assert publish(server, "pub.user.42", input="no JSON").stdout == "1\n"
        done = publish(server, "pub.user.9", "{}")
        assert (done.returncode, done.stdout) == (0, "0\n")
        assert "no connected client has subscribed to pub.user.9" in done.stderr
        heard = [HELLO, {"by": "stdin"}, "no JSON"]
        assert await client.heard() == [("user.42", data) for data in heard]
        assert await bystander.heard() == []


def test_what_cannot_be_published_is_said(server, start, tmp_path):
    for words, status, text in [
        (("user.42", "{}"), 1, "write pub.user.42"),
        (("pub.room 7", "{}"), 1, "names no topic"),
        ((), 2, "oneloop publish pub.user.42"),
        (("a", "b", "c"), 2, "oneloop publish pub.user.42"),
        (("pub.a", "x" * 2000), 1, "payload_bytes_max is 1024"),
    ]:
        done = publish(server, *words, flags=("--payload-bytes-max", "1024"))
        assert done.returncode == status and text in done.stderr, done
        assert done.stdout == "" and "\x1b" not in done.stderr
    assert oneloop("publish", "--publishers", "127.0.0.1:1", "pub.a", "{}").returncode == 1
    password = tmp_path / "password"
    password.write_text("hush hush")
    locked = start("--publishers-password-file", password)
    done = publish(locked, "pub.a", "{}")
    assert done.returncode == 1 and "password" in done.stderr
    assert publish(locked, "pub.a", "{}", flags=("--publishers-password-file", password)).stdout == "0\n"


def test_subscribe_prints_what_comes_and_nothing_else(server):
    secret = {"ONELOOP_JWT_SECRET": SECRET}
    url = f"{server.url}/ws"
    with Ear("--url", url, "--sub", "42", "--count", "2", "room.7", **secret) as ear, \
            Ear("--url", url, "--token", token("7"), "--json") as bystander:
        ear.noted("connected as user 42; topics: news, room.7, user.42")
        bystander.noted("connected as user 7; topics: news, user.7")
        server.publish("user.42", HELLO)
        server.publish("room.7", '{"a":1.0,"\\u001b":"\x7f\u202e"}')
        assert ear.end() == 0
        assert ear.lines == ['user.42 {"hello": "world"}', 'room.7 {"a":1.0,"\\u001b":"\\u007f\\u202e"}']
        server.publish("user.7", "over")
        eventually(lambda: len(bystander.lines) == 2, "the welcome and one message")
        assert [json.loads(line).get("topic") for line in bystander.lines] == [None, "user.7"]


def test_a_message_never_makes_the_terminal_obey(start):
    server = start("--format", "raw")
    with Ear("--url", f"{server.url}/ws", "--token", token("42"), "--count", "1") as ear:
        eventually(lambda: server.publish("user.42", "\x1b]0;owned\x07\x9b2J\r\nrm"), "it is there")
        assert ear.end() == 0
        assert ear.lines == ["\\u001b]0;owned\\u0007\\u009b2J  rm"]


def test_without_a_key_the_token_of_the_page_is_shown(start):
    server = start(key=False)
    with Ear("--url", f"{server.url}/ws", "--count", "1") as ear:
        ear.noted("connected as user 42; topics: news, user.42")
        server.publish("news", HELLO)
        assert ear.end() == 0 and ear.lines == ['news {"hello": "world"}']


def test_subscribe_comes_back_and_misses_nothing(server):
    with TcpProxy(SimpleNamespace(server_port=server.address[1])) as line, \
            Ear("--url", f"ws://127.0.0.1:{line.port}/ws", "--token", token("42"), "--count", "2") as ear:
        ear.noted("connected as user 42")
        server.publish("user.42", 1)
        eventually(lambda: ear.lines, "the first message")
        line.fail_over(line.target)
        ear.noted("next attempt in")
        server.publish("user.42", 2)
        assert ear.end() == 0 and ear.lines == ["user.42 1", "user.42 2"]
        assert not any("gap" in note for note in ear.notes)


def test_an_end_is_told_in_words(server):
    url = f"{server.url}/ws"
    for arguments, text in [
        (("--token", token("42", seconds=-60)), "the token is refused (4500): expired"),
        (("--token", token("42"), "--url", f"{server.url}/nowhere"), "nothing is served at that path (HTTP 404)"),
    ]:
        with Ear("--url", url, *arguments) as ear:
            assert ear.end() == 1
            ear.noted(text)
    with Ear("--url", url, "--token", token("42"), "room.7") as ear:
        ear.noted("room.7: forbidden: the token does not permit it")
    done = oneloop("subscribe", "--url", url, "--sub", "42")
    assert done.returncode == 2 and "--sub needs the secret" in done.stderr
    done = oneloop("subscribe", "--url", "wss://push.invalid/ws", "--sub", "42", "--token", "x")
    assert done.returncode == 2 and "keep one of them" in done.stderr


@pytest.mark.parametrize("words", [("help",), ("version",)])
def test_help_and_version_are_commands_too(words):
    assert oneloop(*words).stdout == oneloop(f"--{words[0]}").stdout != ""


CONFIGURATIONS = {
    "nothing set": ([], {}),
    "a password": (["--publishers-password-file", "password"], {}),
    "a password in a variable": ([], {"ONELOOP_PUBLISHERS_PASSWORD": "hush hush"}),
    "IPv6": (["--publishers", "[::1]:0"], {}),
    "all addresses": (["--publishers", "0.0.0.0:0", "--publishers-password-file", "password"], {}),
    "another prefix": (["--prefix", "it's:"], {}),
    "no prefix": (["--prefix="], {}),
    "a file": (["--config", "oneloop.toml"], {}),
}


def without_redis_cli(folder):
    """A PATH that has all but redis-cli."""
    for name in ["sh", "cat"]:
        if not (folder / name).exists():
            os.symlink(f"/bin/{name}", folder / name)
    return str(folder)


async def works(server, folder, command, variables):
    async with server.client("42", bearer=server.line("token")) as client:
        path = folder if isinstance(folder, str) else os.environ["PATH"]
        done = run("sh", "-c", command, env=environment(PATH=path))
        assert done.returncode == 0, (command, done)
        assert done.stdout.strip() == "1", (command, done)
        assert (await client.next())["data"] == HELLO
    for secret in ["hush", *variables.values()]:
        assert secret not in server.output.read_text()


@pytest.mark.parametrize("has_redis_cli", [True, False])
@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_the_printed_line_works_as_printed(start, tmp_path, monkeypatch, name, has_redis_cli):
    flags, variables = CONFIGURATIONS[name]
    (tmp_path / "password").write_text("hush hush")
    (tmp_path / "oneloop.toml").write_text(
        'prefix = "p:"\npublishers = "127.0.0.1:0"\npublishers_password_file = "password"\n')
    monkeypatch.chdir(tmp_path)
    variables = dict(variables)
    folder = tmp_path / "bin"
    folder.mkdir()
    if not has_redis_cli:
        variables["PATH"] = without_redis_cli(folder)
    server = start(*flags, key=False, variables=variables)
    monkeypatch.chdir("/")
    variables.pop("PATH", None)
    # A shell of its own, that knows nothing of the server's variables.
    await works(server, None if has_redis_cli else str(folder), server.line("try"), variables)


@pytest.mark.parametrize("has_redis_cli", [True, False])
@pytest.mark.parametrize("password", [None, "hush-hush"])
async def test_it_works_with_a_redis_too(start, start_redis, tmp_path, has_redis_cli, password):
    variables, redis = {}, start_redis(password=password)
    if not has_redis_cli:
        variables["PATH"] = without_redis_cli(tmp_path)
    server = start(key=False, redis=redis, variables=variables)
    await works(server, None if has_redis_cli else str(tmp_path), server.line("try"), {})


def test_a_process_that_is_no_server_lends_no_settings():
    for pid, text in [(1 << 22, "No such file"), (os.getpid(), "is no oneloop that serves")]:
        done = oneloop("publish", "--pid", pid, "pub.news", "{}")
        assert done.returncode == 2 and text in done.stderr, done
