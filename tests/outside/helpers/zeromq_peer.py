"""A ZeroMQ socket that is refused: zeromq_peer.py ENDPOINT KIND MESSAGE [USER PASSWORD]. With a login it prints a
line once it learns that it is refused.

It is a process, since libzmq may never finish the end of a socket whose handshake was answered by ERROR."""

import contextlib
import signal
import sys

import zmq

endpoint, kind, message, *login = sys.argv[1:]
socket = zmq.Context().socket(getattr(zmq, kind))
if login:
    socket.plain_username, socket.plain_password = (word.encode() for word in login)
events = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
socket.connect(endpoint)
with contextlib.suppress(zmq.ZMQError):
    socket.send_multipart(message.encode().split(b" "), zmq.NOBLOCK)
if login:
    events.poll()
    print("refused", flush=True)
signal.pause()
