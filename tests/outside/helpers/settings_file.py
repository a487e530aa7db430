"""A settings file and a secret beside it, and the server that reads them."""

import json
import signal

from helpers.process import eventually
from helpers.server import counter

OLD, NEW = "the old secret, " + "o" * 32, "the new secret, " + "n" * 32


class Settings:
    """A settings file and a secret beside it, and the server that reads them."""

    def __init__(self, directory, start):
        self.file, self.secret = directory / "oneloop.toml", directory / "secret"
        self.secret.write_text(OLD)
        self.start_server = start

    def write(self, text="", secret=None):
        if secret:
            self.secret.write_text(secret)
        # As an editor does it: never half of a file.
        new = self.file.with_suffix(".new")
        new.write_text(f"jwt.secret_file = {json.dumps(str(self.secret))}\n{text}")
        new.rename(self.file)

    def start(self, text="", **options):
        self.write(text)
        self.server = self.start_server("--config", self.file, secret=None, **options)
        return self.server

    def reload(self, text="", secret=None, refused=False):
        """Writes them, has them read, and returns what the log says of it."""
        name = "reloads_refused_total" if refused else "reloads_total"
        self.write(text, secret)
        before, length = counter(self.server, name), len(self.server.log())
        self.server.signal(signal.SIGHUP)
        eventually(lambda: counter(self.server, name) == before + 1, "they were read")
        return self.server.log()[length:]
