"""Places of files, commands that run to their end, and waits with a deadline."""

import json
import os
import subprocess
import time
from pathlib import Path

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parents[2]
BINARY = os.environ.get("ONELOOP_BIN", str(ROOT / "target/release/oneloop"))
NODE_MODULES = os.environ.get("NODE_PATH", str(ROOT / "target/tests/node/node_modules"))

# The longest wait for anything that must happen. Never the proof that something did not.
DEADLINE = 20


def eventually(condition, what, seconds=DEADLINE):
    """Waits until `condition()` is true, returns its value, and fails naming `what`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"did not happen within {seconds} s: {what}"
        time.sleep(0.01)
    return value


def end(process):
    """Ends a process in good order, or else by force."""
    process.terminate()
    try:
        process.wait(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()


def brief(value):
    """The name of a test's parameter: short, and safe to print."""
    return repr(value)[:24]


def environment(**variables):
    """The environment without any ONELOOP_ variable but the given ones."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ONELOOP_")}
    return clean | variables


def run(*arguments, timeout=60, **options):
    """Runs a command to its end, as a person would type it."""
    options.setdefault("env", environment())
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True, text=True, timeout=timeout, **options,
    )


def oneloop(*arguments, **variables):
    """Runs the binary to its end, with the given variables and no others of its own."""
    return run(BINARY, *arguments, timeout=DEADLINE, env=environment(**variables))


def oneloop_under(wrapper, *arguments):
    """The same, run by another command in its own place."""
    return run(*wrapper, BINARY, *arguments, timeout=DEADLINE)


def node(script, *arguments, timeout=90):
    """Runs one of the node scripts beside this file and returns the JSON lines it printed."""
    done = run("node", HELPERS / script, *arguments, timeout=timeout,
               env=environment(NODE_PATH=NODE_MODULES))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
