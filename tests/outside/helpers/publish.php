<?php
// Publishes with Predis as a PHP back end would: publish.php HOST PORT PASSWORD CHANNEL PAYLOAD…
error_reporting(E_ALL & ~E_DEPRECATED);
require 'Predis/Autoloader.php';
Predis\Autoloader::register();

[, $host, $port, $password, $channel] = $argv;
$client = new Predis\Client(array_filter(['host' => $host, 'port' => $port, 'password' => $password]));
foreach (array_slice($argv, 5) as $payload) {
    echo $client->publish($channel, $payload), "\n";
}
