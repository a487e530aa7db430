"""The client where WebSockets do not get through: behind an nginx without the lines for them, it comes by an event stream."""

import contextlib
import itertools
import json
from types import SimpleNamespace

import pytest
from helpers.js_runtimes import BROWSERS, Line, MiniProgram, Page, target
from helpers.nginx import Nginx
from helpers.process import eventually
from helpers.server import Server, counter
from helpers.tokens import token

# Nothing of an upgrade is passed on, and requests go by HTTP/1.0, its default for a long time.
NO_UPGRADE = "proxy_set_header Host $http_host; proxy_http_version 1.0;"
# The same by HTTP/1.1.
NO_UPGRADE_1_1 = "proxy_set_header Host $http_host; proxy_http_version 1.1; proxy_set_header Connection '';"

MARKERS = itertools.count(1)
DATA = {"ü": "€ 😀\u2028", "n": [1, "\n"]}


@pytest.fixture
def behind(tmp_path):
    """The host of a proxy before a server that passes on no upgrade: `behind(server)`."""
    with contextlib.ExitStack() as ends:
        numbers = itertools.count()

        def behind(server, lines=NO_UPGRADE):
            directory = tmp_path / f"nginx{next(numbers)}"
            directory.mkdir()
            nginx = Nginx(directory, server, lines)
            ends.callback(nginx.end)
            return f"127.0.0.1:{nginx.port}"

        yield behind


@pytest.fixture
def runtime(tmp_path):
    """A place where the client runs: a browser by its name, or a kind of mini program."""
    with contextlib.ExitStack() as ends:
        def runtime(kind, host):
            is_browser = kind in BROWSERS
            return ends.enter_context(Page(tmp_path / kind, host, kind) if is_browser else MiniProgram(kind))

        yield runtime


def add(redis, topic, data):
    return redis.command("XADD", "pub", "*", "topic", topic, "data", json.dumps(data))


def heard(runtime, name, publish):
    """Messages received so far, found by a marker on the client's own topic."""
    topic = {"live": "user.42", "bystander": "user.43"}[name]
    marker = f"marker {next(MARKERS)}"
    publish(topic, marker)
    return [one for one in runtime.heard(name, marker) if not str(one[1]).startswith("marker")]


@pytest.mark.parametrize("kind", [*BROWSERS, "wx", "uni", "game"])
@pytest.mark.parametrize("lines", [NO_UPGRADE, NO_UPGRADE_1_1], ids=["http 1.0", "http 1.1"])
def test_it_falls_back_to_a_stream_and_says_so(start, behind, runtime, kind, lines):
    # The page comes from the proxy.
    server = start("--may", "room.*", "--topics", "news", "--origins", "*")
    host = behind(server, lines)
    place = runtime(kind, host)
    # The bystander has a way for WebSockets.
    place.open("bystander", f"ws://{server.host}/ws", token("43"))
    place.open("live", f"ws://{host}/ws", token("42"), topics=["room.7", "secret"])
    place.wait_open("live", "bystander")
    assert place.run("[live.stream, live.sub, bystander.stream]") == [True, "42", False]
    assert [state for state, _ in place.log("live", "states")].count("waiting") == 2
    for topic in ["room.7", "user.42", "news"]:
        server.publish(topic, DATA)
    assert heard(place, "live", server.publish) == [("room.7", DATA), ("user.42", DATA), ("news", DATA)]
    assert heard(place, "bystander", server.publish) == [("news", DATA)]
    assert place.log("live", "errors") == [["forbidden", "secret"]]
    assert place.run("live.send(1).catch((error) => error.code)") == "no_upstream"
    place.run("void live.subscribe('room.8')")
    eventually(lambda: counter(server, "memberships") == 6, "it asked for one more")
    server.publish("room.8", 1)
    assert heard(place, "live", server.publish)[-1] == ("room.8", 1)
    assert place.log("live", "gaps") == 0
    place.run("live.close()")
    eventually(lambda: counter(server, "clients") == 1, "only the bystander is left")


@pytest.mark.parametrize("kind", ["chromium", "wx"])
def test_a_stream_follows_from_server_to_server_and_nothing_is_lost(start, redis, behind, runtime, kind, request):
    flags = ["--streams", "pub", "--redis-backoff-ms-max", 100]
    first, second = Server(*flags, redis=redis), start(*flags, redis=redis)
    request.addfinalizer(first.kill)
    first.wait_ready()
    with Line(first) as line:
        host = behind(SimpleNamespace(host=line.host))
        place = runtime(kind, host)
        for name, user in [("live", "42"), ("bystander", "43")]:
            place.open(name, f"ws://{host}/ws", token(user))
        place.wait_open("live", "bystander")
        add(redis, "user.42", 1)
        place.until("live.log.heard.length === 1")
        first.kill()
        for number in 2, 3:
            add(redis, "user.42", number)
        line.fail_over(target(second))
        publish = lambda *words: add(redis, *words)
        assert heard(place, "live", publish) == [("user.42", number) for number in (1, 2, 3)]
        assert heard(place, "bystander", publish) == [] and place.log("live", "gaps") == 0


STATE = """(() => {
  globalThis.state = [];
  globalThis.loads = [];
  live.follow("room.7", () => new Promise((done) => loads.push((all) => { state = all; done(); })), (number) => state.push(number));
})()"""


@pytest.mark.parametrize("kind", ["chromium", "uni"])
def test_a_state_is_followed_by_a_stream_as_well(start, behind, runtime, kind):
    server = start("--may", "room.*", "--origins", "*")
    host = behind(server)
    place = runtime(kind, host)
    place.open("bystander", f"ws://{server.host}/ws", token("43"))
    place.open("live", f"ws://{host}/ws", token("42"))
    # Asked for before it is known which way gets through.
    place.run(STATE)
    place.wait_open("live", "bystander")
    place.until("loads.length === 1")
    server.publish("room.7", 1)
    assert heard(place, "live", server.publish) == [("room.7", 1)]
    place.run("loads[0]([0])")
    place.until("state.length === 2")
    server.publish("room.7", 2)
    place.until("state.length === 3")
    # Another topic takes another stream, which goes on where this one was.
    place.run("void live.subscribe('room.8')")
    eventually(lambda: counter(server, "memberships") == 4, "it asked for one more")
    server.publish("room.7", 3)
    place.until("state.length === 4")
    assert place.run("[live.stream, state, loads.length]") == [True, [0, 1, 2, 3], 1]
    assert heard(place, "bystander", server.publish) == []


@pytest.mark.parametrize("kind", ["firefox-esr", "uni"])
def test_refusals_and_ends_are_those_of_websockets(start, redis, behind, runtime, kind):
    server = start("--control", "ctl", "--origins", "*", redis=redis)
    place = runtime(kind, behind(server))
    url = f"ws://{server.host}/ws"
    place.open("bystander", url, token("43"))
    place.wait_open("bystander")
    place.open("live", url, [token("42", seconds=-60), token("42")], "{stream: true}")
    place.wait_open("live")
    assert place.log("live", "asked") == [False, True]
    place.open("bad", url, token("42", seconds=-60), "{stream: true}")
    place.until("bad.state === 'closed'")
    assert place.log("bad", "states")[-1] == ["closed", 4500]
    redis.command("PUBLISH", "ctl", json.dumps({"op": "kick", "sub": "42"}))
    place.until("live.state === 'closed'")
    assert place.log("live", "states")[-1] == ["closed", 4504]
    assert heard(place, "bystander", server.publish) == []


@pytest.mark.parametrize("kind", BROWSERS)
def test_a_page_of_a_listed_origin_may_stream_and_another_may_not(start, server, runtime, kind):
    """With a token in a header, which the browser asks for beforehand."""
    place = runtime(kind, server.host)
    willing, closed = start("--origins", f"http://{server.host}"), start("--origins", "https://other.example")
    place.open("bystander", f"ws://{server.host}/ws", token("43"))
    place.open("live", f"ws://{willing.host}/ws", token("42"), "{stream: true}")
    place.open("foreign", f"ws://{closed.host}/ws", token("42"), "{stream: true}")
    place.wait_open("live", "bystander")
    assert heard(place, "live", willing.publish) == []
    place.until("foreign.log.states.length > 3")
    assert "open" not in [state for state, _ in place.log("foreign", "states")]
    assert counter(closed, "opened_total") == 0
    assert heard(place, "bystander", server.publish) == []


EVENT_SOURCE = """(() => {
  globalThis.seen = [];
  globalThis.source = new EventSource(url);
  source.onmessage = ({ data, lastEventId }) => {
    const { op, id, data: own, resumed } = JSON.parse(data);
    seen.push(op ? [op, resumed] : [id === lastEventId, own]);
  };
  source.addEventListener("close", ({ data }) => { seen.push(JSON.parse(data)); source.close(); });
})()"""


@pytest.mark.parametrize("kind", BROWSERS)
def test_a_bare_event_source_resumes_by_itself(start, redis, runtime, kind):
    server = start("--streams", "pub", "--control", "ctl", "--redis-backoff-ms-max", 100, "--origins", "*", redis=redis)
    with Line(server) as line:
        place = runtime(kind, line.host)
        place.open("bystander", f"ws://{server.host}/ws", token("43"))
        place.wait_open("bystander")
        place.run(EVENT_SOURCE, url=f"http://{line.host}/ws?token={token('42')}")
        place.until("seen.length === 1")
        add(redis, "user.42", DATA)
        place.until("seen.length === 2")
        # Nothing passes on the old connection from here on, whether it is back already or not.
        line.fail_over(target(server))
        add(redis, "user.42", "missed")
        place.until("seen.length === 4")
        redis.command("PUBLISH", "ctl", json.dumps({"op": "kick", "sub": "42", "reason": "ü"}))
        place.until("seen.length === 5")
        assert place.run("seen") == [
            ["welcome", False], [True, DATA], ["welcome", True], [True, "missed"], {"code": 4504, "reason": '{"reason":"ü"}'},
        ]
        assert heard(place, "bystander", lambda *words: add(redis, *words)) == []
