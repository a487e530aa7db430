"""The members of a topic, as the client lists them."""

from helpers.js_runtimes import Line, MiniProgram
from helpers.process import eventually
from helpers.server import counter
from helpers.tokens import token

WATCH = """(() => {
  globalThis.seen = [];
  globalThis.off = live.members(topic, (users, count) => { seen = [...users].sort().concat(count); });
})()"""


def is_seen(program, *expected):
    program.until(f"JSON.stringify(seen) === JSON.stringify({list(expected)})")


def test_members_are_told_on_every_connection(start):
    server = start("--members", "room.*", "--may", "room.*")
    with Line(server) as line, MiniProgram("wx") as program:
        # Before it is connected, as well as later.
        program.open("live", line.url, token("42"))
        program.run(WATCH, topic="room.7")
        is_seen(program, "42", 1)
        program.open("bystander", line.url, token("43"))
        program.wait_open("bystander")
        program.open("other", line.url, token("44"))
        program.wait_open("other")
        program.run("globalThis.leave = other.subscribe('room.7')")
        is_seen(program, "42", "44", 2)
        line.fail_over(line.target)
        program.until("live.log.states.filter((one) => one[0] === 'open').length > 1")
        is_seen(program, "42", "44", 2)
        program.run("leave()")
        is_seen(program, "42", 1)
        program.run("other.subscribe('room.7') && off()")
        program.run("globalThis.again = live.subscribe('room.7')")
        eventually(lambda: counter(server, "memberships") == 5, "each has its own topic, two the room")
        server.publish("room.7", "after")
        assert program.heard("live", "after")
        assert program.run("seen") == ["42", 1], "it watches no more"
        server.publish("user.43", "marker")
        assert program.heard("bystander", "marker") == [("user.43", "marker")]


def test_a_list_that_may_not_be_had_is_an_error(start):
    server = start("--members", "room.*", "--may", "hall")
    with Line(server) as line, MiniProgram("wx") as program:
        program.open("live", line.url, token("42"))
        program.wait_open("live")
        program.run(WATCH, topic="hall")
        program.until("live.log.errors.length === 1")
        assert program.log("live", "errors") == [["forbidden", "hall"]]
        assert program.run("seen") == []
