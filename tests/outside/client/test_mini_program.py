"""The client in mini programs, on stand-ins for `wx` and `uni`, against the real binary."""

import contextlib
import json

import pytest
from helpers.js_runtimes import Line, MiniProgram, target
from helpers.process import ROOT, eventually
from helpers.server import counter
from helpers.tokens import token

KINDS = ["wx", "uni", "game"]
STREAM = ["--streams", "pub", "--redis-backoff-ms-max", 100]


@pytest.fixture
def line(start):
    """Lines to servers: `line(server)`."""
    with contextlib.ExitStack() as ends:
        yield lambda server: ends.enter_context(Line(server))


@pytest.fixture
def program():
    """A program with user 42 and a bystander, user 43: `program(line)`."""
    with contextlib.ExitStack() as ends:
        def program(line, kind="wx", live=True, **options):
            program = ends.enter_context(MiniProgram(kind))
            program.open("bystander", line.url, token("43"))
            if live:
                program.open("live", line.url, **({"token": token("42")} | options))
                program.wait_open("live")
            program.wait_open("bystander")
            return program

        yield program


def add(redis, topic, data):
    return redis.command("XADD", "pub", "*", "topic", topic, "data", json.dumps(data))


def heard(program, name, publish):
    """Messages received so far, found by a marker."""
    user = {"live": "42", "bystander": "43"}[name]
    publish(f"user.{user}", "marker")
    return program.heard(name, "marker")[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_goes_in_the_header(start, line, program, kind):
    server = start("--may", "room.*")
    program = program(line(server), kind, topics=["room.7"])
    server.publish("room.7", {"a": 1})
    assert heard(program, "live", server.publish) == [("room.7", {"a": 1})]
    assert heard(program, "bystander", server.publish) == []
    _, request = program.run("world.requests")
    assert request["url"].endswith("/ws?topic=room.7")
    assert request["header"]["Authorization"].startswith("Bearer eyJ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deflate", ["off", "all"])
def test_messages_come_compressed_where_the_route_says_so(start, line, program, kind, deflate):
    server = start("--may", "room.*", "--deflate", deflate)
    program = program(line(server), kind, topics=["room.7"])
    data = ["ü" * 500, "😀" * 500]
    server.publish("room.7", data)
    assert heard(program, "live", server.publish) == [("room.7", data)]
    assert heard(program, "bystander", server.publish) == []
    is_on = deflate == "all"
    assert counter(server, "deflate_opened_total") == (2 if is_on else 0)
    assert counter(server, "deflated_total") == (1 if is_on else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_in_the_background_comes_back_with_the_program(start, redis, line, program, kind):
    server = start(*STREAM, redis=redis)
    program = program(line(server), kind)
    for number in range(8):
        program.run("world.hide()")
        eventually(lambda: counter(server, "clients") == 0, "both were cut")
        assert program.run("[live.state, bystander.state]") == ["open", "open"], "nobody told them"
        add(redis, "user.42", number)
        eventually(lambda: counter(server, "stream_entries_total") == number + 1, "it was read")
        program.run("world.show()")
        program.until("live.log.heard.length === %d" % (number + 1))
        program.wait_open("live", "bystander")
    publish = lambda *words: add(redis, *words)
    assert heard(program, "live", publish) == [("user.42", number) for number in range(8)]
    assert heard(program, "bystander", publish) == []
    assert program.log("live", "gaps") == 0
    assert program.run("world.refused") == 0 and counter(server, "clients") == 2


def test_the_end_of_a_long_wait_is_the_network(start, line, program):
    server = start()
    line = line(server)
    program = program(line, options="{backoffMs: 1e9, backoffMsMax: 1e9}")
    line.fail_over(target(server))
    program.until("live.state === 'waiting'")
    program.run("world.network(false)")
    program.run("new Promise((done) => setTimeout(done, 3 * 15))")
    assert program.run("live.state") == "waiting"
    program.run("world.network(true)")
    program.wait_open("live", "bystander")
    eventually(lambda: counter(server, "opened_total") == 4, "both are back")
    assert heard(program, "live", server.publish) == heard(program, "bystander", server.publish) == []


def test_a_refusal_that_cannot_be_read_is_asked_for_in_a_frame(start, line, program):
    server = start()
    line = line(server)
    program = program(line, live=False)
    program.open("live", line.url, [token("42", seconds=-60), token("42")])
    program.open("bad", line.url, [token("42", seconds=-60)])
    program.wait_open("live")
    assert program.log("live", "asked") == [False, True]
    program.until("bad.state === 'closed'")
    assert program.log("bad", "asked") == [False, True]
    assert program.log("bad", "states")[-1] == ["closed", 4500]
    assert heard(program, "live", server.publish) == heard(program, "bystander", server.publish) == []


NO_HEADERS = "{platform: Object.assign({}, wx, {connectSocket: ({url, fail}) => wx.connectSocket({url, fail})})}"


@pytest.mark.parametrize("flags", [[], ["--anonymous", "news"]], ids=["a token is needed", "it is not"])
def test_a_platform_that_drops_headers_sends_the_token_in_a_frame(start, line, program, flags):
    server = start("--auth-seconds", 1, "--may", "room.*", *flags)
    program = program(line(server), options=NO_HEADERS, topics=["room.7"])
    program.until("live.sub === '42'")
    eventually(lambda: counter(server, "memberships") == 3, "both users' topics, and the room")
    server.publish("room.7", 1)
    assert heard(program, "live", server.publish) == [("room.7", 1)]
    assert heard(program, "bystander", server.publish) == []


def test_a_server_that_lets_in_strangers_does_not_take_it_for_one(start, redis, line, program):
    """After a failed handshake the token goes in a frame; there, a client without one is welcomed before it comes."""
    server = start(*STREAM, "--anonymous", "news", "--may", "room.*", redis=redis)
    line = line(server)
    program = program(line, topics=["room.7"])
    good = line.target
    for number in range(4):
        line.target = type(good)(server_port=1)
        line.fail_over(line.target)
        program.until("live.log.states.length > %d" % (program.run("live.log.states.length") + 2 + number % 2))
        add(redis, "room.7", number)
        line.target = good
        program.until("live.log.heard.length === %d" % (number + 1))
    program.wait_open("live", "bystander")
    publish = lambda *words: add(redis, *words)
    assert heard(program, "live", publish) == [("room.7", number) for number in range(4)]
    assert heard(program, "bystander", publish) == []
    assert program.log("live", "gaps") == 0 and program.run("live.sub") == "42"


def test_more_topics_than_a_request_holds_go_with_the_token(start, redis, line, program):
    server = start(*STREAM, "--may", "room.*", redis=redis)
    topics = [f"room.{number}.{'x' * 60}" for number in range(100)]
    program = program(line(server), topics=topics)
    assert counter(server, "memberships") == 102
    program.run("world.hide()")
    eventually(lambda: counter(server, "clients") == 0, "both were cut")
    add(redis, topics[99], "missed")
    program.run("world.show()")
    program.until("live.log.heard.length === 1")
    publish = lambda *words: add(redis, *words)
    assert heard(program, "live", publish) == [(topics[99], "missed")]
    assert heard(program, "bystander", publish) == []
    assert all("topic" not in request["url"] for request in program.run("world.requests"))


def test_whoever_opens_and_closes_leaves_nothing_behind(start, line, program):
    server = start()
    line = line(server)
    program = program(line)
    before = program.run("[listeners.show.size, listeners.network.size]")
    program.run("""(async () => {
      const pause = () => new Promise((done) => setTimeout(done, 20));
      for (let n = 0; n < 20; n++) {
        const one = oneloop(url, { token: () => bearer });
        if (n % 2) await pause();
        one.close();
        if (n % 3 === 0) await pause();
      }
    })()""", url=line.url, bearer=token("44"))
    eventually(lambda: counter(server, "clients") == 2, "the others are gone")
    program.until("world.sockets === 2")
    assert program.run("[listeners.show.size, listeners.network.size]") == before == [2, 2]
    assert heard(program, "live", server.publish) == heard(program, "bystander", server.publish) == []
    program.run("live.close()")
    assert program.run("[listeners.show.size, listeners.network.size]") == [1, 1]


def test_sends_are_answered(start, redis, line, program):
    server = start("--upstream", "stream:up", "--may", "room.*", "--redis-timeout-seconds", 60, redis=redis)
    line = line(server)
    program = program(line)
    send = "live.send(%s).catch((error) => error.code + ': ' + error.message)"
    ids = [program.run(send % words) for words in ["{a: 'ü'}", "undefined, 'room.7'", "0"]]
    entries = redis.command("XRANGE", "up", "-", "+")
    assert [entry for entry, _ in entries] == ids
    fields = [dict(zip(words[::2], words[1::2])) for _, words in entries]
    assert [one["data"] for one in fields] == ['{"a":"ü"}', "null", "0"]
    assert [one.get("topic") for one in fields] == [None, "room.7", None]
    for words, code in [("1, 'deck'", "forbidden"), ("1, 'a..b'", "bad_topic"), ("1, 7", "forbidden")]:
        assert program.run(send % words) == f"{code}: oneloop: {code}"
    cycle = "(() => { const a = {}; a.a = a; return live.send(a).catch((error) => error.name); })()"
    assert program.run(cycle) == "TypeError"
    redis.freeze()
    try:
        program.run("(() => { live.lost = live.send(1).catch((error) => error.code); })()")
        eventually(lambda: counter(server, "requests_total") == 4, "it was asked of Redis")
        line.fail_over(target(server))
        assert program.run("live.lost") == "unavailable"
        assert program.run("live.close() || live.send(1).catch((error) => error.code)") == "unavailable"
    finally:
        redis.thaw()
    program.wait_open("bystander")
    eventually(server.ready, "the link is up")
    assert program.log("live", "heard") == [] and heard(program, "bystander", server.publish) == []


def pasted(document, line):
    """The one JavaScript block of a document, with the address of a line."""
    blocks = (ROOT / document).read_text().split("```js\n")
    assert len(blocks) == 2, f"one block in {document}"
    return blocks[1].split("```")[0].replace("wss://push.example.com/ws", line.url)


def test_the_lines_of_the_readme_can_be_pasted(start, line, program):
    server = start("--topics", "news")
    line = line(server)
    program = program(line, live=False)
    program.run("""(() => {
      wx.request = ({ success }) => success({ data: bearer });
      globalThis.require = () => oneloop;
      globalThis.printed = [];
      ((console) => eval(source + "globalThis.pasted = live;"))({ log: (...words) => printed.push(words) });
      pasted.onState((state) => globalThis.state = state);
    })()""", bearer=token("42"), source=pasted("README.md", line))
    program.until("globalThis.state === 'open'")
    eventually(lambda: counter(server, "clients") == 2, "it is there beside the bystander")
    server.publish("news", {"a": 1})
    program.until("printed.length")
    assert program.run("printed") == [["news", {"a": 1}]]
    program.run("pasted.close()")
    assert heard(program, "bystander", server.publish) == [("news", {"a": 1})]


def test_the_page_of_the_manual_can_be_pasted(start, line, program):
    server = start("--topics", "news")
    line = line(server)
    program = program(line, live=False)
    program.run("""(() => {
      wx.request = ({ success }) => success({ data: bearer });
      globalThis.require = () => oneloop;
      globalThis.Page = (page) => Object.assign(globalThis, { page });
      page = null;
      eval(source);
      page.setData = (data) => Object.assign(page.data, data);
      page.onLoad();
    })()""", bearer=token("42"), source=pasted("src/manual/client.md", line))
    program.until("page.data.state === 'open'")
    server.publish("news", {"a": 1})
    server.publish("user.42", 2)
    program.until("page.data.messages.length === 2")
    assert program.run("page.data.messages.map(({ text }) => text)") == ["user.42: 2", 'news: {"a":1}']
    program.run("page.onUnload()")
    eventually(lambda: counter(server, "clients") == 1, "it has closed")
    assert heard(program, "bystander", server.publish) == [("news", {"a": 1})]
