"""Free ports, for servers that cannot choose their own."""

import contextlib
import itertools
import os
import socket

# The system gives none of these to a process that connects or asks for port 0: a killed server finds its own free again.
# 22,000 and the step of 7,919 have no common factor; processes that begin side by side are far apart.
PORTS = range(10_000, 32_000)
CANDIDATES = itertools.islice(itertools.cycle(PORTS), os.getpid() * 7_919 % len(PORTS), None)


def free_port():
    """A port that nothing is bound to, another one each time."""
    for port in itertools.islice(CANDIDATES, len(PORTS)):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise AssertionError(f"every port of {PORTS} is taken")
