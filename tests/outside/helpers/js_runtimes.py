"""Places where the client runs, a page in a browser or a mini program in node, told what to do line by line."""

import json
import shutil
import subprocess
import threading
from types import SimpleNamespace

from helpers.process import DEADLINE, HELPERS, NODE_MODULES, environment, eventually
from helpers.tcp_proxy import TcpProxy


class Runtime:
    """A node script that reads one piece of JavaScript a line, and answers each with what it came to."""

    def __init__(self, script, *arguments):
        self.process = subprocess.Popen(
            ["node", HELPERS / script, *map(str, arguments)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(NODE_PATH=NODE_MODULES),
        )
        self.watchdog = threading.Timer(DEADLINE * 6, self.process.kill)
        self.watchdog.start()
        assert self.read() == "ready"

    def read(self):
        line = self.process.stdout.readline()
        assert line, f"the runtime ended: {self.process.wait()}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def run(self, code, **values):
        """Runs an expression, with `values` as names in it, and waits if it is a promise."""
        self.process.stdin.write(json.dumps({"code": code, "values": values}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def until(self, code, seconds=DEADLINE):
        return eventually(lambda: self.run(code), code, seconds)

    def open(self, name, url, token=None, options="{}", topics=()):
        """A client that notes all that it is told, as the global `name`; `token` a text, or a list of one for each time."""
        self.run(
            """(() => {
              const tokens = [].concat(token || []);
              const log = { heard: [], states: [], gaps: 0, errors: [], asked: [] };
              const ask = (stale) => tokens[Math.min(log.asked.push(stale), tokens.length) - 1];
              const live = oneloop(url, Object.assign({ token: ask, backoffMs: 50, backoffMsMax: 100 }, options));
              live.onState((state, why) => log.states.push([state, why.code || why.reason || null]));
              live.onGap(() => log.gaps++);
              live.onError((error) => log.errors.push([error.code, error.topic]));
              live.on("*", (data, message) => log.heard.push([message.topic, data]));
              topics.forEach((topic) => live.subscribe(topic));
              globalThis[name] = Object.assign(live, { log });
            })()""".replace("options)", f"{options})"),
            name=name, url=url, token=token, topics=topics,
        )

    def wait_open(self, *names):
        for name in names:
            self.until(f"{name}.state === 'open'")

    def heard(self, name, last):
        """The messages received so far, once `last` is among them."""
        self.until(f"JSON.stringify({name}.log.heard).includes({json.dumps(json.dumps(last))})")
        return [tuple(one) for one in self.run(f"{name}.log.heard")]

    def log(self, name, what):
        return self.run(f"{name}.log.{what}")

    def close(self):
        self.watchdog.cancel()
        self.process.stdin.close()
        try:
            self.process.wait(timeout=DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


BROWSERS = {"chromium": "chromium.cjs", "firefox-esr": "firefox.cjs"}


class Page(Runtime):
    """A page of that address, with the client loaded by a script element. By https the browser takes any certificate."""

    def __init__(self, directory, host, browser="chromium", scheme="http"):
        super().__init__(BROWSERS[browser], shutil.which(browser), directory / "profile", f"{scheme}://{host}")


class MiniProgram(Runtime):
    """A program that has `wx`, `uni` or what mini games have (`game`), as `platform`."""

    def __init__(self, kind):
        super().__init__("mini_program.cjs", kind)


class Line(TcpProxy):
    """The line between clients and one server or another."""

    def __init__(self, server):
        super().__init__(target(server))
        self.host = f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"ws://{self.host}/ws"


def target(server):
    return SimpleNamespace(server_port=server.address[1])
