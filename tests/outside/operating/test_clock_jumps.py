"""A wall clock that jumps changes no timer but the end of tokens, those that are shown and those of open connections."""

import glob

from helpers.tokens import token

LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
STEPS = ["-3000d", "-3600s", "+0"]


async def test_a_clock_that_is_set_closes_those_whose_token_has_expired_and_nobody_else(start, tmp_path):
    stamp = tmp_path / "stamp"
    stamp.write_text("+0\n")
    server = start("--ping-seconds", 1, "--silence-seconds", 3, "--jwt-leeway-seconds", 0, variables={
        "LD_PRELOAD": LIBRARY[0], "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"})
    late, early = token("42", seconds=36_000), token("44")
    async with (
        server.client("43", seconds=36_000_000) as bystander,
        server.client("42", bearer=late) as client,
        server.client("44", bearer=early) as expiring,
    ):
        for step in STEPS:
            stamp.write_text(f"{step}\n")
            assert server.publish("user.42", step) == 1
            assert (await client.next())["data"] == step
            async with server.client("45") as newcomer:
                assert await newcomer.heard() == []
            assert await expiring.heard() == [] and await bystander.heard() == []
        # Behind the one token's end, before the other's.
        stamp.write_text("+3600s\n")
        assert (await server.refusal(early))[0] == 401
        assert (await expiring.closed())[0] == 4002
        assert server.publish("user.44", 1) == 0
        assert server.publish("user.42", "later") == 1
        assert (await client.next())["data"] == "later"
        assert await bystander.heard() == []

