"""`oneloop dashboard`: what Grafana imports, with expressions that a real Prometheus answers."""

import contextlib
import itertools
import os
import re
import socket
import ssl

import pytest
from helpers.certificates import Authority
from helpers.grafana import dashboard, legend
from helpers.process import DEADLINE, eventually, run
from helpers.prometheus import INSTANCE, Prometheus, filled
from helpers.raw_client import Raw
from helpers.server import counter
from helpers.streams import STREAM, add, heard
from helpers.tokens import token

# Names of metrics in an expression, as against functions and labels.
METRIC = re.compile(r"\b(?:oneloop|process)_\w+")


def expressions(board):
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return found + [variable["definition"] for variable in board["templating"]["list"]
                    if variable["type"] == "query"]


async def test_every_expression_asks_for_metrics_that_there_are(start, redis):
    server = start("--streams", "pub", "--loops", "2", redis=redis)
    there = set()
    for line in server.admin("/metrics")[2].splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            parts = ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
            there |= {name + part for part in parts}
    asked = expressions(dashboard())
    assert len(asked) > 40
    for expression in asked:
        names = METRIC.findall(expression)
        assert names and set(names) <= there, expression
        for name in names:
            # A counter means nothing but by its rate.
            is_rate = f"rate({name}{{" in expression or f"increase({name}{{" in expression
            assert is_rate == name.endswith(("_total", "_bucket")), expression
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression


def test_it_is_what_grafana_takes():
    board = dashboard()
    assert board["uid"] == "oneloop" and board["schemaVersion"] >= 36 and board["title"]
    assert isinstance(board["panels"], list) and "id" not in board
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) > 20 and min(ids) > 0
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        assert panel["type"] in ("row", "stat", "timeseries") and panel["title"], panel
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references), panel["title"]
        for target in panel["targets"]:
            used = {name for name in re.findall(r"\$\{?(\w+)", target["expr"])}
            assert used <= variables | {"__rate_interval"}, target


def test_no_panel_lies_on_another():
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    for place in places:
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24 and place["h"] > 0
    for a, b in itertools.combinations(places, 2):
        apart = (a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
                 or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"])
        assert apart, (a, b)


@pytest.fixture
def watch(tmp_path):
    """Starts a Prometheus for a server: `watch(server)`. It has scraped it once."""
    with contextlib.ExitStack() as ends:
        def watch(server):
            prometheus = Prometheus(tmp_path, server)
            ends.callback(prometheus.end)
            eventually(lambda: values(prometheus, "up") == [1], "prometheus has scraped the server")
            return prometheus

        yield watch


def values(prometheus, expression):
    return [float(series["value"][1]) for series in prometheus.query(filled(expression))]


async def some_life(server, redis, client):
    """Messages of each kind, a client that comes back, one that is refused and one that is too slow."""
    add(redis, "user.42", "of a stream")
    server.publish("user.42", "of a channel")
    await client.send(op="subscribe", topic="user.42")
    await heard(redis, client)
    async with server.client("44", since=client.id):
        pass
    assert (await server.refusal("no token"))[0] == 401
    with Raw(server, receive_buffer=4096) as slow:
        slow.upgrade(token("slow"))
        while counter(server, 'closes_total{code="4000"}') == 0:
            server.publish("user.slow", "x" * 200_000)


def some_life_over_tls(server, authority):
    """A handshake that is completed, and one that fails."""
    port = int(server.lines("clients")[1].rsplit(":", 1)[1].split("/")[0])
    trusting = ssl.create_default_context(cafile=authority.path)
    for context in [trusting, ssl.create_default_context()]:
        with (contextlib.suppress(ssl.SSLCertVerificationError),
              socket.create_connection(("127.0.0.1", port), DEADLINE) as stream,
              context.wrap_socket(stream, server_hostname="127.0.0.1")):
            pass
    eventually(lambda: "tls_failures_total{" in server.admin("/metrics")[2], "the failure is counted")


async def test_prometheus_answers_every_expression(start, redis, watch, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = map(str, authority.issue("IP:127.0.0.1"))
    server = start(*STREAM, "--loops", "2", "--tls-cert-file", certificate, "--tls-key-file", key, redis=redis,
                   listen="127.0.0.1:0,tls://127.0.0.1:0")
    server.listens_at(server.lines("clients")[0])
    prometheus = watch(server)
    async with server.client("42") as client, server.client("43") as bystander:
        await some_life(server, redis, client)
        some_life_over_tls(server, authority)
        assert await bystander.heard() == []
        samples = {re.split(r"[{ ]", line)[0] for line in server.admin("/metrics")[2].splitlines()}
        # Kernels before 6.2 do not count a process' descriptors.
        absent = set() if os.stat("/proc/self/fd").st_size > 0 else {"process_open_fds"}
        for panel in dashboard()["panels"]:
            shown = []
            for target in panel.get("targets", []):
                expression = filled(target["expr"])
                missing = set(METRIC.findall(expression)) - samples
                assert missing <= absent, expression
                answer = prometheus.query(expression) if missing else eventually(
                    lambda: prometheus.query(expression), f"an answer to {expression}")
                shown += [legend(target, series["metric"]) for series in answer]
            assert len(set(shown)) == len(shown), (panel["title"], shown)


async def test_what_prometheus_answers_is_true(start, redis, watch):
    server = start(*STREAM, redis=redis)
    prometheus = watch(server)
    queries = {(panel["title"], target["legendFormat"].split(" {{")[0]): target["expr"]
               for panel in dashboard()["panels"] for target in panel.get("targets", [])}

    def asked(panel, name):
        return values(prometheus, queries[panel, name])

    async with server.client("42") as client, server.client("43") as bystander:
        await some_life(server, redis, client)
        assert await bystander.heard() == []
        eventually(lambda: asked("Clients", "clients") == [2], "two clients are shown")
        for panel, name in [("Messages in", "messages"), ("Messages in", "of streams"),
                            ("Deliveries", "frames"), ("Bytes", "out"), ("Turns", "p99"),
                            ("Age of stream entries", "p50"), ("From clients", "commands")]:
            eventually(lambda: len(shown := asked(panel, name)) == 1 and shown[0] > 0,
                       f"{name} of {panel} is above zero")
        closed = eventually(
            lambda: prometheus.query(filled(queries["Closed by the server", "{{code}}"])),
            "a rate of closes is shown")
        assert [series["metric"] for series in closed] == [{"code": "4000"}]
        # The dashboard shows the chosen instance.
        clients = queries["Clients", "clients"]
        assert len(prometheus.query(filled(clients, INSTANCE))) == 1
        assert prometheus.query(filled(clients, "another")) == []


async def test_promtool_finds_nothing_to_mend_in_the_metrics(start, redis):
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        await some_life(server, redis, client)
        assert await bystander.heard() == []
        done = run("promtool", "check", "metrics", input=server.admin("/metrics")[2])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
