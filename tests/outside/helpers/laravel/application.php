<?php
// An application made of Laravel's own packages, with the configuration that a new Laravel has and BROADCAST_CONNECTION=redis. It
// reads lines of JSON and broadcasts an event for each: php application.php phpredis|predis PORT.
error_reporting(E_ALL & ~E_DEPRECATED);
[, $client, $port] = $argv;
require_once 'Predis/Autoloader.php';
Predis\Autoloader::register();
foreach (['Broadcasting', 'Bus', 'Config', 'Container', 'Events', 'Redis', 'Support'] as $package) {
    require_once "Illuminate/$package/autoload.php";
}
require_once __DIR__ . '/events.php';

$app = new Illuminate\Container\Container;
Illuminate\Container\Container::setInstance($app);
Illuminate\Support\Facades\Facade::setFacadeApplication($app);
$redis = [
    'client' => $client,
    'options' => ['cluster' => 'redis', 'prefix' => 'laravel_database_'],
    'default' => ['url' => null, 'host' => '127.0.0.1', 'password' => null, 'port' => $port, 'database' => '0'],
];
$app->instance('config', new Illuminate\Config\Repository([
    'database' => ['redis' => $redis],
    'broadcasting' => [
        'default' => 'redis',
        'connections' => ['redis' => ['driver' => 'redis', 'connection' => 'default']],
    ],
]));
$app->instance('redis', new Illuminate\Redis\RedisManager($app, $client, $redis));
$app->instance('events', $events = new Illuminate\Events\Dispatcher($app));
$app->instance(Illuminate\Contracts\Bus\Dispatcher::class, new Illuminate\Bus\Dispatcher($app));
$manager = new Illuminate\Broadcasting\BroadcastManager($app);
$app->instance(Illuminate\Contracts\Broadcasting\Factory::class, $manager);

while ($line = fgets(STDIN)) {
    ['event' => $name, 'arguments' => $arguments, 'socket' => $socket] = json_decode($line, true);
    // The header that Echo adds to the requests of its page.
    $app->instance('request', new class($socket) {
        public function __construct(private ?string $socket)
        {
        }

        public function header($name)
        {
            return $name === 'X-Socket-ID' ? $this->socket : null;
        }
    });
    $class = "App\\Events\\$name";
    // What the helper `broadcast` does.
    $pending = $manager->event(new $class(...$arguments));
    if ($socket !== null) {
        $pending->toOthers();
    }
    unset($pending);
    echo "broadcast\n";
}
