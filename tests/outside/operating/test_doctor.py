"""`oneloop doctor`: what stands between a machine and the settings, each finding with what mends it."""

import asyncio
import contextlib
import glob
import re
import socket
import threading

import pytest
from helpers.nginx import UPGRADE, Certificate, Nginx
from helpers.ports import free_port
from helpers.process import BINARY, DEADLINE, environment, eventually, oneloop, run
from helpers.raw_client import Raw
from helpers.redis_server import Sentinel
from helpers.server import counter
from helpers.tokens import SECRET, token

LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")

TOPICS = ("--topics", "news")


class Findings:
    """The output of one run: `findings["listen"]` is a list of (level, observation, remedy)."""

    def __init__(self, done):
        self.text, self.status = done.stdout, done.returncode
        assert done.stderr == "", done.stderr
        self.found = {}
        for line in done.stdout.splitlines():
            if match := re.match(r"(ok|unseen|warning|problem) +(\S+) +(.*)$", line):
                level, name, seen = match.groups()
                last = [level, seen, ""]
                self.found.setdefault(name, []).append(last)
            elif line.startswith("         mend: "):
                last[2] = line.strip()
        levels = [level for found in self.found.values() for level, *_ in found]
        problems, warnings = levels.count("problem"), levels.count("warning")
        last_line = f"problems: {problems}, warnings: {warnings}"
        assert done.stdout.splitlines()[-1] == last_line
        assert self.status == (1 if problems else 0), self.text

    def __getitem__(self, name):
        """The worst of that name."""
        assert name in self.found, f"{name} is missing:\n{self.text}"
        order = ["ok", "unseen", "warning", "problem"]
        return max(self.found[name], key=lambda finding: order.index(finding[0]))

    def problems(self):
        return [name for name, found in self.found.items() if "problem" in [one[0] for one in found]]


def doctor(*flags, wrapper=(), listen=None, **variables):
    """Runs `oneloop doctor`, by default for a server that does not run."""
    listen = listen or f"127.0.0.1:{free_port()}"
    variables = {"ONELOOP_JWT_SECRET": SECRET} | variables
    flags = ["--listen", listen, *flags]
    if "--redis" not in flags:
        flags += ["--publishers", "127.0.0.1:0"]
    return Findings(run(*wrapper, BINARY, "doctor", *flags, env=environment(**variables)))


@pytest.fixture
def front(tmp_path):
    """Puts an nginx in front of a server: `front(server, lines, certificate)`."""
    with contextlib.ExitStack() as ends:
        def front(*arguments, **options):
            nginx = Nginx(tmp_path, *arguments, **options)
            ends.callback(nginx.end)
            return nginx

        yield front


def visit(server, url, *flags, **variables):
    """A look at a public address, with the settings of the server that stands behind."""
    return doctor("--url", url, *TOPICS, *flags, listen=server.host, **variables)


# ---- the machine, and the listeners


def test_a_machine_that_is_good_has_no_problem_and_status_0():
    found = doctor()
    assert found.problems() == []
    assert found["listen"][0] == "ok" and "is free" in found["listen"][1]
    for name in ["descriptors", "somaxconn", "syn-backlog", "memory", "ports"]:
        assert found[name][0] in ("ok", "warning")


def test_bad_settings_have_status_2():
    for flags in [["--listen", "0.0.0.0:1"], ["--url", "http://h/"], ["--wait", "x"],
                  ["--topics", "a b"]]:
        done = oneloop("doctor", *flags)
        assert done.returncode == 2 and done.stdout == "" and "oneloop: " in done.stderr, flags


def test_too_few_descriptors_are_a_problem_with_the_limit_to_set():
    found = doctor("--clients-max", 20_000, wrapper=["prlimit", "--nofile=1024:1024"])
    level, seen, mend = found["descriptors"]
    assert level == "problem" and "room for 896 clients" in seen
    assert "LimitNOFILE=20480" in mend and "ulimit -n 20480" in mend
    found = doctor("--clients-max", 896, wrapper=["prlimit", "--nofile=1024:1024"])
    assert found["descriptors"][0] == "ok"


def test_the_descriptors_of_the_running_server_are_those_that_count(start):
    server = start(wrapper=["prlimit", "--nofile=5000:5000"])
    admin = server.line("admin").removeprefix("http://")
    found = doctor("--admin", admin, listen=server.host)
    assert found["descriptors"][1].startswith("limit 5000 (running server)")


def test_each_of_several_loops_has_the_descriptors_of_its_process(start):
    server = start("--loops", 3, wrapper=["prlimit", "--nofile=1024:1024"])
    admin = server.line("admin").removeprefix("http://")
    found = doctor("--admin", admin, "--loops", 3, listen=server.host)
    seen = "limit 1024 (running server), room for 2688 clients in 3 loops"
    assert found["descriptors"][1] == seen


def test_memory_for_more_clients_than_fit_is_a_problem_with_the_number_that_fits():
    # A tebibyte of backlogs is more than the machine has: no number of clients fits, but one for all memory does.
    bounds = ["--clients-max", 100, "--backlog-total-bytes-max", "1048576MiB"]
    level, _, mend = doctor(*bounds)["memory"]
    assert level == "problem"
    fits = re.fullmatch(r"mend: memory_max = (\d+)", mend)[1]
    assert doctor(*bounds, "--memory-max", fits)["memory"][0] == "ok"


def test_a_running_server_is_recognised_and_its_health_told(start):
    server = start()
    admin = server.line("admin").removeprefix("http://")
    found = doctor("--admin", admin, listen=server.host)
    assert "is served by a oneloop" in found["listen"][1]
    assert [seen for _, seen, _ in found.found["admin"]] == [
        f"http://{admin}/healthz: ok", f"http://{admin}/readyz: ok"]


def test_a_server_that_is_not_ready_is_a_problem(start, redis):
    server = start(redis=redis)
    redis.kill()
    server.wait_ready(False)
    admin = server.line("admin").removeprefix("http://")
    found = doctor("--admin", admin, "--redis", redis.url, listen=server.host)
    assert found["admin"][:2] == ["problem", f"http://{admin}/readyz: no link to Redis"]
    assert found["redis"][0] == "problem" and "no connection to Redis" in found["redis"][1]


def test_a_stranger_at_the_address_is_a_problem(redis):
    found = doctor(listen=f"127.0.0.1:{redis.port}")
    level, seen, mend = found["listen"]
    assert level == "problem" and "no oneloop" in seen
    assert f"ss -ltnp 'sport = :{redis.port}'" in mend


def test_a_server_that_only_proxies_reach_is_recognised(start):
    flags = ["--proxies", "127.0.0.1", "--proxy-protocol", "v2"]
    server = start(*flags)
    found = doctor(*flags, listen=server.host)
    assert found["listen"][0] == "ok" and "is served by a oneloop" in found["listen"][1]
    assert counter(server, "unproxied_total") == 0
    flags[1] = "192.0.2.1"
    server = start(*flags)
    found = doctor(*flags, listen=server.host)
    assert found["listen"][0] == "unseen" and "only proxies are told" in found["listen"][1]
    # The other server is not asked either: its log would complain.
    assert counter(server, "unproxied_total") == 0


def test_a_server_that_has_too_many_of_this_address_is_recognised(start):
    """As behind a proxy that is not in `proxies`."""
    server = start("--clients-per-address-max", "1")
    with contextlib.ExitStack() as ends:
        for _ in range(5):
            ends.enter_context(Raw(server))
        found = doctor(listen=server.host)
    assert found["listen"][0] == "ok" and "(it answered 429)" in found["listen"][1]


def test_an_address_of_another_machine_is_a_problem():
    level, seen, _ = doctor(listen="192.0.2.1:8099")["listen"]
    assert level == "problem" and "cannot be had" in seen


# ---- Redis


def test_a_redis_with_all_rights_is_good(redis):
    found = doctor("--redis", redis.url, "--streams", "orders", "--receipts", "receipts",
                   "--upstream", "stream:up", "--events", "stream:evt", "--control", "ctl")
    assert found.problems() == []
    rights = [seen for _, seen, _ in found.found["redis-rights"]]
    assert len(rights) == 7 and all(level == "ok" for level, *_ in found.found["redis-rights"])
    assert found["clock"][0] == "ok" and found["redis-buffer"][0] == "ok"
    # A look changes nothing.
    assert redis.command("DBSIZE") == 0


async def test_a_look_tells_clients_nothing(start, redis):
    server = start("--topics", "news", redis=redis)
    async with server.client("42") as bystander:
        found = doctor("--redis", redis.url, "--upstream", "channel:pub.user.42")
        assert found["redis-rights"][0] == "ok" and "to write to pub.user.42" in found.text
        assert await bystander.heard() == []


@pytest.mark.parametrize(("url", "part"), [
    ("redis://127.0.0.1:{port}", "it wants a password"),
    ("redis://:wrong-hunter2@127.0.0.1:{port}", "the user or the password in the URL is wrong"),
])
def test_a_password_that_is_missing_or_wrong_is_named(start_redis, url, part):
    redis = start_redis(password="hunter2")
    found = doctor("--redis", url.format(port=redis.port))
    assert found["redis"][0] == "problem" and part in found["redis"][1]
    assert "hunter2" not in found.text
    assert doctor("--redis", redis.url)["redis"][0] == "ok"


def test_each_right_that_is_missing_comes_with_the_rule_that_grants_it(redis):
    settings = ["--streams", "orders", "--receipts", "receipts", "--upstream", "stream:up",
                "--events", "stream:evt"]
    user = ["ACL", "SETUSER", "bob", "on", ">secret", "+ping", "+client|setname", "+multi",
            "+discard", "resetchannels"]
    redis.command(*user)
    url = redis.url_of("bob:secret")
    found = doctor("--redis", url, *settings)
    refused = [mend for level, _, mend in found.found["redis-rights"] if level == "problem"]
    assert len(refused) == 5 and "secret" not in found.text
    for mend in refused:
        # As a person pastes it.
        done = run("sh", "-c", mend.removeprefix("mend: "))
        assert (done.stdout.strip(), done.stderr) == ("OK", ""), mend
    found = doctor("--redis", url, *settings)
    assert found.problems() == [], found.text
    for name in ["redis-info", "redis-buffer", "redis-timeout", "redis-way"]:
        assert found[name][0] == "unseen" and found[name][1].startswith("not looked at: "), found.text
    assert redis.command("DBSIZE") == 0


def test_a_right_that_is_missing_is_found_while_messages_come(redis):
    """They come between the answers to one subscription and to the next."""
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "+@all", "resetchannels", "&pub.*")
    ended = threading.Event()

    def publish():
        with contextlib.closing(redis.publisher()) as publisher:
            while not ended.is_set():
                for _ in range(100):
                    publisher.send("PUBLISH", "pub.news", "m")
                for _ in range(100):
                    publisher.reply()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        found = doctor("--redis", redis.url_of("bob:secret"), "--control", "ctl")
    finally:
        ended.set()
        thread.join()
    assert found.problems() == ["redis-rights"] and "PSUBSCRIBE ctl: NOPERM" in found.text


def test_a_right_that_cannot_be_tried_is_a_warning_and_nothing_is_written(redis):
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "allkeys", "allchannels", "+@all",
                  "-multi")
    url = redis.url_of("bob:secret")
    found = doctor("--redis", url, "--upstream", "stream:up")
    assert found["redis-rights"][0] == "warning" and "+multi +discard" in found["redis-rights"][2]
    assert redis.command("DBSIZE") == 0


def test_a_buffer_that_is_small_comes_with_one_that_is_not(redis):
    for limits, level in [("pubsub 1mb 512kb 60", "warning"), ("pubsub 64kb 64kb 60", "problem"),
                          ("pubsub 0 0 0", "ok")]:
        redis.command("CONFIG", "SET", "client-output-buffer-limit", limits)
        found = doctor("--redis", redis.url)["redis-buffer"]
        assert found[0] == level, found
        if level != "ok":
            words = found[2].split("CONFIG SET client-output-buffer-limit ")[1]
            assert words == '"pubsub 32mb 8mb 60"'
            redis.command("CONFIG", "SET", "client-output-buffer-limit", words.strip('"'))
            assert doctor("--redis", redis.url)["redis-buffer"][0] == "ok"


def test_a_redis_that_may_lose_streams_says_so(redis):
    streams = ["--redis", redis.url, "--streams", "orders"]
    assert "appendonly is no" in doctor(*streams)["redis-disk"][1]
    redis.command("CONFIG", "SET", "maxmemory", "100mb")
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    level, seen, mend = doctor(*streams)["redis-memory"]
    assert level == "problem" and "allkeys-lru" in seen
    assert mend.endswith("CONFIG SET maxmemory-policy noeviction")
    assert "redis-memory" not in doctor("--redis", redis.url).found
    redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis.command("CONFIG", "SET", "appendonly", "yes")
    found = doctor(*streams)
    assert found["redis-memory"][0] == "ok" and found["redis-disk"][1] == "appendonly is yes"


@pytest.mark.parametrize(("command", "flags"), [
    ("PSUBSCRIBE", []), ("XINFO", ["--streams", "orders"]), ("XREAD", ["--streams", "orders"]),
    ("EVAL", ["--events", "stream:evt"]), ("XADD", ["--upstream", "stream:up"]),
    ("PUBLISH", ["--receipts", "receipts"]),
])
def test_a_command_that_redis_does_not_have_is_a_problem(start_redis, command, flags):
    redis = start_redis("--rename-command", command, "")
    found = doctor("--redis", redis.url, *flags)
    assert found["redis-rights"][0] == "problem" and f"Redis has no command {command}" in found["redis-rights"][1]
    assert f"take rename-command {command} out of redis.conf" in found["redis-rights"][2]


def test_a_redis_that_cuts_idle_connections_is_a_problem(redis):
    redis.command("CONFIG", "SET", "timeout", "5")
    found = doctor("--redis", redis.url, "--streams", "orders")
    assert found["redis-timeout"][0] == "problem" and found["redis-timeout"][2].endswith("CONFIG SET timeout 0")
    # A subscription is not cut.
    assert doctor("--redis", redis.url)["redis-timeout"][0] == "ok"
    assert doctor("--redis", redis.url, "--streams", "orders", "--redis-silence-seconds", 3)["redis-timeout"][0] == "ok"


def test_what_carries_no_messages_is_a_problem(start_redis, redis, tmp_path):
    assert [seen for level, seen, _ in doctor("--redis", redis.url).found["redis-way"]] == [
        "a master", "a message that was published there came back"]
    sentinel = Sentinel(tmp_path, redis)
    with contextlib.ExitStack() as ends:
        ends.callback(sentinel.end)
        level, seen, mend = doctor("--redis", sentinel.url)["redis-way"]
    assert level == "problem" and "a Sentinel" in seen and "GET-MASTER-ADDR-BY-NAME" in mend
    replica = start_redis("--replicaof", "127.0.0.1", str(redis.port))
    eventually(lambda: "master_link_status:up" in replica.command("INFO"), "it follows")
    found = doctor("--redis", replica.url)
    assert found.problems() == [] and "a replica in sync" in found.text
    redis.kill()
    eventually(lambda: "master_link_status:down" in replica.command("INFO"), "it has lost it")
    assert "cut off from its primary" in doctor("--redis", replica.url)["redis-way"][1]
    cluster = start_redis("--cluster-enabled", "yes")
    assert "a node of a cluster" in doctor("--redis", cluster.url).text


def test_a_replica_takes_no_writes(start_redis, redis):
    replica = start_redis("--replicaof", "127.0.0.1", str(redis.port))
    eventually(lambda: "master_link_status:up" in replica.command("INFO"), "it follows")
    found = doctor("--redis", replica.url, "--upstream", "stream:up")
    assert found["redis-role"][0] == "problem" and "primary" in found["redis-role"][2]
    assert "redis-role" not in doctor("--redis", replica.url).found


def test_a_redis_without_room_is_a_problem(start_redis):
    redis = start_redis("--maxclients", "3")
    level, seen, mend = doctor("--redis", redis.url)["redis-clients"]
    assert level == "ok" and "of 3 connections" in seen
    with contextlib.closing(redis.publisher()) as other:
        assert other.command("PING") == "+PONG"
        level, seen, mend = doctor("--redis", redis.url)["redis-clients"]
    assert level == "problem" and mend.endswith("CONFIG SET maxclients 103")


def test_a_clock_that_is_off_is_a_warning(redis):
    assert LIBRARY, "libfaketime is missing: tests/run installs it"
    for off, word in [("+60s", "ahead of"), ("-60s", "behind")]:
        found = doctor("--redis", redis.url, LD_PRELOAD=LIBRARY[0], FAKETIME=off,
                       FAKETIME_DONT_FAKE_MONOTONIC="1")
        level, seen, _ = found["clock"]
        assert level == "warning" and word in seen, found.text


def test_something_that_is_no_redis_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        port = listener.getsockname()[1]

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = doctor("--redis", f"redis://127.0.0.1:{port}")
        thread.join()
    assert found["redis"][0] == "problem" and "not Redis" in found["redis"][1]


# ---- the public address


def test_a_public_address_is_checked_to_the_first_ping(start, front):
    server = start("--ping-seconds", 2, *TOPICS)
    nginx = front(server)
    found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws", "--ping-seconds", 2)
    assert found.problems() == [], found.text
    for name in ["name", "connect", "upgrade", "protocol", "origin", "welcome", "silence"]:
        assert found[f"url-{name}"][0] == "ok", found.text
    assert "the ping came after" in found["url-silence"][1]


def test_a_proxy_that_cuts_before_the_ping_is_found(start, front):
    server = start(*TOPICS)
    nginx = front(server, UPGRADE + "proxy_read_timeout 2s;")
    found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws")
    level, seen, mend = found["url-silence"]
    assert level == "problem" and re.fullmatch(
        r"the proxy closed it after \d+ s of silence; ping_seconds is 25", seen)
    assert "proxy_read_timeout 75s;" in mend


async def test_a_talk_is_no_silence(start):
    server = start(*TOPICS)
    async with server.client("42") as bystander:
        looking = asyncio.to_thread(visit, server, f"ws://{server.host}/ws", "--wait", "3s")
        looking = asyncio.create_task(looking)
        while not looking.done():
            server.publish("news", "on and on")
            await asyncio.sleep(0.1)
        assert (await looking)["url-silence"][:2] == ["unseen", "not looked at: messages came all the while"]
        assert await bystander.heard() != []


def test_a_proxy_that_does_not_upgrade_is_found(start, front):
    server = start(*TOPICS)
    nginx = front(server, "")
    level, _, mend = visit(server, f"ws://127.0.0.1:{nginx.port}/ws")["url-upgrade"]
    assert level == "problem" and "proxy_set_header Upgrade $http_upgrade;" in mend


def test_a_proxy_that_keeps_the_host_to_itself_is_found(start, front):
    server = start(*TOPICS)
    nginx = front(server, UPGRADE.replace("proxy_set_header Host $http_host;", ""))
    level, seen, mend = visit(server, f"ws://127.0.0.1:{nginx.port}/ws")["url-welcome"]
    assert level == "problem" and "4505" in seen and "proxy_set_header Host $http_host;" in mend


def test_a_proxy_that_swallows_the_origin_or_the_subprotocol_is_found(start, front):
    server = start(*TOPICS)
    nginx = front(server, UPGRADE + 'proxy_set_header Origin "";')
    found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws", "--wait", "1s")
    assert found["url-origin"][0] == "warning" and "101" in found["url-origin"][1]
    nginx = front(server, UPGRADE + 'proxy_set_header Sec-WebSocket-Protocol "";')
    found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws")
    assert found["url-protocol"][0] == "problem"


def test_a_proxy_that_lets_clients_choose_who_they_are_is_found(start, front):
    identity = ["--identity", "header:X-User", "--proxies", "127.0.0.1"]
    server = start(*TOPICS, *identity)
    for lines, level in [("", "problem"), ('proxy_set_header X-User "";', "ok"), ("proxy_set_header X-User $remote_user;", "ok")]:
        nginx = front(server, UPGRADE + lines)
        found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws", *identity, "--wait", "1s")
        assert found["url-identity"][0] == level, lines
    assert "url-identity" not in visit(server, f"ws://127.0.0.1:{nginx.port}/ws", "--wait", "1s").found


def test_a_proxy_with_nobody_behind_it_is_found(start, front):
    server = start(*TOPICS)
    nginx = front(server)
    server.stop()
    level, seen, mend = visit(server, f"ws://127.0.0.1:{nginx.port}/ws")["url-upgrade"]
    assert level == "problem" and "502" in seen and f"proxy_pass http://{server.host};" in mend


def test_a_path_that_nobody_serves_is_found(start):
    server = start(*TOPICS)
    level, seen, mend = visit(server, f"ws://{server.host}/other")["url-upgrade"]
    assert level == "problem" and "the server answered 404" in seen and "serve /ws" in mend


def test_a_token_that_is_refused_is_found_and_not_shown(start):
    server = start(*TOPICS)
    other = token(secret="another secret of at least thirty-two bytes")
    found = visit(server, f"ws://{server.host}/ws", "--token", other)
    assert found["url-welcome"][:2] == ["problem", "the token is refused (4500)"]
    assert other not in found.text


def test_without_a_secret_a_token_must_be_given(start):
    server = start(key=False)
    done = run(BINARY, "doctor", "--listen", server.host, "--publishers", "127.0.0.1:0",
               "--url", f"ws://{server.host}/ws", "--wait", "1s", env=environment())
    assert Findings(done)["url-welcome"][0] == "warning"
    done = run(BINARY, "doctor", "--listen", server.host, "--publishers", "127.0.0.1:0", "--wait", "1s",
               "--url", f"ws://{server.host}/ws", "--token", server.line("token"),
               env=environment())
    assert Findings(done)["url-silence"][:2] == ["ok", "nobody cut it within 1 s"]


def test_names_and_ports_where_nobody_is_are_found():
    found = doctor("--url", "ws://nobody.invalid/ws")
    assert found["url-name"][0] == "problem" and "url-connect" not in found.found
    found = doctor("--url", f"ws://127.0.0.1:{free_port()}/ws")
    assert found["url-connect"][0] == "problem" and "url-upgrade" not in found.found


# ---- with TLS


def test_a_good_certificate_is_checked_to_the_end(start, front, tmp_path):
    server = start("--ping-seconds", 1, *TOPICS)
    certificate = Certificate(tmp_path)
    nginx = front(server, certificate=certificate)
    url = f"wss://localhost:{nginx.port}/ws"
    found = visit(server, url, "--ping-seconds", 1, SSL_CERT_FILE=str(certificate.authority))
    assert found.problems() == [], found.text
    assert re.match(r"(89|90) days are left \(until ", found["url-expiry"][1])
    assert "the ping came" in found["url-silence"][1]
    # Without the authority no certificate is trusted.
    level, seen, _ = visit(server, url)["url-tls"]
    assert level == "problem" and "this system trusts none of those who signed it" in seen


@pytest.mark.parametrize(("options", "words", "part"), [
    ({"days": 0}, "it has expired (its end: 20", "certbot renew"),
    ({"name": "push.example.com"}, "it is for push.example.com (", "a certificate with this name"),
])
def test_a_certificate_that_is_not_good_is_found(start, front, tmp_path, options, words, part):
    server = start(*TOPICS)
    certificate = Certificate(tmp_path, **options)
    nginx = front(server, certificate=certificate)
    found = visit(server, f"wss://localhost:{nginx.port}/ws",
                  SSL_CERT_FILE=str(certificate.authority))
    level, seen, mend = found["url-tls"]
    assert level == "problem" and words in seen and part in mend, found.text
    assert "url-upgrade" not in found.found


def test_a_certificate_that_ends_soon_is_a_warning(start, front, tmp_path):
    server = start("--ping-seconds", 1, *TOPICS)
    certificate = Certificate(tmp_path, days=5)
    nginx = front(server, certificate=certificate)
    found = visit(server, f"wss://localhost:{nginx.port}/ws", "--ping-seconds", 1,
                  SSL_CERT_FILE=str(certificate.authority))
    assert found["url-expiry"][0] == "warning" and "certbot renew" in found["url-expiry"][2]


def test_a_port_without_tls_is_found(start, tmp_path):
    server = start(*TOPICS)
    # No other program is needed for it.
    level, seen, _ = visit(server, f"wss://{server.host}/ws", PATH=str(tmp_path))["url-tls"]
    assert level == "problem" and "no certificate came: does the server speak TLS?" in seen


def test_a_port_that_speaks_tls_alone_is_found(start, front, tmp_path):
    server = start(*TOPICS)
    nginx = front(server, certificate=Certificate(tmp_path))
    level, seen, mend = visit(server, f"ws://localhost:{nginx.port}/ws")["url-upgrade"]
    assert level == "problem" and seen == f"localhost:{nginx.port} speaks TLS"
    assert mend == f"mend: --url wss://localhost:{nginx.port}/ws"


def test_a_proxy_that_names_no_client_is_found(start, front):
    proxies = ["--proxies", "127.0.0.1"]
    server = start(*proxies, *TOPICS)
    admin = ["--admin", server.line("admin").removeprefix("http://").rstrip("/")]
    for lines, level in [(UPGRADE, "problem"),
                         (UPGRADE + "proxy_set_header X-Forwarded-For 192.0.2.1;", "ok")]:
        nginx = front(server, lines)
        found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws", *proxies, *admin, "--wait", "1s")
        assert found["url-address"][0] == level, found.text
    assert "X-Forwarded-For $proxy_add_x_forwarded_for;" in visit(
        server, f"ws://127.0.0.1:{front(server).port}/ws", *proxies, *admin, "--wait", "1s")["url-address"][2]
    # Without the counters there is no answer.
    nginx = front(server)
    found = visit(server, f"ws://127.0.0.1:{nginx.port}/ws", *proxies, "--wait", "1s")
    assert found["url-address"][0] == "unseen"
    found = visit(server, f"ws://{server.host}/ws", *proxies, *admin, "--wait", "1s")
    assert found["url-address"][0] == "unseen"
