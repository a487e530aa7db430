"""States that the client loads and follows: right after each load, cut and gap, on real sockets."""

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


def answer_load(program, numbers):
    """The back end answers the loads that wait."""
    program.run("backend.pending.splice(0).forEach((load) => load.answer(numbers.slice()))", numbers=numbers)


def settle(program, numbers):
    def is_right():
        answer_load(program, numbers)
        return program.run("state.numbers") == numbers
    eventually(is_right, "the state is right")


@pytest.mark.parametrize("seed", range(4))
def test_a_state_is_right_whatever_happens_meanwhile(start, seed):
    server = start("--may", "room.*", "--history-messages-max", "40")
    chance, numbers = random.Random(seed), []
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("bystander", line.url, token("43"))
        program.open("live", line.url, token("42", may=["room.*"]))
        program.wait_open("live", "bystander")
        program.run(FOLLOW, topic="room.7")
        for _ in range(120):
            match chance.randrange(8):
                case 0:
                    answer_load(program, numbers)
                case 1 if chance.randrange(3) == 0:
                    program.run("backend.pending.splice(0).forEach((load) => load.fail())")
                case 2 if chance.randrange(3) == 0:
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


def test_a_cut_that_loses_nothing_needs_no_second_load(start, redis):
    server = start(*STREAM, "--may", "room.*", redis=redis)
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("live", line.url, token("42", may=["room.*"]))
        program.wait_open("live")
        program.run(FOLLOW, topic="room.7")
        program.until("backend.pending.length === 1")
        answer_load(program, [])
        for number in range(1, 9):
            add(redis, "room.7", number)
            line.fail_over(line.target)
            program.until("state.numbers.length === %d" % number)
        assert program.run("[state.numbers, backend.loads]") == [list(range(1, 9)), 1]


def test_a_state_that_may_not_be_had_is_an_error(start):
    server = start()
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("live", line.url, token("42"))
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
