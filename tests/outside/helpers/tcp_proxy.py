"""A TCP proxy with scripted faults, before one Redis or another."""

import contextlib
import socket
import threading
import time

from helpers.process import DEADLINE
from helpers.resp_client import Publisher


class TcpProxy:
    """Forwards each connection to the server that was its target when it was accepted."""

    def __init__(self, target):
        self.target, self.connections = target, []
        # Of a slow line: bytes at a time, and seconds between two times.
        self.piece, self.pause = 65536, 0
        # The bytes that a new connection passes on from the server before it is cut, at random.
        self.draw, self.cuts = None, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    far = socket.create_connection(("127.0.0.1", self.target.server_port))
                except OSError:
                    near.close()
                    continue
                connection = Connection(self, near, far)
                self.connections.append(connection)
                for ends in [(near, far), (far, near)]:
                    threading.Thread(target=connection.pump, args=ends, daemon=True).start()

    @property
    def url(self):
        return self.target.url_of("", self.port)

    @property
    def flags(self):
        return self.target.flags

    def publisher(self):
        """Publishers know which server it is: what they are told is not delayed with the rest."""
        return Publisher("127.0.0.1", self.target.port)

    def fail_over(self, target, hangs=False):
        """New connections go to `target`; the old ones are cut, or hang for ever."""
        self.target = target
        for connection in self.connections:
            connection.is_hanging = True
            if not hangs:
                connection.end()

    def end_hanging(self):
        """Waits until all that hangs was given up; then the old server may know it, too."""
        for connection in self.connections:
            if connection.is_hanging:
                assert connection.was_left.wait(DEADLINE), "a dead connection was not given up"
                connection.end()

    def slow_down(self, piece, pause):
        self.piece, self.pause = piece, pause

    def cut_after(self, draw):
        """Each new connection is cut after `draw()` bytes from the server, with `None` none any more."""
        self.draw = draw

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Connection:
    """A forwarded connection: both of its sockets."""

    def __init__(self, proxy, near, far):
        self.proxy, self.near, self.far = proxy, near, far
        self.is_hanging, self.was_left = False, threading.Event()
        self.left = proxy.draw() if proxy.draw else None

    def pump(self, source, sink):
        """Passes on what comes from `source`; once dead, swallows it, and its end, too."""
        with contextlib.suppress(OSError):
            while received := source.recv(self.proxy.piece):
                time.sleep(self.proxy.pause)
                is_cut = False
                if source is self.far and self.left is not None and not self.is_hanging:
                    received = received[: self.left]
                    self.left -= len(received)
                    is_cut = self.left == 0
                if not self.is_hanging:
                    sink.sendall(received)
                if is_cut:
                    self.proxy.cuts += 1
                    break
        if source is self.near:
            self.was_left.set()
        if not self.is_hanging:
            self.end()

    def end(self):
        for one in (self.near, self.far):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
