"""The documented snippets for back ends, run as they stand."""

import os
import sys

from helpers.process import ROOT, environment, run
from helpers.tokens import SECRET

PREDIS = "error_reporting(E_ALL & ~E_DEPRECATED); require 'Predis/Autoloader.php'; Predis\\Autoloader::register();\n"


def blocks(language, document="README.md", section="Publish"):
    text = (ROOT / document).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [block.split("\n", 1)[1] for block in text.split("```")[1::2] if block.startswith(language + "\n")]


def php(code, path, **variables):
    path.write_text("<?php\n" + code)
    done = run("php", path, env=environment(**variables))
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout


async def heard_by_its_user_alone(start, redis, publish, sub="42"):
    server = start(redis=redis)
    async with server.client(sub) as client, server.client("43") as bystander:
        publish(redis)
        assert await client.heard() == [(f"user.{sub}", {"paid": True})]
        assert await bystander.heard() == []


async def test_the_shell(start, redis):
    def publish(redis):
        command = blocks("sh")[-1]
        done = run("sh", "-c", command.replace("redis-cli", f"redis-cli -p {redis.port}"))
        assert done.stdout == "1\n", done.stderr
    await heard_by_its_user_alone(start, redis, publish)


async def test_python(start, redis):
    def publish(redis):
        [code] = blocks("python")
        done = run(sys.executable, "-c", code, env=os.environ | {"REDIS_URL": redis.url})
        assert done.returncode == 0, done.stderr
    await heard_by_its_user_alone(start, redis, publish)


async def test_php(start, redis, tmp_path):
    def publish(redis):
        code = blocks("php")[0].replace("require 'vendor/autoload.php';", PREDIS)
        php(code, tmp_path / "push.php", REDIS_URL=redis.url)
    await heard_by_its_user_alone(start, redis, publish)


async def test_zeromq(start, tmp_path):
    server = start("--zeromq", "tcp://127.0.0.1:0", "--zeromq-topic-field", "category", "--topics", "news")
    endpoint = server.line("zeromq")
    [php_code], [python_code] = (blocks(language, "src/manual/publishing.md", "ZeroMQ") for language in ("php", "python"))
    async with server.client("42") as client, server.client("43", topics=["none"]) as other:
        php(php_code.replace("tcp://127.0.0.1:5555", endpoint), tmp_path / "push.php")
        message = await client.next()
        assert (message["topic"], message["data"]) == ("news", {"category": "news", "title": "Hello"})
        assert (await other.next())["topic"] == "news"
        done = run(sys.executable, "-c", python_code.replace("tcp://127.0.0.1:5555", endpoint))
        assert done.returncode == 0, done.stderr
        message = await client.next()
        assert (message["topic"], message["data"]) == ("user.42", {"paid": True})
        assert await other.heard() == []


async def test_the_token_that_php_makes(server, tmp_path):
    [code] = blocks("php", section="The token")
    made = php(code + "echo push_token('42', getenv('SECRET'));", tmp_path / "token.php", SECRET=SECRET)
    async with server.client("42", bearer=made) as client, server.client("43") as bystander:
        assert client.welcome["sub"] == "42"
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_laravel(start, redis, tmp_path):
    """With its real RedisManager; what the application around it would do is a line each."""
    connection, line = blocks("php", "src/manual/laravel.md", "Without events")
    code = f"""
require 'Illuminate/Redis/autoload.php';
require 'Illuminate/Container/autoload.php';
{PREDIS}
$env = ['REDIS_PORT' => '{redis.port}', 'REDIS_PASSWORD' => null];
function env($name, $default = null) {{ global $env; return $env[$name] ?? $default; }}
$config = ['client' => 'predis', 'options' => ['prefix' => 'laravel_database_'],
    'default' => ['host' => '127.0.0.1', 'port' => '{redis.port}'],
    {connection}];
$redis = new Illuminate\\Redis\\RedisManager(new Illuminate\\Container\\Container, 'predis', $config);
class Facade {{ static function __callStatic($name, $words) {{ global $redis; return $redis->$name(...$words); }} }}
$user = (object) ['id' => 42];
// A connection of its own: the default one puts its prefix before the channel.
if ($redis->connection('default')->publish('pub.user.42', 'nobody') !== 0) exit(1);
{line.replace("Redis::", "Facade::")}
"""
    await heard_by_its_user_alone(start, redis, lambda _: php(code, tmp_path / "laravel.php"))
