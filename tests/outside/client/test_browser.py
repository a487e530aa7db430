"""The client in a real browser against the real binary: messages and reconnects."""

import contextlib
import json
import random
import signal
import threading

import pytest
from helpers.js_runtimes import Line, Page, target
from helpers.process import ROOT, eventually
from helpers.server import Server, counter
from helpers.tokens import token

STREAM = ["--streams", "pub", "--redis-backoff-ms-max", 100]


@pytest.fixture
def line(start):
    """Lines to servers: `line(server)`."""
    with contextlib.ExitStack() as ends:
        yield lambda server: ends.enter_context(Line(server))


@pytest.fixture
def page(tmp_path):
    """A page of a line with user 42 and a bystander, user 43: `page(line)`."""
    with contextlib.ExitStack() as ends:
        def page(line, **options):
            page = ends.enter_context(Page(tmp_path, line.host))
            page.open("live", line.url, **({"token": token("42")} | options))
            page.open("bystander", line.url, token("43"))
            page.wait_open("live", "bystander")
            return page

        yield page


def add(redis, topic, data):
    return redis.command("XADD", "pub", "*", "topic", topic, "data", json.dumps(data))


def heard(page, name, publish):
    """Messages received so far on its own topic, found by a marker."""
    user = {"live": "42", "bystander": "43"}[name]
    publish(f"user.{user}", "marker")
    found = page.heard(name, "marker")
    assert {topic for topic, _ in found} == {f"user.{user}"}
    return [data for _, data in found[:-1]]


def test_messages_reach_whom_they_are_for(start, line, page):
    server = start("--may", "room.*")
    page = page(line(server))
    page.run("""(() => {
      live.calls = [];
      live.offs = [
        live.on("room.7", () => { throw new Error("of a handler"); }),
        live.on("room.7", (data) => live.calls.push(["room.7", data])),
        live.on("room.7", (data) => live.calls.push(["again", data])),
        live.on("room.*", (data, { topic }) => live.calls.push(["room.*", topic])),
        live.on("user.42", (data, { data64 }) => live.calls.push(["own", data === undefined ? data64 : data])),
        live.on("secret", () => live.calls.push("never")),
      ];
    })()""")
    eventually(lambda: counter(server, "memberships") == 4, "it has subscribed")
    assert page.until("live.log.errors.length") and page.log("live", "errors") == [["forbidden", "secret"]]
    for topic, payload in [("room.7", {"a": 1}), ("room.8.x", 2), ("user.42", b"\xff\xfe"), ("secret", 3)]:
        server.publish(topic, payload)
    server.publish("user.42", "marker")
    page.until("live.calls.length === 6")
    assert page.run("live.calls") == [
        ["room.7", {"a": 1}], ["again", {"a": 1}], ["room.*", "room.7"], ["room.*", "room.8.x"],
        ["own", "//4="], ["own", "marker"],
    ]
    page.run("live.offs.slice(0, 2).forEach((off) => { off(); off(); })")
    server.publish("room.7", "one is left")
    page.until("live.calls.length === 8")
    page.run("live.offs.forEach((off) => off())")
    eventually(lambda: counter(server, "memberships") == 2, "the last one unsubscribed")
    assert heard(page, "bystander", server.publish) == []


def test_what_is_taken_up_again_at_once_is_not_mentioned(start, line, page):
    server = start("--may", "*")
    page = page(line(server), topics=["deck"])
    before = counter(server, "commands_total")
    page.run("(() => { for (let n = 0; n < 100; n++) live.subscribe('room.' + n)(); })()")
    page.run("live.send(1).catch((error) => error.code)")
    assert counter(server, "commands_total") == before + 1
    assert counter(server, "memberships") == 3
    assert heard(page, "bystander", server.publish) == []


def test_a_killed_server_is_followed_by_another_and_nothing_is_lost(start, redis, line, page, request):
    flags = [*STREAM, "--may", "room.*"]
    second = start(*flags, redis=redis)
    first = Server(*flags, redis=redis)
    request.addfinalizer(first.kill)
    first.wait_ready()
    line = line(first)
    page = page(line, topics=["room.7"])
    add(redis, "user.42", 1)
    add(redis, "room.7", 2)
    page.until("live.log.heard.length === 2")
    first.kill()
    page.until("live.state !== 'open'")
    for number in 3, 4:
        add(redis, "room.7", number)
        add(redis, "user.43", "for the bystander")
    eventually(lambda: counter(second, "stream_entries_total") == 6, "the second has read them")
    line.fail_over(target(second))
    page.wait_open("live", "bystander")
    add(redis, "user.42", "last")
    assert page.heard("live", "last") == [
        ("user.42", 1), ("room.7", 2), ("room.7", 3), ("room.7", 4), ("user.42", "last"),
    ]
    assert page.log("live", "gaps") == 0 and ["waiting", 1006] in page.log("live", "states")
    assert heard(page, "bystander", lambda *words: add(redis, *words)) == ["for the bystander"] * 2


def test_what_the_server_does_not_hold_any_more_is_a_gap(start, line, page):
    first, second = start(), start()
    line = line(first)
    page = page(line)
    assert page.log("live", "gaps") == 0
    line.fail_over(target(second))
    page.until("live.log.gaps === 1 && bystander.log.gaps === 1")
    assert heard(page, "live", second.publish) == heard(page, "bystander", second.publish) == []


def test_a_drain_sends_it_elsewhere_when_the_server_says(start, line, page):
    first, second = start("--drain-per-second", 1), start()
    line = line(first)
    page = page(line)
    line.target = target(second)
    page.run("live.onState((state, why) => state === 'waiting' && (live.retry = why.retry))")
    first.signal(signal.SIGTERM)
    for name in "live", "bystander":
        page.until(f"{name}.log.states.some(([state, code]) => state === 'waiting' && code === 1001)")
    assert page.run("typeof live.retry") == "number"
    page.wait_open("live", "bystander")
    assert heard(page, "live", second.publish) == heard(page, "bystander", second.publish) == []


@pytest.mark.parametrize("hint", [True, False])
def test_a_line_that_hangs_is_noticed(start, redis, line, page, hint):
    """By the heartbeat, and sooner where the network's change is reported."""
    server = start(*STREAM, "--ping-seconds", 1, redis=redis)
    line = line(server)
    page = page(line)
    line.fail_over(target(server), hangs=True)
    add(redis, "user.42", "into the void")
    if hint:
        page.run("dispatchEvent(new Event('online'))")
    page.until("live.log.states.some((one) => one[1] === 'silent')")
    page.until("bystander.log.states.some((one) => one[1] === 'silent')")
    page.wait_open("live", "bystander")
    assert heard(page, "live", lambda *words: add(redis, *words)) == ["into the void"]
    assert heard(page, "bystander", lambda *words: add(redis, *words)) == []
    assert page.log("live", "gaps") == 0


def test_many_reasons_to_come_back_make_one_connection(start, line, page):
    server = start()
    line = line(server)
    page = page(line)
    page.run("""(async () => {
      for (let n = 0; n < 200; n++) {
        dispatchEvent(new Event("online"));
        document.dispatchEvent(new Event("visibilitychange"));
        if (n % 50 === 0) await new Promise((done) => setTimeout(done));
      }
    })()""")
    assert counter(server, "opened_total") == 2
    assert page.log("live", "states") == [["open", None]]
    line.fail_over(target(server))
    page.run("""(async () => {
      while (live.state !== "open" || live.log.states.length < 4) {
        dispatchEvent(new Event("online"));
        document.dispatchEvent(new Event("visibilitychange"));
        await new Promise((done) => setTimeout(done));
      }
    })()""")
    page.wait_open("bystander")
    eventually(lambda: counter(server, "clients") == 2, "there are two clients")
    assert heard(page, "live", server.publish) == heard(page, "bystander", server.publish) == []
    assert counter(server, "opened_total") == 4


def test_an_expired_token_is_asked_for_again(start, line, page):
    server = start("--jwt-leeway-seconds", 0)
    line = line(server)
    page = page(line)
    page.run("live.close()")
    page.open("live", line.url, [token("42", seconds=6), token("42")])
    page.until("live.log.states.some((one) => one[1] === 4002)")
    page.wait_open("live")
    assert page.log("live", "asked") == [False, True]
    assert heard(page, "live", server.publish) == heard(page, "bystander", server.publish) == []


def test_a_refused_token_is_asked_for_once_more_and_then_no_more(start, line, page):
    server = start()
    line = line(server)
    page = page(line)
    page.open("good", line.url, [token("42", seconds=-60), token("42")])
    page.open("bad", line.url, [token("43", seconds=-60)])
    page.open("fixed", line.url, options="{token: 'a.b.c'}")
    page.wait_open("good")
    for name, asked in [("bad", [False, True]), ("fixed", [])]:
        page.until(f"{name}.state === 'closed'")
        assert page.log(name, "asked") == asked and page.log(name, "states")[-1] == ["closed", 4500]
    assert page.log("good", "asked") == [False, True]
    page.run("fixed.close() || fixed.open()")
    page.until("fixed.log.states.filter((one) => one[1] === 4500).length === 2")
    assert heard(page, "bystander", server.publish) == []


def test_a_page_that_stood_still_keeps_its_connection(start, line, page):
    """Its heartbeat's deadline passed while nothing could be read: what came meanwhile counts."""
    server = start("--ping-seconds", 1, "--silence-seconds", 60)
    page = page(line(server))
    stop, numbers = threading.Event(), []

    def publish():
        while not stop.wait(0.05):
            server.publish("user.42", len(numbers))
            numbers.append(len(numbers))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        page.run("(() => { const end = Date.now() + 14000; while (Date.now() < end); })()")
    finally:
        stop.set()
        thread.join()
    assert heard(page, "live", server.publish) == numbers
    assert page.log("live", "states")[-1] == ["open", None] and page.log("live", "gaps") == 0
    assert counter(server, "opened_total") == 2
    assert heard(page, "bystander", server.publish) == []


def test_a_page_that_reads_too_slowly_is_closed_and_told_the_rest(start, line, page):
    server = start("--backlog-bytes-max", "64KiB", "--history-bytes-max", "256MiB")
    page = page(line(server))
    sent = []

    def publish():
        while not counter(server, 'closes_total{code="4000"}'):
            for _ in range(8):
                server.publish("user.42", f"{len(sent)}:{'x' * 60_000}")
                sent.append(len(sent))

    thread = threading.Thread(target=publish)
    thread.start()
    page.run("(() => { const end = Date.now() + 4000; while (Date.now() < end); })()")
    thread.join()
    page.until("live.log.states.some((one) => one[1] === 4000)")
    server.publish("user.42", "last")
    page.until("live.log.heard[live.log.heard.length - 1][1] === 'last'")
    found = page.run("live.log.heard.slice(0, -1).map(([, data]) => parseInt(data))")
    assert found == sent and page.log("live", "gaps") == 0
    assert heard(page, "bystander", server.publish) == []


def test_nothing_is_lost_in_two_hundred_cuts(start, redis, line, page):
    """Each connection is cut after some bytes: in the handshake, in a frame, in a replay."""
    server = start(*STREAM, redis=redis)
    line = line(server)
    page = page(line, options="{backoffMs: 20, backoffMsMax: 40}")
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    cuts = 200
    line.cut_after(lambda: dice.randrange(3000))
    line.fail_over(target(server))
    stop, sent = threading.Event(), []

    def publish():
        publisher = redis.publisher()
        while not stop.wait(0.002):
            publisher.command("XADD", "pub", "*", "topic", "user.42", "data", len(sent))
            sent.append(len(sent))
        publisher.close()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        eventually(lambda: line.cuts >= cuts, f"{cuts} cuts", seconds=60)
    finally:
        line.cut_after(None)
        stop.set()
        thread.join()
    assert heard(page, "live", lambda *words: add(redis, *words)) == sent
    assert heard(page, "bystander", lambda *words: add(redis, *words)) == []
    assert page.log("live", "gaps") == page.log("bystander", "gaps") == 0
    assert counter(server, "replayed_total") > 100


def test_the_script_of_the_readme_can_be_pasted(start, line, page):
    server = start("--topics", "news")
    line = line(server)
    page = page(line)
    blocks = (ROOT / "README.md").read_text().split("```")
    [pasted] = [block for block in blocks if block.startswith("html\n<script src")]
    source = pasted.split("<script>")[1].split("</script>")[0].replace("wss://push.example.com/ws", line.url)
    page.run("""(() => {
      globalThis.lines = [];
      console.log = (...words) => lines.push(words);
      globalThis.fetch = async (url) => new Response(url === "/push-token" ? bearer : "");
      document.head.append(Object.assign(document.createElement("script"), { textContent: `{${source}}` }));
    })()""", source=source, bearer=token("44"))
    eventually(lambda: counter(server, "memberships") == 6, "it listens")
    server.publish("news", {"a": 1})
    page.until("lines.length")
    assert page.run("lines") == [["news", {"a": 1}]]
    server.publish("user.43", "marker")
    assert page.heard("bystander", "marker") == [("news", {"a": 1}), ("user.43", "marker")]
