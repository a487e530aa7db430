"""A PUSH socket that speaks ZMTP byte by byte, for what libzmq does not send."""

import socket
import struct

from helpers.process import DEADLINE


def greeting(mechanism="NULL", version=(3, 1)):
    return b"\xff\0\0\0\0\0\0\0\x01\x7f" + bytes(version) + mechanism.encode().ljust(20, b"\0") + bytes(32)


def frame(body, flags=0):
    if len(body) < 256:
        return struct.pack("!BB", flags, len(body)) + body
    return struct.pack("!BQ", flags | 2, len(body)) + body


def message(*parts):
    return b"".join(frame(part, 1) for part in parts[:-1]) + frame(parts[-1])


def command(name, data=b""):
    return frame(bytes([len(name)]) + name.encode() + data, 4)


def ready(kind="PUSH"):
    return command("READY", b"\x0bSocket-Type" + struct.pack("!I", len(kind)) + kind.encode())


class Zmtp:
    """A connection; it sends what the test says, and reads frames."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=DEADLINE)
        self.input = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.input.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def greeted(self):
        """The mechanism in the other side's greeting."""
        greeting = self.input.read(64)
        assert greeting[:1] == b"\xff" and greeting[9:12] == b"\x7f\x03\x01", greeting
        return greeting[12:32].rstrip(b"\0").decode()

    def command(self):
        """The next command: its name and its data."""
        flags, length = self.input.read(2)
        assert flags == 4
        body = self.input.read(length)
        return body[1 : 1 + body[0]].decode(), body[1 + body[0] :]

    def open(self):
        self.send(greeting() + ready())
        assert self.greeted() == "NULL"
        name, data = self.command()
        assert name == "READY" and data == b"\x0bSocket-Type\0\0\0\x04PULL"
        return self

    def ended(self):
        """True once the other side has closed, whatever it sent before."""
        try:
            while self.input.read(1):
                pass
        except ConnectionResetError:
            pass
        return True
