"""A wall clock that jumps changes no timer; only new tokens are measured by it."""

import contextlib
import glob
import time

import pytest
from support import DEADLINE, token
from websockets.exceptions import ConnectionClosed

LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
STEPS = ["-3000d", "-3600s", "+3000d", "+0"]


@pytest.mark.skipif(not LIBRARY, reason="libfaketime is not installed")
async def test_a_clock_that_jumps_closes_nobody_and_delays_nothing(start, tmp_path):
    stamp = tmp_path / "stamp"
    stamp.write_text("+0\n")
    server = start("--ping-seconds", 1, "--silence-seconds", 3, "--jwt-leeway-seconds", 0, variables={
        "LD_PRELOAD": LIBRARY[0], "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"})
    begun = time.monotonic()
    async with server.client("43") as bystander, server.client("42", seconds=3) as client:
        for step in STEPS:
            stamp.write_text(f"{step}\n")
            assert server.publish("user.42", step) == 1
            assert (await client.next())["data"] == step
            # Before its time is up by the new clock or after it.
            future = step == "+3000d"
            if future:
                assert (await server.refusal(token("44")))[0] == 401
            else:
                async with server.client("44") as late:
                    assert await late.heard() == []
            assert await bystander.heard() == []
        # The library answers the server's pings as long as it is asked to read; its end comes when it was promised.
        with pytest.raises(ConnectionClosed) as end, contextlib.suppress(TimeoutError):
            await client.next()
        assert end.value.rcvd.code == 4002
        assert 2 <= time.monotonic() - begun < DEADLINE
        assert await bystander.heard() == []
