<?php
// Events of the application, as `php artisan make:event` begins them.

namespace App\Events;

use Illuminate\Broadcasting\Channel;
use Illuminate\Broadcasting\InteractsWithSockets;
use Illuminate\Broadcasting\PrivateChannel;
use Illuminate\Contracts\Broadcasting\ShouldBroadcastNow;

class OrderShipped implements ShouldBroadcastNow
{
    use InteractsWithSockets;

    public function __construct(public int $order, public mixed $note)
    {
    }

    public function broadcastOn()
    {
        return new PrivateChannel('orders.' . $this->order);
    }
}

class ServerMoved implements ShouldBroadcastNow
{
    use InteractsWithSockets;

    public function __construct(public mixed $note)
    {
    }

    public function broadcastOn()
    {
        return [new Channel('servers'), new PrivateChannel('orders.7')];
    }

    public function broadcastAs()
    {
        return 'server.moved';
    }
}
