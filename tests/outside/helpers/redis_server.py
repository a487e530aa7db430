"""Real Redis servers that can be killed, frozen and revived, and scripted false ones."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from helpers.ports import free_port
from helpers.process import DEADLINE, end, eventually
from helpers.resp_client import Publisher


# A primary counts as down after two seconds: earlier, one of a busy machine is lost again and again.
QUICK_SENTINEL = [
    "sentinel down-after-milliseconds main 2000", "sentinel failover-timeout main 6000",
    "sentinel parallel-syncs main 1",
]


class TlsSettings:
    """TLS of a Redis: the files of its certificate, and that of the authority that it and its clients trust."""

    def __init__(self, authority, certificate=None, asks="no"):
        """`asks`: `yes` if clients must have a certificate. TLS 1.3 and 1.2 are spoken."""
        self.authority = authority
        self.certificate, self.key = certificate or authority.issue()
        self.asks = asks

    def arguments(self, port):
        return [
            "--tls-port", str(port), "--tls-cert-file", self.certificate, "--tls-key-file", self.key,
            "--tls-ca-cert-file", self.authority.path, "--tls-auth-clients", self.asks,
        ]


class Redis:
    """A redis-server of its own directory on a free port, answering when the constructor returns.

    With `tls` it has a second port, which servers connect to; tests use the plain one."""

    def __init__(self, *arguments, password=None, tls=None):
        self.arguments, self.password, self.tls = list(arguments), password, tls
        self.directory = tempfile.mkdtemp(prefix="redis-")
        self.path = os.path.join(self.directory, "socket")
        # Servers are told whom to trust.
        self.needs_file = True
        self.process = None
        # Redis cannot choose its port itself; another process may take it first.
        for _ in range(10):
            self.port = self.server_port = free_port()
            if tls:
                self.server_port = free_port()
            if self.launch():
                return
        raise AssertionError("redis-server does not start")

    def launch(self):
        """True once it answers, false if it ended instead."""
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--daemonize", "no", "--dir", self.directory,
            "--unixsocket", self.path, *self.arguments,
        ]
        if self.password:
            command += ["--requirepass", self.password]
        if self.tls:
            command += self.tls.arguments(self.server_port)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def answers():
            if self.process.poll() is not None:
                return "ended"
            with contextlib.suppress(OSError):
                with contextlib.closing(self.publisher()) as publisher:
                    # Not another one that took the port first, while this one has yet to find out.
                    ours = f"process_id:{self.process.pid}\r\n"
                    info = publisher.command("INFO")
                    # It reads its own file first, and refuses commands until then.
                    return ours in info and "\r\nloading:0\r\n" in info and "answers"

        try:
            return eventually(answers, "redis-server answers") == "answers"
        except BaseException:
            # Nobody else knows of it yet.
            self.kill()
            raise

    def revive(self):
        """Starts it again on the same port."""
        assert self.process.poll() is not None
        eventually(self.launch, "redis-server has its port again")

    @property
    def url(self):
        return self.url_of(f":{self.password}" if self.password else "")

    def url_of(self, credentials, port=None):
        """The address for a server with these credentials, at a proxy's port perhaps."""
        scheme, at = "rediss" if self.tls else "redis", "@" if credentials else ""
        return f"{scheme}://{credentials}{at}127.0.0.1:{port or self.server_port}"

    @property
    def flags(self):
        """The flags that a server needs beside the address."""
        return ["--redis-ca-file", self.tls.authority.path] if self.tls and self.needs_file else []

    def publisher(self):
        publisher = Publisher("127.0.0.1", self.port)
        if self.password:
            publisher.command("AUTH", self.password)
        return publisher

    def command(self, *words):
        """Sends a command on a connection of its own; an error fails the test."""
        with contextlib.closing(self.publisher()) as publisher:
            answer = publisher.command(*words)
        assert not (isinstance(answer, str) and answer.startswith("-")), answer
        return answer

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self):
        self.kill()
        shutil.rmtree(self.directory)


class Sentinel:
    """A real one, which watches a Redis under the name `main`."""

    flags = []

    def __init__(self, directory, redis, *settings, quorum=1, host="127.0.0.1", password=None, port=None):
        """`settings`: further lines of its file. `port`: of the Redis, if not the plain one."""
        self.port, self.password = free_port(), password
        self.file = directory / f"sentinel-{self.port}.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", *settings,
                 f"sentinel monitor main {host} {port or redis.port} {quorum}"]
        if password:
            lines += [f"requirepass {password}"]
        self.file.write_text("\n".join([*lines, *QUICK_SENTINEL, ""]))
        self.url = f"redis://127.0.0.1:{self.port}"
        self.launch()

    def launch(self):
        self.process = subprocess.Popen(["redis-server", self.file, "--sentinel"], stdout=subprocess.DEVNULL)
        eventually(self.answers, "the Sentinel answers")

    def answers(self):
        with contextlib.suppress(OSError):
            return self.command("PING") == "+PONG"

    def publisher(self):
        publisher = Publisher("127.0.0.1", self.port)
        if self.password:
            publisher.command("AUTH", self.password)
        return publisher

    def command(self, *words):
        with contextlib.closing(self.publisher()) as publisher:
            return publisher.command(*words)

    def fields(self):
        """The answer to SENTINEL MASTER."""
        words = self.command("SENTINEL", "MASTER", "main")
        return dict(zip(words[::2], words[1::2], strict=True))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        end(self.process)


class Trio:
    """Three Sentinels that watch a primary and its replicas. A server is started with it as with a Redis."""

    flags = []

    def __init__(self, directory, primary, *replicas):
        self.servers = {server.port: server for server in [primary, *replicas]}
        self.sentinels = []
        try:
            for _ in range(3):
                self.sentinels.append(Sentinel(directory, primary, quorum=2))
            eventually(lambda: self.is_whole(len(replicas)), "the Sentinels know each other and the replicas")
        except BaseException:
            self.end()
            raise

    def is_whole(self, replicas):
        fields = [sentinel.fields() for sentinel in self.sentinels]
        known = [(one["num-other-sentinels"], int(one["num-slaves"]) >= replicas) for one in fields]
        quorums = [sentinel.command("SENTINEL", "CKQUORUM", "main") for sentinel in self.sentinels]
        return all(one == ("2", True) for one in known) and all(one.startswith("+OK") for one in quorums)

    @property
    def url(self):
        return self.url_of("main")

    def url_of(self, name, login="", query=""):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{login}{hosts}/{name}{query}"

    def primary(self):
        """The primary that all living Sentinels name; `None` while they do not agree, or one changes it.

        Two Sentinels may win in two epochs, one right after the other: then it changes twice."""
        living = [sentinel for sentinel in self.sentinels if sentinel.process.poll() is None]
        fields = [sentinel.fields() for sentinel in living]
        words = {(int(one["port"]), one["config-epoch"]) for one in fields}
        if len(words) > 1 or any("failover_in_progress" in one["flags"] for one in fields):
            return None
        return self.servers[words.pop()[0]]

    def has_other(self, before):
        """Waits until they name another primary, which says that it is one."""
        def named():
            primary = self.primary()
            is_other = primary not in (None, before)
            return is_other and "role:master" in primary.command("INFO", "replication") and primary
        return eventually(named, "the Sentinels name another primary", 60)

    def fail_over(self):
        """Orders another primary, and returns it."""
        before = self.primary()
        # Right after a failover none of the replicas counts as good yet.
        order = ["SENTINEL", "FAILOVER", "main"]
        eventually(lambda: self.sentinels[0].command(*order) == "+OK", "the failover begins", 60)
        return self.has_other(before)

    def publisher(self):
        return eventually(self.primary, "the Sentinels agree").publisher()

    def command(self, *words):
        return eventually(self.primary, "the Sentinels agree").command(*words)

    def end(self):
        for sentinel in self.sentinels:
            end(sentinel.process)


class Cluster:
    """Three primaries, each with a replica, that hold all slots. A server is started with it as with a Redis."""

    flags = []

    def __init__(self, nodes):
        self.nodes = nodes
        hosts = [f"127.0.0.1:{node.port}" for node in nodes]
        subprocess.run(["redis-cli", "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"],
                       check=True, stdout=subprocess.DEVNULL, timeout=60)
        eventually(self.is_whole, "all nodes know of each other", 60)

    def is_whole(self):
        info = [node.command("CLUSTER", "INFO") for node in self.nodes]
        roles = "".join(node.command("INFO", "replication") for node in self.nodes)
        return (all("cluster_state:ok" in one and "cluster_known_nodes:6" in one for one in info)
                and roles.count("master_link_status:up") == 3)

    @property
    def url(self):
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def subscribed(self):
        """The nodes with a subscription of a server."""
        living = [node for node in self.nodes if node.process.poll() is None]
        return [node for node in living if " name=oneloop " in node.command("CLIENT", "LIST", "TYPE", "pubsub")]

    def publisher(self):
        return self.nodes[-1].publisher()


def bulks(kind, *words):
    """An array (`*`) or push (`>`) of strings."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    parts = [b"%s%d\r\n" % (kind, len(words))]
    return b"".join(parts + [b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


def greeted(received, resp3=False):
    """The answers of a Redis to our handshake and PING; before version 6 there is no RESP3."""
    if b"HELLO" in received:
        return b"%1\r\n+proto\r\n:3\r\n" if resp3 else b"-ERR unknown command 'HELLO'\r\n"
    answer = b"+OK\r\n" if b"SETNAME" in received else b""
    if b"PSUBSCRIBE" in received:
        kind = b">" if resp3 else b"*"
        answer += kind + b"3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n"
    return answer + (b"+PONG\r\n" if b"PING" in received else b"")


class FalseRedis:
    """Accepts on a free port and answers each connection's bytes by a script.

    `answer(received)` is called with what one read brought and returns the bytes to send,
    or None to close the connection."""

    flags = []

    def __init__(self, answer=greeted):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.connections, self.times = [], []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.times.append(time.monotonic())
                self.connections.append(connection)
                threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError), connection:
            connection.settimeout(DEADLINE * 3)
            while received := connection.recv(65536):
                answer = self.answer(received)
                if answer is None:
                    return
                connection.sendall(answer)

    def say(self, data):
        """Sends to the newest connection."""
        self.connections[-1].sendall(data)

    def drop(self):
        """Ends the newest connection."""
        self.connections[-1].shutdown(socket.SHUT_RDWR)

    def publisher(self):
        return FalsePublisher(self)

    def close(self):
        for one in [self.listener, *self.connections]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class FalsePublisher:
    """A publisher's connection to a false Redis, which has one subscriber."""

    def __init__(self, false):
        self.false = false

    def command(self, _publish, channel, payload):
        self.false.say(bulks(b"*", "pmessage", "pub.*", channel, payload))
        return 1

    def close(self):
        pass
