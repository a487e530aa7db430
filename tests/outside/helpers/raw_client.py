"""WebSocket by hand over a blocking socket: for what a well-behaved library never sends."""

import base64
import contextlib
import json
import os
import socket
import struct

from helpers.process import DEADLINE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(range(16))).decode(),
}


def frame(opcode, payload=b"", *, fin=True, masked=True, reserved=0, length=None):
    """A frame (RFC 6455 section 5.2); `length` lies about the payload's own."""
    payload = payload.encode() if isinstance(payload, str) else payload
    length = len(payload) if length is None else length
    mask_bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65536:
        head += struct.pack("!BH", mask_bit | 126, length)
    else:
        head += struct.pack("!BQ", mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + mask + mixed.to_bytes(len(payload), "big")


def head(server, path="/ws", bearer=None, method="GET", drop=(), extra=(), **replace):
    """A request head; `drop` leaves headers out, `extra` adds lines, `replace` sets `upgrade=…`."""
    headers = {"Host": server.host, **HANDSHAKE}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    for name in drop:
        del headers[name]
    for name in list(headers):
        headers[name] = replace.get(name.lower().replace("-", "_"), headers[name])
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, *extra, "", ""]).encode()


class Raw:
    """A connection to the listener, or to another address, by TCP or with a path by a Unix socket; `source` is the
    address that it comes from."""

    def __init__(self, server, receive_buffer=None, address=None, source=None):
        self.server, self.input = server, b""
        address = address or server.address
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(DEADLINE)
        self.socket.connect(address)
        if server.tls and address == server.address:
            # The end of the stream must be told by TLS: a bare one is an error.
            self.socket = server.tls.wrap_socket(
                self.socket, server_hostname=server.address[0], suppress_ragged_eofs=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def more(self):
        """Reads once; false at the end of the stream, however it ended."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.input += data
        return bool(data)

    def take(self, count):
        while len(self.input) < count:
            if not self.more():
                raise EOFError(f"the end, after {self.input!r}")
        taken, self.input = self.input[:count], self.input[count:]
        return taken

    def answer(self):
        """The head of the HTTP answer: (status, headers with small names)."""
        while b"\r\n\r\n" not in self.input:
            if not self.more():
                raise EOFError(f"the end, after {self.input!r}")
        text, self.input = self.input.split(b"\r\n\r\n", 1)
        first, *lines = text.decode().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(first.split()[1]), headers

    def upgrade(self, bearer, **options):
        """Shakes hands with a header token; returns the welcome."""
        self.send(head(self.server, bearer=bearer, **options))
        status, _ = self.answer()
        assert status == 101, status
        opcode, payload = self.frame()
        welcome = json.loads(payload)
        assert opcode == TEXT and welcome["op"] == "welcome", (opcode, payload)
        return welcome

    def frame(self):
        """The next frame of the server: (opcode, payload). It must be whole and unmasked."""
        first, second = self.take(2)
        assert first & 0x70 == 0 and second & 0x80 == 0, (first, second)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.take(8))
        assert first & 0x80, "a fragment"
        return first & 0x0F, self.take(length)

    def frames_to_close(self):
        """All frames before the close frame, its code, its reason as JSON; then only the end."""
        frames = []
        while (got := self.frame())[0] != CLOSE:
            frames.append(got)
        (code,) = struct.unpack("!H", got[1][:2])
        assert len(got[1]) <= 125, got
        reason = json.loads(got[1][2:]) if got[1][2:] else None
        return frames, code, reason

    def close_code(self):
        """The code of the close frame that must come next; then only the end of the stream."""
        frames, code, _ = self.frames_to_close()
        assert frames == [], frames
        with contextlib.suppress(OSError):
            self.send(frame(CLOSE, struct.pack("!H", code)))
        assert not self.more(), "bytes after the close frame"
        return code

    def ended(self):
        """True at the end of the stream with nothing more before it."""
        return not self.input and not self.more()
