"""Laravel's broadcasting to Laravel Echo: both are the real ones, and the page is one of Chromium."""

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
from helpers.js_runtimes import Line, Page
from helpers.process import HELPERS, NODE_MODULES, end, environment, eventually, node
from helpers.tokens import token

ECHO = Path(NODE_MODULES) / "laravel-echo/dist/echo.iife.js"
PREFIX = "laravel_database_"


class Laravel:
    """An application whose events are broadcast through Redis or the port that takes its place."""

    def __init__(self, client, port):
        self.process = subprocess.Popen(
            ["php", HELPERS / "laravel/application.php", client, str(port)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
        )

    def broadcast(self, event, *arguments, socket=None):
        line = json.dumps({"event": event, "arguments": arguments, "socket": socket})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "broadcast\n"

    def shipped(self, order, note, socket=None):
        self.broadcast("OrderShipped", order, note, socket=socket)

    def moved(self, note, socket=None):
        self.broadcast("ServerMoved", note, socket=socket)

    def close(self):
        self.process.stdin.close()
        end(self.process)
        self.process.stdout.close()


class EchoPage(Page):
    """A page with Echo, which keeps all that its listeners are given in `heard`."""

    def __init__(self, directory, line, bearer):
        super().__init__(directory, line.host)
        self.run("""new Promise((onload, onerror) => {
            const src = location.href.replace("oneloop.js", "oneloop-echo.js");
            document.head.append(Object.assign(document.createElement("script"), { src, onload, onerror }));
        }).then(() => null)""")
        self.run("((0, eval)(script), null)", script=ECHO.read_text() + "\n;globalThis.Echo = Echo.default")
        self.run("""(() => {
            Object.assign(globalThis, { heard: [], subscribed: [], errors: [] });
            globalThis.echo = new Echo({
                broadcaster: OneloopConnector, url, token: bearer, backoffMs: 50, backoffMsMax: 100,
            });
        })()""", url=line.url, bearer=bearer)

    def listen(self, channel, event="OrderShipped", kind="private"):
        self.run("""(() => {
            echo[kind](channel)
                .listen(event, (data) => heard.push([channel, event, data.note]))
                .subscribed(() => subscribed.push(channel))
                .error((why) => errors.push([channel, why.code, why.topic]));
        })()""", channel=channel, event=event, kind=kind)

    def wait_subscribed(self, *channels):
        for channel in channels:
            self.until(f"subscribed.includes({json.dumps(channel)})")

    def heard_up_to(self, note):
        self.until(f"heard.some((one) => one[2] === {json.dumps(note)})")
        return [tuple(one) for one in self.run("heard")]


@pytest.fixture
def world(request, start, tmp_path):
    """`world(client, redis)`: a server, an application of Laravel, and pages as `open(token)`."""
    with contextlib.ExitStack() as ends:
        def world(client="phpredis", redis=None, **options):
            server = start("--prefix", PREFIX, "--may", "servers", redis=redis, **options)
            line = ends.enter_context(Line(server))
            port = redis.port if redis else server.publishers[1]
            laravel = ends.enter_context(contextlib.closing(Laravel(client, port)))

            def open_page(name, may):
                directory = tmp_path / name
                directory.mkdir()
                return ends.enter_context(EchoPage(directory, line, token(name, may=may)))

            return laravel, open_page, line

        yield world


@pytest.mark.parametrize("by", ["redis", "port"])
@pytest.mark.parametrize("client", ["phpredis", "predis"])
def test_events_reach_the_channels_that_a_token_grants(world, start_redis, client, by):
    laravel, open_page, _ = world(client, start_redis() if by == "redis" else None)
    page, bystander = open_page("42", ["private-orders.7"]), open_page("43", ["private-orders.8"])
    for one, order in [(page, 7), (bystander, 8)]:
        one.listen(f"orders.{order}")
        one.listen(f"orders.{order}", ".server.moved")
        one.wait_subscribed(f"orders.{order}")
    page.listen("servers", ".server.moved", kind="channel")
    page.wait_subscribed("servers")
    laravel.shipped(7, {"fine": [1, "é"]})
    laravel.shipped(8, "to the bystander alone")
    laravel.moved("last")
    page.until("heard.length === 3")
    laravel.shipped(8, "end")
    expected = [
        ("orders.7", "OrderShipped", {"fine": [1, "é"]}),
        ("servers", ".server.moved", "last"), ("orders.7", ".server.moved", "last"),
    ]
    assert [tuple(one) for one in page.run("heard")] == expected
    assert bystander.heard_up_to("end") == [
        ("orders.8", "OrderShipped", "to the bystander alone"), ("orders.8", "OrderShipped", "end")]


def test_a_channel_that_the_token_does_not_grant_is_an_error(world):
    laravel, open_page, _ = world()
    page = open_page("42", ["private-orders.7"])
    page.listen("orders.7")
    page.listen("orders.8")
    page.until("errors.length")
    assert page.run("errors") == [["orders.8", "forbidden", "private-orders.8"]]
    laravel.shipped(8, "evil")
    laravel.shipped(7, "end")
    assert page.heard_up_to("end") == [("orders.7", "OrderShipped", "end")]


def test_events_survive_a_cut_connection(world):
    laravel, open_page, line = world()
    page, bystander = open_page("42", ["private-orders.7"]), open_page("43", ["private-orders.8"])
    page.listen("orders.7")
    bystander.listen("orders.8")
    page.wait_subscribed("orders.7")
    bystander.wait_subscribed("orders.8")
    page.run("(() => { globalThis.statuses = []; echo.connector.onConnectionChange((one) => statuses.push(one)); })()")
    laravel.shipped(7, "before")
    page.heard_up_to("before")
    for number in range(5):
        line.fail_over(line.target)
        laravel.shipped(7, number)
    page.until("echo.connectionStatus() === 'connected'")
    laravel.shipped(7, "end")
    laravel.shipped(8, "end")
    assert [note for _, _, note in page.heard_up_to("end")] == ["before", *range(5), "end"]
    assert {"reconnecting", "connecting", "connected"} == set(page.run("statuses"))
    assert bystander.heard_up_to("end") == [("orders.8", "OrderShipped", "end")]


def test_to_others_leaves_the_own_page_out(world):
    laravel, open_page, line = world()
    page, other = open_page("42", ["private-orders.7"]), open_page("44", ["private-orders.7"])
    for one in page, other:
        one.listen("orders.7")
        one.wait_subscribed("orders.7")
    first = page.run("echo.socketId()")
    assert first and first != other.run("echo.socketId()")
    laravel.shipped(7, "mine", socket=first)
    line.fail_over(line.target)
    page.until("echo.connectionStatus() === 'connected'")
    second = page.until(f"echo.socketId() !== {json.dumps(first)} && echo.socketId()")
    laravel.shipped(7, "of an older connection", socket=first)
    laravel.shipped(7, "mine again", socket=second)
    laravel.shipped(7, "end")
    assert [note for _, _, note in page.heard_up_to("end")] == ["end"]
    assert [note for _, _, note in other.heard_up_to("end")] == ["mine", "of an older connection", "mine again", "end"]


def test_listeners_come_and_go_as_with_other_connectors(world):
    laravel, open_page, _ = world()
    page = open_page("42", ["private-orders.*"])
    page.run("""(() => {
        const note = (name) => (data) => heard.push([name, "", data.note]);
        const calls = globalThis.calls = { first: note("first"), second: note("second") };
        echo.private("orders.7")
            .listen("OrderShipped", () => { throw new Error("of a listener"); })
            .listen("OrderShipped", calls.first)
            .listen("OrderShipped", calls.second)
            .listen("\\\\App\\\\Events\\\\OrderShipped", note("whole name"))
            .listenToAll((event, data) => heard.push(["all", event, data.note]))
            .subscribed(() => subscribed.push("orders.7"));
        echo.listen("servers", ".server.moved", note("public")).subscribed(() => subscribed.push("servers"));
    })()""")
    page.wait_subscribed("orders.7")
    page.wait_subscribed("servers")
    laravel.shipped(7, 1)
    laravel.moved(2)
    page.until("heard.length === 6")
    page.run("(() => { echo.private('orders.7').stopListening('OrderShipped', calls.first); })()")
    laravel.shipped(7, 3)
    page.until("heard.length === 9")
    page.run("(() => { echo.private('orders.7').stopListening('OrderShipped').stopListeningToAll(); })()")
    page.run("(() => { echo.leave('servers'); })()")
    laravel.moved(4)
    page.listen("orders.7")
    laravel.shipped(7, "end")
    heard = page.heard_up_to("end")
    assert sorted(heard[:4]) == sorted([
        ("first", "", 1), ("second", "", 1), ("whole name", "", 1), ("all", "OrderShipped", 1)])
    assert sorted(heard[4:6]) == [("all", ".server.moved", 2), ("public", "", 2)]
    assert sorted(heard[6:9]) == [("all", "OrderShipped", 3), ("second", "", 3), ("whole name", "", 3)]
    assert heard[9:] == [("orders.7", "OrderShipped", "end")]
    assert page.run("Object.keys(echo.connector.channels)") == ["private-orders.7"]


def test_features_that_are_missing_say_so(world):
    _, open_page, _ = world()
    page = open_page("42", ["private-orders.7"])
    for code, words in [
        ("echo.private('orders.7').listenForWhisper('typing', () => {})", "oneloop has no whispers"),
        ("echo.private('orders.7').whisper('typing', {})", "oneloop has no whispers"),
        ("echo.join('room.7')", "oneloop has no presence channels"),
        ("echo.encryptedPrivate('orders.7')", "does not support encrypted private channels"),
    ]:
        assert words in page.run(f"(() => {{ try {{ {code}; }} catch (error) {{ return error.message; }} }})()")
    page.run("(() => { echo.leaveAllChannels(); echo.disconnect(); })()")
    eventually(lambda: page.run("echo.connectionStatus()") == "disconnected", "it has ended")


def test_the_connector_is_one_name():
    [found] = node("client_globals.cjs", HELPERS.parents[2] / "src/serve/oneloop-echo.js")
    assert found == {"globals": ["OneloopConnector"], "exported": True}
