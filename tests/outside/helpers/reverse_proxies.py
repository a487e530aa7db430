"""The proxies in front that the manual shows, started from its own snippets."""

import socket
import ssl
import subprocess
from pathlib import Path

from helpers.nginx import Certificate
from helpers.ports import free_port
from helpers.process import DEADLINE, ROOT, end, environment, eventually
from websockets.asyncio.client import connect

NAME = "push.example.com"


def snippet(language):
    chapter = (ROOT / "src/manual/proxies.md").read_text()
    blocks = chapter.split(f"```{language}\n")
    assert len(blocks) == 2, f"one {language} snippet in the chapter"
    return blocks[1].split("```")[0]


def replaced(text, **names):
    """The text with other values for what a reader would change too; each must be there."""
    for old, new in names.items():
        assert old in text, f"{old!r} in {text}"
        text = text.replace(old, str(new))
    return text


class Proxy:
    """A running proxy before a server. `change` maps parts of the documented snippet to others."""

    def __init__(self, kind, server, directory, change=None):
        self.directory = Path(directory)
        made = Certificate(directory, NAME)
        self.certificate, self.key = made.chain, made.key
        self.context = ssl.create_default_context(cafile=made.authority)
        self.log = self.directory / f"{kind}.log"
        text = replaced(snippet(kind), **{"127.0.0.1:8099": server.host}, **(change or {}))
        for _ in range(3):
            self.port = free_port()
            command = getattr(self, kind)(text)
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    [str(word) for word in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    env=environment(XDG_DATA_HOME=str(directory), XDG_CONFIG_HOME=str(directory)),
                )
            # Somebody else may have taken the port meanwhile.
            if eventually(lambda: self.answers() or self.process.poll() is not None, f"{kind} answers") \
                    and self.process.poll() is None:
                return
        raise AssertionError(self.log.read_text())

    def nginx(self, text):
        text = replaced(text, **{
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            f"/etc/ssl/{NAME}.pem": self.certificate, f"/etc/ssl/{NAME}.key": self.key,
        })
        folders = [f"{name}_temp_path {self.directory}/{name};"
                   for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
        (self.directory / "nginx.conf").write_text(
            f"daemon off; pid {self.directory}/nginx.pid; error_log stderr; events {{ }}\n"
            f"http {{ access_log off; {' '.join(folders)}\n{text}}}\n")
        return ["nginx", "-e", "stderr", "-p", self.directory, "-c", self.directory / "nginx.conf"]

    def caddy(self, text):
        site = f"https://{NAME}:{self.port} {{\n    bind 127.0.0.1\n    tls {self.certificate} {self.key}"
        text = replaced(text, **{f"{NAME} {{": site})
        (self.directory / "Caddyfile").write_text(
            f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{text}")
        return ["caddy", "run", "--adapter", "caddyfile", "--config", self.directory / "Caddyfile"]

    def haproxy(self, text):
        both = self.directory / "both.pem"
        both.write_text(self.certificate.read_text() + self.key.read_text())
        text = replaced(text, **{"bind :443": f"bind 127.0.0.1:{self.port}", f"/etc/ssl/{NAME}.pem": both})
        (self.directory / "haproxy.cfg").write_text(text)
        return ["haproxy", "-db", "-f", self.directory / "haproxy.cfg"]

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE):
                return True
        except ConnectionRefusedError:
            return False

    def dial(self, bearer, source, *forwarded):
        """A connection from a loopback address, with such lines of its own."""
        headers = [("Authorization", f"Bearer {bearer}"), *(("X-Forwarded-For", one) for one in forwarded)]
        return connect(
            f"wss://{NAME}:{self.port}/ws", host="127.0.0.1", port=self.port, ssl=self.context,
            local_addr=(source, 0), additional_headers=headers, compression=None, ping_interval=None,
            proxy=None, open_timeout=DEADLINE, close_timeout=DEADLINE,
        )

    def end(self):
        end(self.process)
