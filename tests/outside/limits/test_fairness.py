"""A peer that never stops sending delays nobody for long, and costs no memory."""

import json

import pytest
from fairness import FLOODS, REDIS, flooded, measure
from helpers.raw_client import TEXT, Raw, frame

# Generous: a shared machine and a debug build must pass. What it is like is measured by `fairness.py`.
SECONDS = 2


@pytest.mark.alone
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_does_not_starve_others(start, tmp_path, name):
    with flooded(name, start, tmp_path) as (server, bearer):
        with Raw(server) as bystander, Raw(server) as listener:
            bystander.upgrade(bearer("43"))
            listener.upgrade(bearer("42"))
            before = server.resident_kilobytes()
            for seconds in measure(server, bearer, answers=60, welcomes=5):
                assert max(seconds, default=0) < SECONDS
            assert server.resident_kilobytes() < before + 8192
            if name not in REDIS:
                assert server.publish("user.42", "here") == 1
                assert json.loads(listener.frame()[1])["data"] == "here"
            bystander.send(frame(TEXT, "ping"))
            assert bystander.frame() == (TEXT, b"pong")
