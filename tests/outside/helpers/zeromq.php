<?php
// The lines of the tutorial "Push to an Existing Site" of Ratchet, with an address: zeromq.php ENDPOINT CATEGORY TITLE…
[, $endpoint, $category] = $argv;
foreach (array_slice($argv, 3) as $title) {
    $entryData = array(
        'category' => $category
      , 'title'    => $title
      , 'when'     => time()
    );

    // This is our new stuff
    $context = new ZMQContext();
    $socket = $context->getSocket(ZMQ::SOCKET_PUSH, 'my pusher');
    $socket->connect($endpoint);

    $socket->send(json_encode($entryData));
}
