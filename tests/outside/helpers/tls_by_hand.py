"""TLS whose records a test can change: cut, in pieces of any size, or followed by an end that TLS does not tell."""

import contextlib
import socket
import ssl

from helpers.process import DEADLINE
from helpers.raw_client import Raw

APPLICATION_DATA = 23


def records(data, bytes_max):
    """The same stream in records of at most so many bytes each; only records that are not encrypted may be cut."""
    out = b""
    while data:
        head, length = data[:3], int.from_bytes(data[3:5])
        body, data = data[5 : 5 + length], data[5 + length :]
        for at in range(0, length, bytes_max):
            piece = body[at : at + bytes_max]
            out += head + len(piece).to_bytes(2) + piece
    return out


class TlsByHand:
    """A socket to the listener with TLS above it; it offers what `Raw` needs of a socket."""

    def __init__(self, server, context=None):
        self.input, self.output = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or server.tls).wrap_bio(self.input, self.output, server_hostname="localhost")
        self.stream = socket.create_connection(server.address, DEADLINE)
        # Pieces go at once, each in a segment of its own.
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def hello(self):
        """The ClientHello, which is not sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.output.read()

    def flush(self):
        # Even an empty write is an error behind our own end of TCP.
        if data := self.output.read():
            self.stream.sendall(data)

    def feed(self):
        data = self.stream.recv(65536)
        if data:
            self.input.write(data)
        else:
            self.input.write_eof()

    def shake_hands(self, pieces=None):
        """Shakes hands; `pieces(hello)` are sent in place of the ClientHello."""
        hello = self.hello()
        for piece in pieces(hello) if pieces else [hello]:
            self.stream.sendall(piece)
        while True:
            try:
                self.feed()
                self.tls.do_handshake()
                return self.flush()
            except ssl.SSLWantReadError:
                self.flush()

    def sendall(self, data, bytes_max=None):
        """Sends data in records of so many bytes."""
        for at in range(0, len(data), bytes_max or 16_384):
            self.tls.write(data[at : at + (bytes_max or 16_384)])
        self.flush()

    def recv(self, count):
        """As that of a socket; an end that TLS does not tell is an error."""
        while True:
            try:
                return self.tls.read(count)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                self.flush()
                self.feed()

    def close(self):
        """Ends TCP without a word of TLS."""
        self.stream.close()


class RawByHand(Raw):
    """WebSocket by hand over TLS by hand."""

    def __init__(self, server, context=None, pieces=None):
        self.server, self.input = server, b""
        self.socket = TlsByHand(server, context)
        self.socket.shake_hands(pieces)
