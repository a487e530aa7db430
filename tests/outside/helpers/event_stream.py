"""A client of an event stream: the standard library speaks HTTP, this reads the events (WHATWG HTML, section 9.2.6)."""

import http.client
import itertools
import json
import socket

from helpers.process import DEADLINE
from helpers.tokens import token

MARKERS = itertools.count(1)


class Stream:
    """The answer to a request for a stream; `id` is the cursor of the latest event."""

    def __init__(self, server, sub="42", *, bearer=None, path="/ws", since=None, headers=(), address=None, context=None,
                 server_hostname=None, source=None):
        self.server, self.sub, self.id, self.retry, self.comments = server, str(sub), since or "", None, 0
        host, port = address or server.address
        context = context or (server.tls if address is None else None)
        options = {"timeout": DEADLINE, "source_address": source and (source, 0)}
        self.connection = http.client.HTTPConnection(host, port, **options)
        if context:
            # The address is dialled, and the name is what the certificate is for.
            self.connection.sock = context.wrap_socket(
                socket.create_connection((host, port), DEADLINE, source_address=options["source_address"]),
                server_hostname=server_hostname or host)
        if server_hostname:
            headers = {"Host": f"{server_hostname}:{port}", **dict(headers)}
        headers = {"Accept": "text/event-stream", **dict(headers)}
        if bearer is None:
            bearer = token(sub)
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        if since:
            headers["Last-Event-ID"] = since
        self.connection.request("GET", path, headers=headers)
        # It lets go of a socket whose answer ends with the connection.
        self.socket = self.connection.sock
        self.answer = self.connection.getresponse()
        self.status, self.headers = self.answer.status, self.answer.headers

    def event(self):
        """The next event: (name, data); None at the end of the response."""
        name, data = "", []
        while line := self.answer.readline():
            line = line.decode().removesuffix("\n")
            if not line and data:
                return name, "\n".join(data)
            field, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "id":
                self.id = value
            elif line:
                assert field == "retry", line
                self.retry = int(value)
        return None

    def next(self):
        """The next event without a name, as JSON, whose cursor is its id."""
        name, data = self.event()
        message = json.loads(data)
        assert name == "", (name, message)
        if "id" in message:
            assert message["id"] == self.id, message
        return message

    def welcomed(self):
        """Reads the welcome."""
        assert self.status == 200, (self.status, self.answer.read())
        self.welcome = self.next()
        assert self.welcome["op"] == "welcome", self.welcome
        return self

    def until(self, data):
        """Messages as (topic, data), anything else as it is, before the message with that data."""
        found = []
        while (message := self.next()).get("data") != data:
            plain = set(message) == {"topic", "id", "data"}
            found.append((message["topic"], message["data"]) if plain else message)
        return found

    def heard(self, publish=None):
        """Everything received so far, found by a marker on the client's own topic."""
        marker = {"marker": next(MARKERS)}
        (publish or self.server.publish)(f"user.{self.sub}", marker)
        return self.until(marker)

    def closed(self):
        """The event `close`, with nothing before it and the end behind it: (code, reason as JSON or None)."""
        name, data = self.event()
        assert name == "close", (name, data)
        close = json.loads(data)
        assert self.event() is None and set(close) == {"code", "reason"}
        return close["code"], json.loads(close["reason"]) if close["reason"] else None

    def refusal(self):
        """The body of a refusal, which has the form of a close."""
        close = json.loads(self.answer.read())
        return close["code"], json.loads(close["reason"])

    def end(self):
        self.answer.close()
        self.connection.close()

    def cut(self):
        """Ends the connection at once, as a lost network does in the end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
