"""States that the client loads and follows: right after each load, cut and gap, by WebSockets and event streams."""

import json
import random

import pytest
from helpers.js_runtimes import Line, MiniProgram
from helpers.process import eventually
from helpers.streams import STREAM, add
from helpers.tokens import token

FOLLOW = """(() => {
  globalThis.backend = { pending: [], loads: 0 };
  globalThis.state = { numbers: [] };
  live.follow(topic, () => new Promise((resolve, reject) => {
    backend.loads++;
    backend.pending.push({ fail: () => reject(new Error("load")),
      answer: (numbers) => { state.numbers = numbers; resolve(); } });
  }), (number) => {
    // Each number is a version: the fetched state may include it.
    const last = state.numbers[state.numbers.length - 1] || 0;
    if (number > last) state.numbers.push(number);
  });
})()"""


# A network that lets WebSockets through or does not, as `world.isBlocked` says.
BLOCKING = """{platform: Object.assign({}, wx, {connectSocket: (asked) =>
  wx.connectSocket(world.isBlocked ? Object.assign({}, asked, {url: "ws://127.0.0.1:1"}) : asked)})}"""

# A platform that loses pings while `world.losesPings`.
LOSING = """{stream: false, platform: Object.assign({}, wx, {connectSocket: (asked) => {
  const task = wx.connectSocket(asked), send = task.send;
  task.send = (what) => { if (!world.losesPings || !what.data.includes('"ping"')) send(what); };
  return task;
}})}"""

WAYS = {"websocket": "{}", "stream": "{stream: true}", "changing": BLOCKING}


def answer_load(program, numbers):
    """The back end answers the loads that wait."""
    program.run("backend.pending.splice(0).forEach((load) => load.answer(numbers.slice()))", numbers=numbers)


def settle(program, numbers):
    def is_right():
        answer_load(program, numbers)
        return program.run("state.numbers") == numbers
    eventually(is_right, "the state is right")


def has_given_up(program, line):
    """Returns whether it is open by a stream. A WebSocket is cut: it may have been on its way before the network was blocked."""
    is_stream, state = program.run("[live.stream, live.state]")
    if not is_stream:
        line.fail_over(line.target)
    return is_stream and state == "open"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_a_state_is_right_whatever_happens_meanwhile(start, way, seed):
    server = start("--may", "room.*", "--history-messages-max", "40")
    chance, numbers = random.Random(seed), []
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("bystander", line.url, token("43"))
        program.open("live", line.url, token("42", may=["room.*"]), WAYS[way])
        program.wait_open("live", "bystander")
        program.run(FOLLOW, topic="room.7")
        for _ in range(120):
            match chance.randrange(8):
                case 0:
                    answer_load(program, numbers)
                case 1 if chance.randrange(3) == 0:
                    program.run("backend.pending.splice(0).forEach((load) => load.fail())")
                case 2 if chance.randrange(3) == 0:
                    if way == "changing" and program.run("world.isBlocked = !world.isBlocked"):
                        eventually(lambda: has_given_up(program, line), "it has given up on WebSockets")
                    program.run("world.network(true)")
                    line.fail_over(line.target)
                case _:
                    numbers.append(len(numbers) + 1)
                    server.publish("room.7", numbers[-1])
        settle(program, numbers)
        numbers.append(len(numbers) + 1)
        program.wait_open("live")
        settle(program, numbers[:-1])
        server.publish("room.7", numbers[-1])
        settle(program, numbers)
        program.wait_open("bystander")
        server.publish("user.43", "marker")
        assert program.heard("bystander", "marker") == [("user.43", "marker")]


@pytest.mark.parametrize("way", ["websocket", "stream"])
def test_a_cut_that_loses_nothing_needs_no_second_load(start, redis, way):
    server = start(*STREAM, "--may", "room.*", redis=redis)
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("live", line.url, token("42", may=["room.*"]), WAYS[way])
        program.wait_open("live")
        program.run(FOLLOW, topic="room.7")
        program.until("backend.pending.length === 1")
        answer_load(program, [])
        for number in range(1, 9):
            add(redis, "room.7", number)
            line.fail_over(line.target)
            program.until("state.numbers.length === %d" % number)
        assert program.run("[state.numbers, backend.loads]") == [list(range(1, 9)), 1]


@pytest.mark.parametrize("way", ["websocket", "stream"])
def test_a_state_that_may_not_be_had_is_an_error(start, way):
    server = start()
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("live", line.url, token("42"), WAYS[way])
        program.wait_open("live")
        program.run(FOLLOW, topic="vault")
        program.until("backend.pending.length === 1")
        answer_load(program, [])
        program.until("live.log.errors.length === 1")
        assert program.log("live", "errors") == [["forbidden", "vault"]]
        server.publish("vault", json.dumps(1))
        server.publish("user.42", "marker")
        assert program.heard("live", "marker") == [("user.42", "marker")]
        assert program.run("state.numbers") == []


def test_what_comes_by_a_stream_during_the_load_is_applied_behind_it(start):
    server = start("--may", "room.*")
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("bystander", line.url, token("43"), "{stream: true}")
        program.open("live", line.url, token("42", may=["room.*"]), "{stream: true}")
        program.wait_open("live", "bystander")
        program.run(FOLLOW, topic="room.7")
        program.until("backend.pending.length === 1")
        for number in 1, 2, 3:
            server.publish("room.7", number)
        server.publish("user.42", "marker")
        assert program.heard("live", "marker")[-1] == ("user.42", "marker")
        assert program.run("state.numbers") == [], "it waits for the load"
        answer_load(program, [1, 2])
        program.until("state.numbers.length === 3")
        server.publish("room.7", 4)
        program.until("state.numbers.length === 4")
        assert program.run("[state.numbers, backend.loads]") == [[1, 2, 3, 4], 1]
        server.publish("user.43", "marker")
        assert program.heard("bystander", "marker") == [("user.43", "marker")]


def test_a_stream_that_is_cut_during_the_load_is_followed_by_another_load(start):
    server = start("--may", "room.*")
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("bystander", f"ws://{server.host}/ws", token("43"))
        program.open("live", line.url, token("42", may=["room.*"]), "{stream: true}")
        program.wait_open("live", "bystander")
        program.run(FOLLOW, topic="room.7")
        program.until("backend.pending.length === 1")
        line.fail_over(line.target)
        program.until("live.log.states.filter(([state]) => state === 'waiting').length === 1")
        server.publish("room.7", 1)
        program.wait_open("live")
        answer_load(program, [])
        program.until("backend.pending.length === 1")
        server.publish("room.7", 2)
        answer_load(program, [1])
        program.until("state.numbers.length === 2")
        assert program.run("[state.numbers, backend.loads]") == [[1, 2], 2]
        server.publish("user.43", "marker")
        assert program.heard("bystander", "marker") == [("user.43", "marker")]


def test_a_load_that_a_gap_asks_for_is_not_forgotten_with_its_connection(start):
    server = start("--may", "room.*", "--history-messages-max", "4")
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("bystander", f"ws://{server.host}/ws", token("43"))
        program.open("live", line.url, token("42", may=["room.*"]), LOSING)
        program.wait_open("live", "bystander")
        program.run(FOLLOW, topic="room.7")
        program.until("backend.pending.length === 1")
        answer_load(program, [])
        server.publish("room.7", 1)
        program.until("state.numbers.length === 1")
        good = line.target
        line.fail_over(type(good)(server_port=1))
        for number in range(2, 10):
            server.publish("room.7", number)
        program.run("world.losesPings = true")
        line.target = good
        program.until("live.log.gaps === 1")
        program.run("world.losesPings = false")
        line.fail_over(good)
        program.until("backend.pending.length === 1")
        answer_load(program, list(range(1, 10)))
        program.until("state.numbers.length === 9")
        assert program.run("backend.loads") == 2
        server.publish("user.43", "marker")
        assert program.heard("bystander", "marker") == [("user.43", "marker")]
