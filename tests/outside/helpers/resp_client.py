"""A client that speaks RESP, to a Redis or to the publishers' port."""

import socket

from helpers.process import DEADLINE


class Publisher:
    """A connection that speaks just enough RESP to publish; errors come back as values."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), timeout=DEADLINE)
        self.input = self.socket.makefile("rb")

    def command(self, *words):
        self.send(*words)
        return self.reply()

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))

    def reply(self):
        line = self.input.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the connection ended in a reply: {line!r}")
        kind, rest = line[:1], line[1:-2].decode()
        match kind:
            case b":":
                return int(rest)
            case b"+" | b"-":
                return line[:-2].decode()
            case b"_":
                return None
            case b"$" if rest == "-1":
                return None
            case b"$":
                return self.input.read(int(rest) + 2)[:-2].decode()
            case b"*" | b">":
                return [self.reply() for _ in range(int(rest))]
            case b"%":
                return {self.reply(): self.reply() for _ in range(int(rest))}
        raise AssertionError(f"not RESP: {line!r}")

    def ended(self):
        """True once the other side has closed, whatever it sent before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self):
        self.input.close()
        self.socket.close()
