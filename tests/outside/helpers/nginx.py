"""A real nginx in front of a server, with a certificate that openssl made."""

import contextlib
import socket
import subprocess
from pathlib import Path

from helpers.certificates import Authority
from helpers.ports import free_port
from helpers.process import DEADLINE, end, eventually

# As nginx' own documentation has it: without these lines the handshake does not get through.
UPGRADE = """
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
    proxy_set_header Host $http_host;
"""


class Certificate:
    """A certificate for `name`, signed by an authority of its own; with `days` 0 it is expired."""

    def __init__(self, directory, name="localhost", days=90):
        authority = Authority(Path(directory))
        self.authority = authority.path
        self.chain, self.key = authority.issue(f"DNS:{name}", days)


class Nginx:
    """Stands in front of a server on a free port; `lines` are those of its location."""

    def __init__(self, directory, server, lines=UPGRADE, certificate=None):
        self.directory, self.process = Path(directory), None
        for _ in range(10):
            self.port = free_port()
            if self.launch(server, lines, certificate):
                return
        raise AssertionError("nginx does not start")

    def launch(self, server, lines, certificate):
        tls = ""
        if certificate:
            tls = f"ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key};"
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{kind}_temp_path {self.directory}/{kind};\n" for kind in kinds)
        (self.directory / "nginx.conf").write_text(f"""
            daemon off;
            worker_processes 1;
            pid {self.directory}/pid;
            error_log stderr;
            events {{}}
            http {{
                access_log off;
                {places}
                server {{
                    listen 127.0.0.1:{self.port} {"ssl" if certificate else ""};
                    {tls}
                    location / {{ proxy_pass http://{server.host}; {lines} }}
                }}
            }}
        """)
        command = ["/usr/sbin/nginx", "-p", self.directory, "-c", self.directory / "nginx.conf",
                   "-e", "stderr"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

        def listens():
            if self.process.poll() is not None:
                return "ended"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE).close()
                return "listens"

        return eventually(listens, "nginx listens") == "listens"

    def end(self):
        end(self.process)
