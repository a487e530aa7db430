//! The replies to commands beside PUBLISH.

use super::tests::{feed, feed_at, publisher, publisher_at, take_output};
use super::*;
use crate::engine::redis::request;

fn ask(publisher: &mut Publisher, line: &str) -> String {
    ask_at(&mut Exchange::new(2, 100_000), publisher, line)
}

fn ask_at(exchange: &mut Exchange, publisher: &mut Publisher, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    assert_eq!(feed_at(exchange, publisher, request::command(&words)), [""; 0], "{line}");
    take_output(publisher)
}

#[test]
fn answers_are_those_of_redis() {
    let mut one = publisher(None);
    for (line, expected) in [
        ("PING", "+PONG\r\n"),
        ("ping hello", "$5\r\nhello\r\n"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ("SELECT 15", "+OK\r\n"),
        ("SELECT -1", "-ERR DB index is out of range\r\n"),
        ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the \
            default user. Are you sure your configuration is correct?\r\n",
        ),
        ("AUTH default x", "+OK\r\n"),
        ("AUTH bob x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("AUTH a b c", "-ERR syntax error\r\n"),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("client setinfo lib-name redis-py", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT ID", ":3\r\n"),
        ("CLIENT REPLY ON", "+OK\r\n"),
        ("CLIENT REPLY x", "-ERR syntax error\r\n"),
        ("COMMAND DOCS", "*0\r\n"),
        (
            "COMMAND INFO publish get",
            "*2\r\n*6\r\n$7\r\npublish\r\n:3\r\n*0\r\n:0\r\n:0\r\n:0\r\n*-1\r\n",
        ),
        ("ECHO hi", "$2\r\nhi\r\n"),
        ("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        ("WAIT 0 0", ":0\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("TIME", "*2\r\n$1\r\n0\r\n$1\r\n0\r\n"),
        ("CONFIG GET timeout nothing", "*2\r\n$7\r\ntimeout\r\n$1\r\n0\r\n"),
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command\r\n"),
        (
            "CONFIG SET timeout 1",
            "-ERR unknown subcommand 'SET' of CONFIG: it is not known here\r\n",
        ),
        ("CLIENT TRACKING ON OPTIN", "+OK\r\n"),
        ("CLIENT CACHING YES", "+OK\r\n"),
        ("CLUSTER NODES", "-ERR This instance has cluster support disabled\r\n"),
        ("EVALSHA abc 0", "-NOSCRIPT No matching script. Please use EVAL.\r\n"),
        ("SCRIPT EXISTS a b", "*2\r\n:0\r\n:0\r\n"),
        ("WATCH a", "+OK\r\n"),
        ("UNWATCH", "+OK\r\n"),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
        (
            "HELLO 3 SETNAME a\nb",
            "-ERR Client names cannot contain spaces, newlines or special characters.\r\n",
        ),
        ("RESET", "+RESET\r\n"),
        ("QUIT", "+OK\r\n"),
    ] {
        assert_eq!(ask(&mut one, line), expected, "{line}");
    }
    let mut one = publisher(None);
    assert!(ask(&mut one, "INFO server").contains("# Server\r\nredis_version:7.0.0\r\n"));
    let info = ask(&mut one, "INFO");
    for fact in ["role:master\r\n", "loading:0\r\n", "cluster_enabled:0\r\n"] {
        assert!(info.contains(fact), "{fact}");
    }
    assert_eq!(ask(&mut one, "INFO replication").matches("# ").count(), 1);
}

#[test]
fn an_unknown_command_learns_where_it_belongs() {
    let text = ask(&mut publisher(None), "S\r\né");
    assert_eq!(
        text,
        "-ERR unknown command 'S????': this port takes PUBLISH; use a Redis for the rest\r\n"
    );
    assert!(ask(&mut publisher(None), &"x".repeat(5000)).len() < 160);
}

#[test]
fn hello_is_a_map_in_resp3_and_an_array_in_resp2() {
    let mut one = publisher(None);
    assert!(ask(&mut one, "HELLO").starts_with("*14\r\n$6\r\nserver\r\n"));
    let hello = ask(&mut one, "HELLO 3 SETNAME me");
    assert!(hello.starts_with("%7\r\n") && hello.contains("$5\r\nproto\r\n:3\r\n"));
    redis::parse_redis_value(hello.as_bytes()).expect("it is RESP3");
    assert_eq!(ask(&mut one, "CLIENT GETNAME"), "$2\r\nme\r\n");
    assert_eq!(ask(&mut one, "CLIENT SETNAME "), "+OK\r\n");
    assert_eq!(ask(&mut one, "CLIENT GETNAME"), "_\r\n");
    assert!(ask(&mut one, "HELLO").starts_with("%7\r\n"));
    ask(&mut one, "RESET");
    assert!(ask(&mut one, "HELLO").starts_with("*14\r\n"));
}

#[test]
fn nothing_goes_before_the_password() {
    let fresh = || publisher(Some("secret"));
    for line in ["PING", "SELECT 0", "CLIENT ID", "COMMAND", "INFO", "SET a b", "HELLO", "HELLO 3"]
    {
        assert!(ask(&mut fresh(), line).starts_with("-NOAUTH "), "{line}");
    }
    for line in
        ["AUTH wrong", "AUTH", "AUTH secre", "AUTH secretsecret", "AUTH bob secret", "AUTH "]
    {
        let mut one = fresh();
        assert!(ask(&mut one, line).starts_with('-'), "{line}");
        assert!(!one.session.is_authenticated, "{line}");
    }
    for line in ["AUTH secret", "auth default secret", "HELLO 3 AUTH default secret"] {
        let mut one = fresh();
        ask(&mut one, line);
        assert_eq!(ask(&mut one, "PING"), "+PONG\r\n", "{line}");
        // A wrong one later takes nothing away, as in Redis; RESET does.
        ask(&mut one, "AUTH wrong");
        assert!(one.session.is_authenticated);
        ask(&mut one, "RESET");
        assert!(!one.session.is_authenticated);
        assert_eq!(one.auth_deadline(), Some(65_000), "from now on");
    }
    assert_eq!(ask(&mut fresh(), "QUIT"), "+OK\r\n");
}

#[test]
fn every_command_of_the_table_has_an_answer() {
    for command in catalog::COMMANDS.iter().filter(|command| command.name != "PUBLISH") {
        let mut line = command.name.to_owned();
        let words = line.split(' ').count();
        line += &" 1".repeat((command.arity.unsigned_abs() as usize).saturating_sub(words));
        let answer = ask(&mut publisher(None), &line);
        assert!(!answer.is_empty() && !answer.contains("wrong number"), "{line}: {answer}");
    }
}

#[test]
fn a_transaction_is_carried_out_at_exec_and_answered_as_a_whole() {
    let mut one = publisher(None);
    assert_eq!(feed(&mut one, "MULTI\r\nPUBLISH a 1\r\nECHO x\r\nPUBLISH b 2\r\n"), [""; 0]);
    assert_eq!(take_output(&mut one), "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_eq!(feed(&mut one, "EXEC\r\nPUBLISH c 3\r\n"), ["a 1", "b 2", "c 3"]);
    assert_eq!(take_output(&mut one), "*3\r\n:7\r\n$1\r\nx\r\n:7\r\n:7\r\n");
    assert!(!one.is_executing());
    feed(&mut one, "MULTI\r\nPUBLISH a 1\r\nDISCARD\r\nMULTI\r\nEXEC\r\n");
    assert!(take_output(&mut one).ends_with("+QUEUED\r\n+OK\r\n+OK\r\n*0\r\n"));
}

#[test]
fn a_transaction_with_a_refused_command_publishes_nothing() {
    let abort = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let large = format!("PUBLISH a {}", "x".repeat(1001));
    for bad in ["SET a b", "PUBLISH a", "CONFIG SET a b", &large] {
        let mut one = publisher(None);
        let lines = format!("MULTI\r\nPUBLISH a 1\r\n{bad}\r\nPUBLISH a 2\r\nEXEC\r\n");
        assert_eq!(feed(&mut one, lines), [""; 0], "{bad}");
        assert!(take_output(&mut one).ends_with(abort), "{bad}");
        assert_eq!(feed(&mut one, "PUBLISH a 3\r\n"), ["a 3"]);
    }
    let mut one = publisher(None);
    let lines = format!("MULTI\r\n{}EXEC\r\n", "PUBLISH a 1\r\n".repeat(6));
    assert_eq!(feed(&mut one, lines), [""; 0], "more than transaction_commands_max");
    let output = take_output(&mut one);
    assert!(
        output.contains("-ERR a transaction has at most 5 commands") && output.ends_with(abort)
    );
}

#[test]
fn replies_can_be_switched_off() {
    let mut one = publisher(None);
    let lines = "CLIENT REPLY OFF\r\nPUBLISH a 1\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n";
    assert_eq!(feed(&mut one, lines), ["a 1"]);
    assert_eq!(take_output(&mut one), "+OK\r\n+PONG\r\n");
    let lines = "CLIENT REPLY SKIP\r\nPUBLISH a 1\r\nPUBLISH a 2\r\nCLIENT REPLY SKIP\r\nPING\r\nECHO x\r\n";
    assert_eq!(feed(&mut one, lines), ["a 1", "a 2"]);
    assert_eq!(take_output(&mut one), ":7\r\n$1\r\nx\r\n");
}

#[test]
fn a_broadcast_of_laravel_is_published_and_answered_once() {
    let script = "for i = 2, #ARGV do\n  redis.call('publish', ARGV[i], ARGV[1])\nend";
    let eval = request::command(&[b"EVAL", script.as_bytes(), b"0", b"{}", b"a", b"b"]);
    let mut one = publisher(None);
    assert_eq!(feed(&mut one, &eval), ["a {}", "b {}"]);
    assert_eq!(take_output(&mut one), "$-1\r\n");
    let stream = [b"MULTI\r\nPING\r\n", &eval[..], b"PUBLISH c 1\r\nEXEC\r\n"].concat();
    assert_eq!(feed(&mut one, stream), ["a {}", "b {}", "c 1"]);
    assert!(take_output(&mut one).ends_with("*3\r\n+PONG\r\n$-1\r\n:7\r\n"));
    assert_eq!(one.refused.take(), None);
    assert!(ask(&mut one, "EVAL return 0").starts_with("-ERR the only script"));
    let (sentence, count) = one.refused.take().expect("it was refused");
    assert!(sentence.starts_with("EVAL was answered with -ERR: ") && count == 1);
}

#[test]
fn a_subscriber_receives_and_can_do_little_else_in_resp2() {
    let mut exchange = Exchange::new(2, 100_000);
    let [mut one, mut other] =
        [1, 2].map(|seat| publisher_at(None, Peer { seat, id: 9, ..Peer::default() }));
    let answer = ask_at(&mut exchange, &mut one, "SUBSCRIBE a");
    assert_eq!(answer, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    let refused = ask_at(&mut exchange, &mut one, "PUBLISH a 1");
    assert!(refused.starts_with("-ERR Can't execute 'publish': only (P|S)SUBSCRIBE"), "{refused}");
    assert_eq!(ask_at(&mut exchange, &mut one, "PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    let answer = ask_at(&mut exchange, &mut one, "PSUBSCRIBE b c");
    assert!(answer.contains("psubscribe\r\n$1\r\nb\r\n:2\r\n-ERR this connection has"));
    assert_eq!(exchange.publish(b"a", b"hi"), 1);
    one.collect(&mut exchange);
    other.collect(&mut exchange);
    assert_eq!(take_output(&mut one), "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n");
    assert_eq!(take_output(&mut other), "", "a bystander");
    let numbers = ask_at(&mut exchange, &mut other, "PUBSUB NUMSUB a b");
    assert_eq!(numbers, "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:0\r\n");
    assert_eq!(ask_at(&mut exchange, &mut other, "PUBSUB CHANNELS *"), "*1\r\n$1\r\na\r\n");
    // An earlier message comes before the reply.
    assert_eq!(exchange.publish(b"b", b"last"), 1);
    let answer = ask_at(&mut exchange, &mut one, "PUNSUBSCRIBE");
    assert!(answer.starts_with("*4\r\n$8\r\npmessage\r\n") && answer.ends_with("\r\nb\r\n:1\r\n"));
    ask_at(&mut exchange, &mut one, "UNSUBSCRIBE a");
    let none = "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n";
    assert_eq!(ask_at(&mut exchange, &mut one, "UNSUBSCRIBE"), none);
    assert_eq!(ask_at(&mut exchange, &mut one, "PING"), "+PONG\r\n");
}

#[test]
fn in_resp3_a_subscriber_goes_on_as_before() {
    let mut exchange = Exchange::new(2, 100_000);
    let mut one = publisher(None);
    ask_at(&mut exchange, &mut one, "HELLO 3");
    let answer = ask_at(&mut exchange, &mut one, "SUBSCRIBE a");
    assert_eq!(answer, ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    assert_eq!(feed_at(&mut exchange, &mut one, "PUBLISH a 1\r\nPING\r\n"), ["a 1"]);
    assert_eq!(take_output(&mut one), ":7\r\n+PONG\r\n");
    exchange.publish(b"a", b"1");
    one.collect(&mut exchange);
    assert_eq!(take_output(&mut one), ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert_eq!(ask_at(&mut exchange, &mut one, "RESET"), "+RESET\r\n");
    assert_eq!(exchange.publish(b"a", b"1"), 0);
}

#[test]
fn nobody_subscribes_without_the_password() {
    let mut exchange = Exchange::new(2, 100_000);
    let mut one = publisher(Some("secret"));
    for line in ["SUBSCRIBE a", "PSUBSCRIBE *", "PUBSUB CHANNELS", "MULTI", "EXEC", "EVAL a 0"] {
        assert!(ask_at(&mut exchange, &mut one, line).starts_with("-NOAUTH"), "{line}");
    }
    assert_eq!(exchange.publish(b"a", b"1"), 0);
}
