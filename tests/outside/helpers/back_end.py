"""A back end that has only HTTP, and answers as a test says."""

import contextlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BackEnd:
    """A server whose `answer(number)` gives each request a status, or None: it closes without an answer.

    `requests` has all of them as (headers, body), `taken` the entries that were answered with 2xx, as (id, body)."""

    def __init__(self, answer=lambda number: 204, port=0, certificate=None):
        self.answer, self.requests, self.taken, self.sockets = answer, [], [], []
        back_end = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                back_end.sockets.append(self.connection)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = len(back_end.requests)
                back_end.requests.append((dict(self.headers), body))
                status = back_end.answer(number)
                if status is None:
                    self.close_connection = True
                    return
                if status < 300:
                    back_end.taken.append((self.headers["Oneloop-Entry"], body))
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"" if status == 204 else b"ok\n")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port, self.scheme = self.server.server_port, "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def connections(self):
        """How many have come."""
        return len(self.sockets)

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?key=of-the-path"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
