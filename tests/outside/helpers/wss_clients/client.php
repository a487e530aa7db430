<?php
// A client over TLS: HOST:PORT AUTHORITY TOKEN VERSION. Prints each message, sends one after the first, and closes after the last.
[, $host, $authority, $token, $version] = $argv;
$methods = ['1.2' => STREAM_CRYPTO_METHOD_TLSv1_2_CLIENT, '1.3' => STREAM_CRYPTO_METHOD_TLSv1_3_CLIENT];
$context = stream_context_create(['ssl' => ['cafile' => $authority, 'crypto_method' => $methods[$version]]]);
$stream = stream_socket_client("tls://$host", $number, $why, 20, STREAM_CLIENT_CONNECT, $context);
$stream or exit("$why\n");
stream_set_timeout($stream, 20);

function take($stream, int $length): string
{
    $bytes = '';
    while (strlen($bytes) < $length) {
        $more = fread($stream, $length - strlen($bytes));
        $more === '' || $more === false and exit(2);
        $bytes .= $more;
    }
    return $bytes;
}

function frame(int $opcode, string $payload): string
{
    $mask = random_bytes(4);
    $length = strlen($payload);
    $head = $length < 126 ? chr(0x80 | $length) : chr(0x80 | 126) . pack('n', $length);
    return chr(0x80 | $opcode) . $head . $mask . ($payload ^ str_pad('', $length, $mask));
}

fwrite($stream, "GET /ws HTTP/1.1\r\nHost: $host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    . "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " . base64_encode(random_bytes(16))
    . "\r\nAuthorization: Bearer $token\r\n\r\n");
fgets($stream) === "HTTP/1.1 101 Switching Protocols\r\n" or exit(1);
while (fgets($stream) !== "\r\n");
for ($first = true; ; $first = false) {
    ['opcode' => $opcode, 'length' => $length] = unpack('Copcode/Clength', take($stream, 2));
    $length = match ($length) {
        126 => unpack('n', take($stream, 2))[1],
        127 => unpack('J', take($stream, 8))[1],
        default => $length,
    };
    $payload = take($stream, $length);
    if ($opcode === 0x88) {
        // The close is answered by a close, and the stream ends.
        exit(unpack('n', $payload)[1] === 1000 && stream_get_contents($stream) === '' ? 0 : 1);
    }
    echo $payload, "\n";
    $first and fwrite($stream, frame(1, json_encode(['op' => 'ping', 'padding' => str_repeat('x', 3000)])));
    (json_decode($payload)->data ?? null) === 'last' and fwrite($stream, frame(8, pack('n', 1000)));
}
