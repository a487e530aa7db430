<?php
// Publishes with phpredis, Predis or Laravel's broadcaster as their users do: LIBRARY PORT TOPIC PAYLOAD… Prints the answers.
error_reporting(E_ALL & ~E_DEPRECATED);
[, $library, $port, $topic, $first] = $argv;
$others = array_slice($argv, 5);
$channel = 'pub.' . $topic;

function predis(): void
{
    require_once 'Predis/Autoloader.php';
    Predis\Autoloader::register();
}

function laravel(string $client, string $port, string $topic, array $payloads): array
{
    predis();
    require_once 'Illuminate/Redis/autoload.php';
    require_once 'Illuminate/Container/autoload.php';
    require_once 'Illuminate/Broadcasting/autoload.php';
    $config = ['client' => $client, 'options' => ['prefix' => 'pub.'], 'default' => ['host' => '127.0.0.1', 'port' => $port]];
    $redis = new Illuminate\Redis\RedisManager(new Illuminate\Container\Container, $client, $config);
    $broadcaster = new Illuminate\Broadcasting\Broadcasters\RedisBroadcaster($redis, 'default', 'pub.');
    $channels = [new Illuminate\Broadcasting\Channel($topic), new Illuminate\Broadcasting\PrivateChannel('nobody')];
    foreach ($payloads as $payload) {
        $broadcaster->broadcast($channels, 'Paid', ['text' => $payload]);
    }
    return [];
}

$answers = match ($library) {
    'phpredis' => (function () use ($port, $channel, $first, $others) {
        $redis = new Redis;
        $redis->pconnect('127.0.0.1', (int) $port);
        $id = $redis->client('id');
        $answer = $redis->publish($channel, $first);
        $redis->multi();
        foreach ($others as $payload) {
            $redis->publish($channel, $payload);
        }
        $answers = $redis->exec();
        // A pooled connection is checked by ECHO before it is taken again.
        $redis = null;
        $again = new Redis;
        $again->pconnect('127.0.0.1', (int) $port);
        return [$answer, $answers, $again->client('id') === $id];
    })(),
    'predis' => (function () use ($port, $channel, $first, $others) {
        predis();
        $client = new Predis\Client(['host' => '127.0.0.1', 'port' => $port]);
        $publishes = function ($transaction) use ($channel, $others) {
            foreach ($others as $payload) {
                $transaction->publish($channel, $payload);
            }
        };
        return [$client->publish($channel, $first), $client->transaction($publishes)];
    })(),
    'laravel-phpredis' => laravel('phpredis', $port, $topic, [$first, ...$others]),
    'laravel-predis' => laravel('predis', $port, $topic, [$first, ...$others]),
};
echo json_encode($answers), "\n";
