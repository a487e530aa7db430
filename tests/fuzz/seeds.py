"""Where the fuzz targets begin: inputs made from the protocols, written to a folder for each target."""

import pathlib
import ssl
import struct
import sys

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    "Host: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
)


def heads():
    yield f"GET /ws HTTP/1.1\r\n{UPGRADE}\r\n"
    yield f"GET /ws?token=T&since=5&a= HTTP/1.1\r\n{UPGRADE}Origin: https://example.com\r\n\r\nrest"
    yield f"GET /ws HTTP/1.1\r\n{UPGRADE}Sec-WebSocket-Protocol: oneloop.v1, bearer.T\r\n\r\n"
    yield f"GET /ws HTTP/1.1\r\n{UPGRADE}X-WX-OPENID: 42\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
    yield f"GET http://h:80/ws HTTP/1.1\r\n{UPGRADE}Authorization: Bearer T\r\n\r\n"
    yield f"GET / HTTP/1.1\r\n{UPGRADE}Connection: Upgrade\r\nOrigin: null\r\nOrigin: http://h\r\n\r\n"
    yield "GET / HTTP/1.0\r\nHost: h\r\n\r\n"
    yield "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
    yield "CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"
    yield "GET * HTTP/1.1\nHost: a\nHost: b\n\n"
    yield "GET / HTTP/1.1\r\nHost: h" + "\r\nA: b" * 150 + "\r\n\r\n"
    yield "GET /" + "a" * 1100


def proxy_protocol():
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    v4, v6 = bytes(range(12)), bytes(range(36))
    added = b"\x04\0\x03\0\0\0"
    for command, family, rest in [
        (0x20, 0x00, b""), (0x21, 0x00, b""), (0x21, 0x11, v4), (0x21, 0x11, v4 + added),
        (0x21, 0x21, v6), (0x21, 0x31, bytes(216)), (0x21, 0x12, v4), (0x21, 0x11, bytes(520)),
        (0x21, 0x11, bytes(521)), (0x21, 0x21, v4),
    ]:
        yield signature + struct.pack("!BBH", command, family, len(rest)) + rest + b"GET /"
    yield b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


def handshakes():
    for version, suites in [
        (ssl.TLSVersion.TLSv1_3, "DEFAULT"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20"),
        (ssl.TLSVersion.TLSv1_2, "RSA"),
    ]:
        for protocols in [[], ["h2", "http/1.1"], ["h2"]]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.maximum_version = version
            context.set_ciphers(suites)
            context.set_alpn_protocols(protocols)
            sent = ssl.MemoryBIO()
            client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="test")
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                hello = sent.read()
            yield hello + b"\x15\x03\x03\0\x02\x02\x30"
            half = len(hello) // 2
            first = b"\x16\x03\x01" + struct.pack("!H", half) + hello[5:5 + half]
            second = b"\x16\x03\x01" + struct.pack("!H", len(hello) - 5 - half) + hello[5 + half:]
            yield first + second + b"\x14\x03\x03\0\x01\x01"
    yield b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    yield b"\x80\x2e\x01\0\x02"


def records():
    # The first byte picks the suite; then an order, a length and bytes: 0 for raw bytes, 16 data, 18 handshake, 19 alert, 1 to 15
    # a content at will.
    def order(kind, plain):
        return struct.pack("!BB", kind, len(plain)) + plain

    data, update = order(16, b"some data"), order(18, b"\x18\0\0\1\1")
    empty, close, cancel = order(16, b""), order(19, b"\1\0"), order(19, b"\1\x5a")
    hello = order(18, b"\1\0\0\x05hello")
    parts = order(18, b"\x18\0") + order(18, b"\0\1\0")
    for suite in range(6):
        start = bytes([suite])
        yield start + data * 2 + update + data + close
        yield start + (empty + update) * 20
        yield start + parts + data + cancel * 5
        yield start + hello * 5
        yield start + order(18, b"\1\0\0") + order(18, b"\3ab") + order(18, b"c") + data
        yield start + struct.pack("!BB", 16, 252) + b"x" + struct.pack("!BB", 16, 253) + b"x"
        yield start + data + order(0, b"\x14\3\3\0\1\1") + data
        yield start + order(0, b"\x17\3\3\0\x18" + bytes(24))
        yield start + order(3, b"\1") + order(19, b"\2\x30") + order(9, b"x")


def frame(first, payload, masked=True, length=None):
    length = len(payload) if length is None else length
    bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    mask = b"\x07\x4d\xb1\x1b" if masked else b""
    key = mask or bytes(4)
    return head + mask + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def frames():
    text, more, last = 0x81, 0x01, 0x80
    yield frame(text, b"hello") + frame(0x82, b"\xff" * 130) + frame(0x89, b"p") + frame(0x8A, b"")
    yield frame(more, b"a") + frame(0x89, b"p") + frame(0, "\u00e9".encode()) + frame(last, b"b")
    yield frame(more, b"\xc3") + frame(last, b"\xa9") + frame(text, b"\xc3") + frame(text, b"x")
    yield frame(more, b"") + frame(0, b"") * 9
    yield frame(0x02, b"x" * 600) + frame(last, b"x" * 600)
    yield frame(0x88, b"\x03\xe8bye") + frame(text, b"late")
    yield frame(0x88, b"\x03\xed")
    yield frame(0x88, b"\x03")
    yield frame(text, b"x" * 1000) + frame(text, b"x" * 1001)
    yield frame(text, b"", length=1 << 40)
    yield frame(text, b"unmasked", masked=False)
    yield frame(0xC1, b"") + frame(0x83, b"")
    yield frame(0x89, b"x" * 126)
    yield frame(0x09, b"") + frame(last, b"")


def array(*parts, kind="*"):
    strings = [f"${len(part)}\r\n{part}\r\n" for part in parts]
    return f"{kind}{len(parts)}\r\n" + "".join(strings)


def subscribed(pattern, count, kind="*"):
    return f"{kind}3\r\n$10\r\npsubscribe\r\n${len(pattern)}\r\n{pattern}\r\n:{count}\r\n"


def replies():
    hello = "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
    message = array("pmessage", "pub.*", "pub.a", "hello", kind=">")
    # The bits of the first byte: RESP2 alone, a password, a user, several patterns.
    yield "@" + hello + "+OK\r\n" + subscribed("pub.*", 1, ">") + message + "+PONG\r\n" + message
    yield "A" + "+OK\r\n" + subscribed("pub.*", 1) + array("pmessage", "pub.*", "pub.a", "x" * 65)
    yield "B" + "-NOPROTO sorry\r\n+OK\r\n+OK\r\n" + subscribed("pub.*", 1) + array("pong", "")
    yield "C" + "-WRONGPASS no\r\n"
    yield "G" + "+OK\r\n+OK\r\n" + subscribed("pub.*", 1) + "-LOADING wait\r\n-NOPERM no\r\n"
    patterns = ["pub.*", "pub.a*", "[p]ub.?"]
    several = "".join(subscribed(pattern, 1, ">") for pattern in patterns)
    again = "".join(array("pmessage", pattern, "pub.a", "1", kind=">") for pattern in patterns)
    yield "H" + hello + "+OK\r\n" + several + again
    yield "@-ERR unknown command\r\n+OK\r\n" + subscribed("pub.*", 1) + array("punsubscribe", "pub.*")
    yield "@" + "*1\r\n" * 200 + ":1\r\n"
    yield "@$1099511627776\r\n"
    yield "@$-1\r\n*-1\r\n_\r\n#t\r\n,1.5\r\n(123\r\n=7\r\ntxt:abc\r\n!3\r\nERR\r\n~1\r\n:1\r\n"
    yield "@|1\r\n+a\r\n:1\r\n" + hello + "$-2\r\n"
    yield "@HTTP/1.1 400 Bad Request\r\n"


def entry(number, *fields):
    return f"*2\r\n$3\r\n{number}-0\r\n" + array(*fields)


def info(length, last, added, first=None):
    first = entry(first, "topic", "a") if first else "*-1\r\n"
    strings = ["length", f":{length}", "last-generated-id", f"{last}-0",
               "max-deleted-entry-id", "0-0", "entries-added", f":{added}", "first-entry", None]
    parts = [
        first if one is None else f"{one}\r\n" if one[0] == ":" else f"${len(one)}\r\n{one}\r\n"
        for one in strings
    ]
    return f"*{len(parts)}\r\n" + "".join(parts)


def streams():
    # The bits of the first byte: a password, a database, two streams, earlier entries wanted, requests instead of streams.
    news = entry(4, "topic", "user.42", "data", "1") + entry(5, "data", "1", "topic", "a", "receipt", "r")
    read = "*1\r\n*2\r\n$1\r\na\r\n*2\r\n" + news
    missing = "-ERR no such key\r\n"
    page = "*1\r\n" + entry(3, "topic", "a", "data", "")
    more = read.replace("4-0", "6-0").replace("5-0", "7-0")
    # Time passes with what is said: then the stream is looked at again.
    yield "@+OK\r\n+PONG\r\n" + info(2, 3, 3, 2) + page + read + info(3, 5, 5, 3) + "*-1\r\n" + more
    yield "@+OK\r\n+PONG\r\n" + missing + "*0\r\n*-1\r\n" + read + info(1, 9, 9, 9) + more
    yield "H+OK\r\n+PONG\r\n" + info(2, 3, 3, 2) + "*2\r\n" + news + "*-1\r\n" + info(0, 1, 1) + read
    yield "D+OK\r\n+PONG\r\n" + missing + info(0, 3, 3) + "*0\r\n*0\r\n" + "*1\r\n*2\r\n$1\r\nb\r\n*1\r\n" + entry(9, "topic", "x" * 80, "data", "x" * 80)
    yield "C+OK\r\n+OK\r\n+OK\r\n+PONG\r\n-WRONGTYPE no\r\n"
    yield "A-WRONGPASS no\r\n"
    yield "@+OK\r\n-LOADING wait\r\n"
    yield "P+OK\r\n+PONG\r\n:1\r\n$2\r\nab\r\n*2\r\n:1\r\n*-1\r\n*2\r\n" + news + info(2, 5, 5, 4) + "-ERR no\r\n-NOPERM no\r\n" + missing
    yield "P+OK\r\n+PONG\r\n$99999\r\n"
    yield "@+OK\r\n+PONG\r\n*99999999\r\n"


def publishers():
    yield "@" + array("PUBLISH", "pub.news", "hello") * 3 + array("PING") + array("QUIT")
    yield "APUBLISH pub.news early\r\nAUTH wrong\r\nAUTH secret\r\nPUBLISH pub.news \"h\\x41\\n'i\"\r\n"
    yield "A" + array("HELLO", "3", "AUTH", "default", "secret", "SETNAME", "me") + array("INFO")
    yield "@" + array("publish", "c", "x" * 65) + array("PUBLISH", "c") + array("SET", "a", "b")
    yield "@" + array("CLIENT", "SETINFO", "LIB-NAME", "x") + array("CLIENT", "ID") + array("RESET")
    yield "@" + array("COMMAND", "DOCS") + array("SELECT", "0") + array("PING", "x") + "*0\r\n*-1\r\n"
    yield "@ping\nPUBLISH 'a b' 'it\\'s'\n\n\"unbalanced\n"
    yield "@GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    post = "POST /publish/a%2fb HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\nContent-Length: "
    yield "A" + (post + "2\r\n\r\nhi") * 2 + post + "65\r\n\r\n" + "x" * 65
    yield "@" + post + "2\r\nExpect: 100-continue\r\n\r\nhi" + post + "1\r\nOrigin: null\r\n\r\nx"
    yield "@\x16\x03\x01"
    yield "@*1\r\n:1\r\n"
    yield "@*1048577\r\n"
    yield "@*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$600000000\r\n"
    yield "A" + array("PUBLISH", "c", "x" * 20000) + array("AUTH", "secret")
    yield "@" + array("MULTI") + array("PUBLISH", "c", "1") * 2 + array("ECHO", "x") + array("EXEC") + array("EXEC")
    yield "@" + array("MULTI") + array("SET", "a") + array("PUBLISH", "c", "1") + array("EXEC") + array("DISCARD")
    yield "@" + array("HELLO", "3") + array("SUBSCRIBE", "c", "d") + array("PSUBSCRIBE", "c*") + array("PUBLISH", "c", "1")
    yield "@" + array("SUBSCRIBE", "c") + array("PING") + array("PUBLISH", "c", "1") + array("UNSUBSCRIBE") + array("PUBSUB", "CHANNELS")
    script = "for i = 2, #ARGV do redis.call('publish', ARGV[i], ARGV[1]) end"
    yield "@" + array("EVAL", script, "0", "payload", "a", "b") + array("EVAL", "return 1", "0") + array("EVALSHA", "x", "0")
    yield "@" + array("CLIENT", "REPLY", "SKIP") + array("PING") * 2 + array("CLIENT", "REPLY", "OFF") + array("PUBLISH", "c", "1")


def zmtp(kind="PUSH", mechanism=b"NULL", minor=1):
    signature = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03" + bytes([minor])
    socket = b"\x0bSocket-Type" + struct.pack("!I", len(kind)) + kind.encode()
    return signature + mechanism.ljust(20, b"\0") + bytes(32), socket


def part(body, flags=0):
    if len(body) < 256:
        return struct.pack("!BB", flags, len(body)) + body
    return struct.pack("!BQ", flags | 2, len(body)) + body


def zeromq():
    def order(name, data=b""):
        return part(bytes([len(name)]) + name + data, 4)

    greeting, socket = zmtp()
    opening = b"@" + greeting + order(b"READY", socket + b"\x08Identity\0\0\0\0")
    yield opening + part(b"pub.news", 1) + part(b"hello") + part(b'{"topic":"news"}')
    yield opening + order(b"PING", b"\0\x0acontext") * 3 + part(b"a", 1) + order(b"PING", b"\0\0") + part(b"b")
    yield opening + part(b"x" * 65) + part(b"a", 1) + part(b"x" * 300) + part(b"x" * 1025, 1) + part(b"y") + part(b"z")
    yield opening + part(b"p", 1) * 64 + part(b"q") + part(b"p", 1) * 63 + part(b"q")
    yield opening + struct.pack("!BQ", 2, 1 << 62) + b"x" * 50
    yield opening + order(b"ERROR", b"\x03400") + part(b"late")
    yield opening + order(b"SUBSCRIBE", b"a") + b"\x05\x00"
    yield b"@" + zmtp(minor=0)[0] + order(b"READY", zmtp("PUB")[1])
    plain = b"A" + zmtp(mechanism=b"PLAIN")[0]
    hello = order(b"HELLO", b"\x07default\x06secret")
    yield plain + hello + order(b"INITIATE", socket) + part(b"a", 1) + part(b"b")
    yield plain + order(b"HELLO", b"\x07default\x05wrong") + part(b"a")
    yield plain + order(b"INITIATE", socket) + part(b"a")
    yield b"A" + greeting
    yield b"@" + plain[1:]
    yield b"@\xff\0\0\0\0\0\0\0\x01\x7f\x01\x08"
    yield b"@GET / HTTP/1.1\r\n\r\n"


def commands():
    def op(name, **members):
        rest = "".join(f',"{key}":{value}' for key, value in members.items())
        return f'{{"op":"{name}"{rest}}}'

    topics = ["room.7", "room.*", "user.7", "user.42", "user.*", "*", "a..b", "lobby.1", "news"]
    for who in "@ABCDEFG":
        lines = [op("subscribe", topic=f'"{topic}"', ref=at) for at, topic in enumerate(topics)]
        yield who + "\n".join(["ping", op("ping", ref='"a"'), *lines])
        lines = [op("unsubscribe", topic=f'"{topic}"') for topic in reversed(topics)]
        yield who + "\n".join([op("subscribe", topic='"room.7"'), *lines, op("topics", ref=7), op("members", topic='"news"', ref=8)])
    for who, word in zip("@AGGC", ["USER", "OTHER", "NARROW", "ADMIN", "USER"]):
        auth = op("auth", token=f'"TOKEN-{word}"', ref=1.0, since='"5"')
        room = op("subscribe", topic='"room.\\u0037"')
        yield who + "\n".join([room, auth, room, op("subscribe", topic='"user.7"')])
        topics = '["room.7","user.42","user.7","*"]'
        for start in [{"since": '"v"'}, {"last": "true"}, {"since": '""', "last": "false"}]:
            yield who + "\n".join([op("subscribe", topics=topics, **start), auth, op("subscribe", topic='"news"', **start)])
        yield who + "\n".join([auth, room, op("auth", token='"TOKEN-USER"'), room])
    for data in ["null", '{"a":[1.0]}', '"x"']:
        yield "G" + "\n".join([op("send", data=data, ref=1), op("send", topic='"room.7"', data=data)])
        yield "A" + op("send", data=data, topic='"user.7"')
    yield "G" + op("auth", token='"nonsense"')
    yield "G" + op("ping", ref="1E400") + "\n[]\n"


def tokens():
    good = '{"alg":"HS256","typ":"JWT"}'
    full = '"sub":"42","exp":1700000060'
    for header in [good, '{"alg":"none"}', '{"alg":"RS256","kid":"1"}', '{"alg":"HS256","crit":["exp"]}']:
        yield header + "\n{" + full + "}"
    for claims in [
        full + ',"topics":["news","room.*"],"may":["*"],"admin":true',
        full + ',"aud":["push","b"],"iss":"shop","nbf":1700000005',
        full + ',"aud":"push","iss":"shop"',
        '"sub":42,"exp":1700000060.5',
        '"sub":-1,"exp":1699999996',
        '"sub":"42","sub":"43","exp":1e300',
        '"sub":"","exp":1700000060,"nbf":null',
        full + ',"iat":1700000000',
        full + ',"iat":1699999999.9',
        full + ',"iat":"1700000000"',
        full + ',"topics":["user.*"],"may":"*","admin":1',
    ]:
        yield good + "\n{" + claims + "}"
    yield good + "\n[]"
    yield "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiIsImV4cCI6MTcwMDAwMDA2MH0.c2lnbmF0dXJl"
    yield "eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiIsImV4cCI6MTcwMDAwMDA2MH0."


def main(root):
    targets = {
        "head": heads,
        "proxy_protocol": proxy_protocol,
        "handshake": handshakes,
        "records": records,
        "frames": frames,
        "subscriber": replies,
        "streams": streams,
        "publisher": publishers,
        "zeromq": zeromq,
        "commands": commands,
        "token": tokens,
    }
    for target, inputs in targets.items():
        folder = pathlib.Path(root, target)
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(inputs()):
            content = one.encode() if isinstance(one, str) else one
            (folder / f"{number:02}").write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1])
