"""A real Prometheus that asks a server every second, and what it answers to expressions."""

import contextlib
import json
import re
import subprocess
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from helpers.process import DEADLINE, end, eventually

# As the name of the one server that is scraped.
INSTANCE = "push-1"


class Prometheus:
    """Keeps its data below `directory`; it listens, on a port of its own choice, and answers when the constructor returns."""

    def __init__(self, directory, server):
        directory = Path(directory)
        target = server.line("admin").removeprefix("http://").rstrip("/")
        # It reads JSON as YAML.
        directory.joinpath("prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{
                "job_name": "oneloop",
                "static_configs": [{"targets": [target], "labels": {"instance": INSTANCE}}],
            }],
        }))
        self.output = directory / "prometheus.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen([
                "prometheus", f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data", "--web.listen-address=127.0.0.1:0",
            ], stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        def listens():
            text = self.output.read_text()
            assert self.process.poll() is None, f"it ended:\n{text}"
            return re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)\s', text)

        try:
            self.address = eventually(listens, "prometheus listens")[1]
            eventually(self.is_ready, "prometheus is ready")
        except BaseException:
            # Nobody else knows of it yet.
            self.end()
            raise

    def is_ready(self):
        """It listens before it has opened its data, and answers 503 meanwhile."""
        with contextlib.suppress(HTTPError), urlopen(f"http://{self.address}/-/ready", timeout=DEADLINE):
            return True

    def query(self, expression):
        """The value of an expression at this moment: each series with its labels and value."""
        return self.ask("query", query=expression)

    def query_range(self, expression, start, end, step):
        """The values of an expression at each step, in seconds of the clock."""
        return self.ask("query_range", query=expression, start=start, end=end, step=step)

    def ask(self, kind, **parameters):
        # An expression that it does not take is a status of 400, which raises.
        url = f"http://{self.address}/api/v1/{kind}?{urlencode(parameters)}"
        with urlopen(url, timeout=DEADLINE) as answer:
            answer = json.load(answer)
        assert answer["status"] == "success" and "warnings" not in answer, answer
        return answer["data"]["result"]

    def end(self):
        end(self.process)


def filled(expression, instance=".*", interval="1m"):
    """An expression of the dashboard with what Grafana puts in for its variables."""
    return expression.replace("$instance", instance).replace("$__rate_interval", interval)
