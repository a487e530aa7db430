"""Settings: three sources, one judgement, messages that help; and the commands beside serving."""

import re
import time

import jwt
import pytest
from helpers.process import oneloop
from helpers.server import counter
from helpers.tokens import SECRET, token

KEY = {"ONELOOP_JWT_SECRET": SECRET}


def test_check_accepts_good_settings_and_exits(tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text(
        'listen = "0.0.0.0:8099"\nredis = "redis://:secret@127.0.0.1:6379"\nadmin = "127.0.0.1:9100"\n'
        'prefix = "pub."\npatterns = ["pub.*"]\nping_seconds = 20\nbacklog_bytes_max = "2MiB"\n'
        '[jwt]\naudience = "push"\nissuer = "shop"\nleeway_seconds = 10\n'
        '[[route]]\npath = "/ws"\norigins = ["https://example.com"]\nformat = "json"\ntopics = ["news"]\n'
        'may = ["room.*"]\nanonymous = ["public"]\nsingle_session = true\n'
        '[[route]]\npath = "/raw"\norigins = ["*"]\nformat = "raw"\n'
    )
    done = oneloop("--check", "--config", config, **KEY)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    done = oneloop("--check")
    assert done.returncode == 0, done.stderr


FORMER = [
    ("ctl", "control", "c"),
    ("unfinished_bytes_max", "unfinished_total_bytes_max", "2MiB"),
    ("backlogs_bytes_max", "backlog_total_bytes_max", "2MiB"),
    ("memberships_bytes_max", "subscriptions_bytes_max", "2MiB"),
]


def by_file(directory, text):
    file = directory / "oneloop.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("old, new, value", FORMER)
def test_a_former_name_is_accepted_with_a_warning(tmp_path, old, new, value):
    flag, variable = "--" + old.replace("_", "-"), f"ONELOOP_{old.upper()}"
    file = by_file(tmp_path, f'{old} = "{value}"\n')
    for flags, variables, source in [
        (["--config", file], {}, f"{file}:1"),
        ([], {variable: value}, variable),
        ([flag, value], {}, flag),
    ]:
        done = oneloop("--check", *flags, **variables)
        assert done.returncode == 0, done.stderr
        [warning] = done.stderr.splitlines()
        assert warning.startswith("oneloop: warning: ") or "warning" in warning, warning
        assert f"{old} ({source}) is called {new} now" in warning
        wrong = oneloop("--check", *flags, *([flag, ""]), **variables)
        assert wrong.returncode == 2 and f"{old} ({flag})" in wrong.stderr, wrong.stderr
    assert oneloop("--check", "--" + new.replace("_", "-"), value).stderr == ""


@pytest.mark.parametrize("old, new, value", FORMER)
def test_both_names_of_a_setting_are_an_error(tmp_path, old, new, value):
    old_flag, new_flag = ("--" + name.replace("_", "-") for name in (old, new))
    for flags, variables in [
        ([old_flag, value, new_flag, value], {}),
        (["--config", by_file(tmp_path, f'{old} = "{value}"\n'), new_flag, value], {}),
        ([old_flag, value], {f"ONELOOP_{new.upper()}": value}),
        ([], {f"ONELOOP_{name.upper()}": value for name in (old, new)}),
    ]:
        done = oneloop("--check", *flags, **variables)
        assert done.returncode == 2
        [problem] = [line for line in done.stderr.splitlines() if "two names of one setting" in line]
        assert f"{old} (" in problem and f"{new} (" in problem and f"keep {new}" in problem


def test_a_former_name_still_works(start):
    server = start("--topics", "news", "--ctl", "orders")
    server.wait_for_log(r"ctl \(--ctl\) is called control now")
    answer = server.publisher.command("PUBLISH", "orders", '{"op":"kick","sub":"42"}')
    assert answer == 0
    assert counter(server, "controls_total") == 1


@pytest.mark.parametrize("flags, words", [
    (["--listen", "localhost"], ["listen", "localhost", "port"]),
    (["--ping-seconds", "fast"], ["ping_seconds", "fast", "number"]),
    (["--ping-seconds", "3601"], ["ping_seconds", "3601", "3600"]),
    (["--ping-seconds", "-1"], ["ping_seconds", "-1", "0"]),
    (["--head-seconds", "0"], ["head_seconds", "0", "1"]),
    (["--format", "xml"], ["format", "xml", "json", "raw"]),
    (["--origins", "example.com"], ["origins", "example.com", "https://"]),
    (["--origins", "https://*.com"], ["origins", "https://*.com", "https://*.example.com", "null or file://"]),
    (["--path", "ws"], ["path", "ws", "/"]),
    (["--topics", "a b"], ["topics", "a b"]),
    (["--may", "a.*.b"], ["may", "a.*.b"]),
    (["--anonymous", "user.*"], ["anonymous", "user.*"]),
    (["--members", "user.*"], ["members", "user.*"]),
    (["--redis", "rediss://127.0.0.1#tls"], ["redis", "insecure"]),
    (["--redis", "redis://127.0.0.1", "--redis-ca-file", "/dev/null"], ["redis_ca_file", "TLS"]),
    (["--jwt-secret-file", "/nonexistent/file"], ["jwt.secret_file"]),
    (["--jwt-leeway-seconds", "301"], ["jwt.leeway_seconds", "301", "300"]),
    (["--listen", "0.0.0.0:0"], ["listen", "0.0.0.0", "key"]),
    (["--publishers", "0.0.0.0:0"], ["publishers", "0.0.0.0", "password"]),
    (["--ping-secnods", "1"], ["--ping-secnods", "--ping-seconds"]),
    (["--config", "/nonexistent/file"], ["/nonexistent/file"]),
    (["--silence-seconds", "20"], ["silence_seconds", "20", "25"]),
    (["serv"], ["serv"]),
    (["--listen"], ["--listen", "value"]),
])
def test_check_names_what_is_wrong(flags, words):
    for check in [["--check"], []]:
        done = oneloop(*check, *flags)
        assert done.returncode == 2, done.stderr
        for word in words:
            assert word in done.stderr, (word, done.stderr)


def test_every_problem_is_named_at_once():
    done = oneloop("--check", "--ping-seconds", "x", "--format", "y", ONELOOP_HEAD_SECONDS="0")
    assert done.returncode == 2
    for word in ["ping_seconds", "format", "head_seconds"]:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("text, words", [
    ("listen = ", [":1"]),
    ("listne = '127.0.0.1:0'", ["listne", "listen", ":1"]),
    ("\nping_seconds = '2 s'", ["ping_seconds", "2 s", ":2"]),
    ("[jwt]\nsecret = 'hunter2 hunter2 hunter2 hunter2'", ["jwt.secret", "ONELOOP_JWT_SECRET"]),
    ("[[route]]\npath = '/ws'\n[[route]]\npath = '/ws'", ["/ws"]),
    ("[[route]]\npath = '/ws'\ncolour = 'red'", ["colour"]),
    ("[[route]]\npath = 7", ["path", "7"]),
])
def test_a_file_is_judged_with_its_lines(tmp_path, text, words):
    config = tmp_path / "oneloop.toml"
    config.write_text(text)
    done = oneloop("--check", "--config", config)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr, (word, done.stderr)
    assert "hunter2" not in done.stderr


def test_an_unknown_variable_is_an_error():
    done = oneloop("--check", ONELOOP_PING_SECNODS="1")
    assert done.returncode == 2 and "ONELOOP_PING_SECONDS" in done.stderr


async def test_flags_win_over_variables_and_those_over_the_file(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text("ping_seconds = 11\n")
    for flags, variables, expected in [
        ([], {}, 11),
        ([], {"ONELOOP_PING_SECONDS": "12"}, 12),
        (["--ping-seconds", 13], {"ONELOOP_PING_SECONDS": "12"}, 13),
    ]:
        server = start("--config", config, *flags, variables=variables)
        async with server.client("42") as client:
            assert client.welcome["ping"] == expected


async def test_a_path_may_be_set(start):
    server = start("--path", "/push")
    assert server.line("clients").endswith("/push")
    async with server.client("42", path="/push") as client:
        assert await client.heard() == []
    assert (await server.refusal(token()))[0] == 404


def claims_of(printed):
    return jwt.decode(printed.strip(), SECRET, algorithms=["HS256"])


def test_a_token_is_made_from_the_flags():
    now = int(time.time())
    done = oneloop("token", "--sub", "42", "--topics", "a,b.*", "--may", "c", "--ttl", "1h", **KEY)
    assert done.returncode == 0, done.stderr
    claims = claims_of(done.stdout)
    assert claims["sub"] == "42" and claims["topics"] == ["a", "b.*"] and claims["may"] == ["c"]
    assert now + 3600 <= claims["exp"] <= int(time.time()) + 3600
    assert not claims.get("admin")
    assert claims_of(oneloop("token", "--sub", "1", "--admin", **KEY).stdout)["admin"] is True


async def test_a_printed_token_is_welcome(start):
    server = start("--jwt-audience", "push", "--jwt-issuer", "shop")
    printed = oneloop("token", "--sub", "42", "--topics", "a", "--jwt-audience", "push",
                      "--jwt-issuer", "shop", **KEY).stdout.strip()
    async with server.client("42", bearer=printed) as client:
        assert sorted(client.welcome["topics"]) == ["a", "user.42"]


@pytest.mark.parametrize("flags, variables", [
    ([], KEY),
    (["--sub", ""], KEY),
    (["--sub", "x" * 256], KEY),
    (["--sub", "42", "--topics", "a b"], KEY),
    (["--sub", "42", "--ttl", "soon"], KEY),
    (["--sub", "42"], {}),
])
def test_a_token_that_could_not_work_is_not_made(flags, variables):
    done = oneloop("token", *flags, **variables)
    assert done.returncode == 2 and done.stdout == "" and done.stderr


@pytest.mark.parametrize("topic, answer", [
    ("user.42", "yes"), ("a", "yes"), ("room.7", "on request"), ("b", "no"), ("user.43", "no"),
    ("user.4", "no"), ("room", "no"),
])
def test_explain_says_whether_and_why(topic, answer):
    bearer = token(topics=["a"], may=["room.*"])
    done = oneloop("explain", bearer, topic, **KEY)
    date = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    # With one route there is one verdict.
    lines = rf"{answer}: .+\nsub  42\nexp  {date}, in (9 min \d+ s|10 min)\n"
    assert re.fullmatch(lines, done.stdout), done.stdout + done.stderr


def test_explain_says_why_a_token_is_refused():
    for bearer, why in [(token(seconds=-100), "exp"), (token(secret="z" * 40), "sign"), ("x", "token")]:
        done = oneloop("explain", bearer, "news", **KEY)
        assert done.returncode != 0
        assert why in done.stdout + done.stderr, done.stdout + done.stderr


def test_help_and_version_are_printed():
    done = oneloop("--help")
    assert done.returncode == 0
    for word in ["--listen", "--redis", "--jwt-secret-file", "--backlog-bytes-max", "token", "explain"]:
        assert word in done.stdout
    assert re.fullmatch(r"oneloop \d+\.\d+\.\d+ \((commit \w+, )?\w+-linux-\w+, \w+\)\n", oneloop("--version").stdout)


def test_settings_that_leave_nobody_to_publish_are_an_error():
    done = oneloop("--check", "--publishers", "off")
    assert done.returncode == 2 and "publish" in done.stderr


async def test_with_a_key_and_no_topics_a_user_hears_its_own_alone(start):
    server = start()
    async with server.client("42") as client:
        assert client.welcome["topics"] == ["user.42"]
        assert server.publish("news", 1) == 0
        assert await client.heard() == []


def test_variables_of_kubernetes_are_passed_over():
    links = {
        "ONELOOP_REDIS_PORT": "tcp://10.96.0.7:6379", "ONELOOP_REDIS_SERVICE_HOST": "10.96.0.7",
        "ONELOOP_REDIS_SERVICE_PORT": "6379", "ONELOOP_REDIS_PORT_6379_TCP_ADDR": "10.96.0.7",
        "ONELOOP_ADMIN_SERVICE_PORT_HTTP": "9090", "ONELOOP_REDIS_MASTER_PORT_6379_TCP": "tcp://10.96.0.8:6379",
    }
    done = oneloop("--check", **KEY, **links)
    assert (done.returncode, done.stdout) == (0, "the settings are good\n"), done.stderr
    done = oneloop("--check", **KEY, ONELOOP_REDIS_PORT="6379")
    assert done.returncode == 2 and "ONELOOP_REDIS_PORT" in done.stderr


def test_an_empty_variable_is_not_set_unless_it_is_a_secret(tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('listen = "127.0.0.1:1"\npatterns = ["pub.a*"]\n')
    names = ["CONFIG", "LISTEN", "PATTERNS", "PREFIX", "PING_SECONDS", "LOG", "JWT_KEY_FILE", "REDIS", "ADMIN", "LISEN"]
    empty = {f"ONELOOP_{name}": "" for name in names}
    done = oneloop("--check", "--config", config, **KEY, **empty)
    assert done.returncode == 0, done.stderr
    for secret in ["JWT_SECRET", "JWT_PREVIOUS_SECRET", "PUBLISHERS_PASSWORD"]:
        done = oneloop("--check", **{f"ONELOOP_{secret}": ""})
        assert done.returncode == 2
        assert f"ONELOOP_{secret}" in done.stderr and "empty" in done.stderr


@pytest.mark.parametrize(("flags", "part"), [
    (["--patterns", "news.*"], 'patterns: "news.*" matches no channel that begins with the prefix "pub."'),
    (["--patterns", "news.*"], 'write "pub.news.*", or set prefix'),
    (["--redis", "redis://127.0.0.1:1?db=1"], 'the parameter "db" of the URL is not known'),
    (["--redis", "redis://127.0.0.1:1?protocl=resp2&tls=true"], "did you mean protocol?"),
])
@pytest.mark.parametrize("command", [["--check"], ["doctor"], []])
def test_settings_that_are_dead_together_are_refused(flags, part, command):
    flags = ["--redis", "redis://127.0.0.1:1", "--listen", "127.0.0.1:0", *flags]
    done = oneloop(*command, *flags)
    assert done.returncode == 2 and part in done.stderr, done


def test_one_dead_pattern_among_others_is_a_warning():
    flags = ["--redis", "redis://127.0.0.1:1", "--patterns", "pub.*,news.*"]
    done = oneloop("--check", *flags)
    assert done.returncode == 0 and "warning: patterns: \"news.*\" matches no channel" in done.stderr
