"""The script that keeps who is here, against a plain model of it."""

import contextlib
import random

import redis as redis_py
from helpers.process import DEADLINE, ROOT, eventually

SCRIPT = (ROOT / "src/features/presence/script.lua").read_text()
NODES = ["a.1", "a.2", "b.1", "c.1"]
USERS = ["42", "4\"2", "ü"]
DEAD_AFTER = 3_600_000
BATCH = 2

# The last sign of life of a dead node.
OLD = 1_000_000_000_000


class Model:
    """The keys as plain values; `scores` of nodes are 0 (to be cleared up), "old" or "alive"."""

    def __init__(self):
        self.here, self.scores, self.calls, self.sets, self.events = {}, {}, {}, {}, []

    def call(self, node, number, changes, cleared):
        """`cleared`: which users of a dead node the script chose."""
        last, score = self.calls.get(node, 0), self.scores.get(node)
        if score == 0 or number > last + 1:
            return [0, 0, 0, 0]
        before = len(self.events)
        if self.scores and "alive" not in self.scores.values():
            self.scores = {name: score and "alive" for name, score in self.scores.items()}
        self.scores[node] = "alive"
        if number > last:
            for change in changes:
                (self.come if change[0] == "+" else self.leave)(node, change[1:])
            self.calls[node] = number
        dead = [name for name, score in self.scores.items() if score in (0, "old")]
        dead = sorted(dead, key=lambda name: (self.scores[name] != 0, name))
        if dead:
            name = dead[0]
            self.scores[name] = 0
            assert len(cleared(name)) == min(BATCH, len(self.sets.get(name, ())))
            for user in cleared(name):
                self.leave(name, user)
            if not self.sets.get(name):
                del self.scores[name]
                self.calls.pop(name, None)
        names = [name for name, _ in self.events[before:]]
        return [1, names.count("online"), names.count("offline"), int(bool(dead))]

    def come(self, node, user):
        if user not in self.sets.setdefault(node, set()):
            self.sets[node].add(user)
            self.here[user] = self.here.get(user, 0) + 1
            if self.here[user] == 1:
                self.events.append(("online", user))

    def leave(self, node, user):
        if user in self.sets.get(node, ()):
            self.sets[node].remove(user)
            self.here[user] -= 1
            if self.here[user] == 0:
                del self.here[user]
                self.events.append(("offline", user))


def key(name):
    return f"oneloop:{{evt}}:{name}"


def members(connection, node):
    return set(connection.command("SMEMBERS", key(f"here:{node}")))


def pairs(connection, *words):
    words = connection.command(*words)
    return dict(zip(words[::2], words[1::2]))


def scores(connection):
    found = pairs(connection, "ZRANGE", key("nodes"), 0, -1, "WITHSCORES")
    names = {"0": 0, str(OLD): "old"}
    return {name: names.get(score, "alive") for name, score in found.items()}


def check_turns(told, context):
    """Online and offline by turns, each with the right count."""
    online = set()
    for name, user, count in told:
        assert (user in online) == (name == "offline"), context
        online ^= {user}
        assert len(online) == count, context


def test_the_script_does_what_the_model_does(redis):
    # Tens of thousands of commands go over one connection.
    with contextlib.closing(redis.publisher()) as connection:
        for seed in range(60):
            check_seed(connection, seed)


def check_seed(connection, seed):
    chance, model = random.Random(seed), Model()
    connection.command("FLUSHALL")
    for step in range(60):
        node = chance.choice(NODES)
        if chance.random() < 0.15 and model.scores.get(node):
            # It has been silent for years.
            model.scores[node] = "old"
            connection.command("ZADD", key("nodes"), OLD, node)
        last = model.calls.get(node, 0)
        number = max(1, last + chance.choice([0, 1, 1, 1, 1, 2, -1]))
        changes = [chance.choice("+-") + user for user in
                   chance.sample(USERS, chance.randrange(4))]
        before = {name: members(connection, name) for name in NODES}
        keys = [key("here"), key("nodes"), key("calls"), key(f"here:{node}"), "evt"]
        answer = connection.command(
            "EVAL", SCRIPT, len(keys), *keys, node.partition(".")[0], node, number, DEAD_AFTER,
            BATCH, "stream", "evt", 100_000, *changes)

        def cleared(name):
            return before[name] - members(connection, name)

        context = (seed, step, node, number, changes)
        assert answer == model.call(node, number, changes, cleared), context
        assert scores(connection) == model.scores, context
        assert pairs(connection, "HGETALL", key("calls")) == {
            name: str(call) for name, call in model.calls.items()}, context
        assert pairs(connection, "HGETALL", key("here")) == {
            name: str(count) for name, count in model.here.items()}, context
        for name in NODES:
            assert members(connection, name) == model.sets.get(name, set()), (context, name)
        entries = connection.command("XRANGE", "evt", "-", "+")
        told = [(words[1], words[3], int(words[5])) for _, words in entries]
        # Users that are cleared together come in any order.
        assert sorted(one[:2] for one in told) == sorted(model.events), context
        check_turns(told, context)


def test_it_keeps_the_members_of_each_topic(redis):
    """The same model, whose users are members of topics: the sets of topics have those that it has, with their times."""
    pairs_of = [f"{topic} {user}" for topic in ["a", "b.7"] for user in ["42", "4 2", "ü"]]
    with contextlib.closing(redis.publisher()) as connection, redis_py.Redis(port=redis.port) as client:
        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("oneloop:{t}")
        eventually(lambda: redis.command("PUBSUB", "NUMSUB", "oneloop:{t}")[1] == 1, "a subscriber")
        assert listener.get_message(timeout=DEADLINE) is None, "the answer to it is passed over"
        for seed in range(20):
            chance, model, since = random.Random(seed), Model(), {}
            connection.command("FLUSHALL")
            for step in range(60):
                node = chance.choice(NODES)
                number = model.calls.get(node, 0) + chance.choice([0, 1, 1, 1])
                changes = [chance.choice("+-") + pair for pair in chance.sample(pairs_of, chance.randrange(5))]
                keys = [f"oneloop:{{t}}:{name}" for name in ["here", "nodes", "calls", f"here:{node}"]]
                answer = connection.command(
                    "EVAL", SCRIPT, len(keys), *keys, node.partition(".")[0], node, max(1, number), DEAD_AFTER,
                    BATCH, "members", "t", 0, *changes)
                before = len(model.events)
                context = (seed, step, node, number, changes)
                assert answer == model.call(node, max(1, number), changes, lambda _: set()), context
                told = model.events[before:]
                for topic in ["a", "b.7"]:
                    members = pairs(connection, "ZRANGE", f"oneloop:{{t}}:in:{topic}", 0, -1, "WITHSCORES")
                    expected = {pair.split(" ", 1)[1] for pair in model.here if model.here[pair]
                                and pair.startswith(topic + " ")}
                    assert set(members) == expected, context
                    # It is as old as it was, unless it came back.
                    for user, at in members.items():
                        pair = f"{topic} {user}"
                        assert int(at) > OLD
                        assert ("online", pair) in told or since[pair] == at, context
                        since[pair] = at
                changed = {pair.split(" ")[0] for _, pair in told}
                heard = []
                while len(heard) < len(changed):
                    message = listener.get_message(timeout=DEADLINE)
                    assert message, context
                    heard.append(message["data"].decode())
                assert sorted(heard) == sorted(changed), context
        assert listener.get_message(timeout=0.05) is None, "each topic once a call"
        listener.close()


def test_its_comments_are_whole_lines():
    """They are left out of what goes to Redis, line by line."""
    for line in SCRIPT.splitlines():
        assert "--" not in line or line.lstrip().startswith("--"), line
