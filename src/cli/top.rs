//! `oneloop top`: the live state of a running server, from the metrics of its admin listener.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::numbers::{bytes, count};
use super::scrape::{Scrape, scrape};
use super::slowest::slowest;

/// The time between two scrapes.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows the server whose admin listener is at `address` (`http://HOST:PORT` or `HOST:PORT`) every second, or once. A terminal is
/// redrawn in place; a file or pipe gets a line each. `clock` only moves forward. Returns when the reader has gone.
///
/// # Errors
/// A sentence if the first scrape fails, or the second with `once`.
pub fn top(address: &str, once: bool, clock: impl Fn() -> Duration) -> Result<(), String> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let is_terminal = io::stdout().is_terminal() && !once;
    let mut before = (clock(), scrape(address)?);
    if is_terminal && show("\x1b[2J").is_err() {
        return Ok(());
    }
    loop {
        std::thread::sleep(PAUSE);
        let now = (clock(), scrape(address));
        let seconds = (now.0 - before.0).as_secs_f64();
        let text = match &now.1 {
            // The server may be restarting.
            Err(why) if once => return Err(why.clone()),
            Err(why) => format!("{why}\n"),
            Ok(scrape) if is_terminal || once => {
                block(address, &before.1, scrape, seconds) + &slowest(address)
            }
            Ok(scrape) => line(&before.1, scrape, seconds),
        };
        let text = if is_terminal { in_place(&text) } else { text };
        if show(&text).is_err() || once {
            return Ok(());
        }
        if let Ok(scrape) = now.1 {
            before = (now.0, scrape);
        }
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Draws over the previous text. No line is cleared before it is written, so nothing flickers.
fn in_place(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// One line of names and numbers, for files and other programs.
fn line(before: &Scrape, now: &Scrape, seconds: f64) -> String {
    let rate = |name: &str| (now.sum(name) - before.sum(name)).max(0.0) / seconds;
    let turn = now.quantile_since(before, "oneloop_turn_seconds", "", 0.99).unwrap_or(0.0);
    format!(
        "clients={} opened_per_second={:.1} messages_per_second={:.1} deliveries_per_second={:.1} \
         sent_bytes_per_second={:.0} received_bytes_per_second={:.0} turn_p99_seconds={turn} \
         cpu={:.3} resident_bytes={} backlog_bytes={} source_up={}\n",
        now.sum("oneloop_clients"),
        rate("oneloop_opened_total"),
        rate("oneloop_messages_total"),
        rate("oneloop_deliveries_total"),
        rate("oneloop_sent_bytes_total"),
        rate("oneloop_received_bytes_total"),
        rate("process_cpu_seconds_total"),
        now.sum("process_resident_memory_bytes"),
        now.sum("oneloop_backlog_bytes"),
        now.sum("oneloop_source_up"),
    )
}

/// A screenful for people.
fn block(address: &str, before: &Scrape, now: &Scrape, seconds: f64) -> String {
    let rate = |name: &str| (now.sum(name) - before.sum(name)).max(0.0) / seconds;
    let per = |name: &str| format!("{}/s", count(rate(name)));
    let bytes_per = |name: &str| format!("{}/s", bytes(rate(name)));
    let whole = |name: &str| count(now.sum(name));
    let held = |name: &str| bytes(now.sum(name));
    let turn = |of| turn(now.quantile_since(before, "oneloop_turn_seconds", "", of));
    let state = if now.sum("oneloop_source_up") > 0.0 { "up" } else { "down" };
    let each = match now.one("oneloop_memory_bytes_per_connection") {
        Some(each) => format!("{} for each client", bytes(each)),
        None => "no client".to_owned(),
    };
    let refused = format!("{}/s", count(refused(now, before) / seconds));
    let cpu = rate("process_cpu_seconds_total") * 100.0;
    let tls = tls(before, now, seconds);
    let lines = [
        format!("oneloop at http://{address}\n"),
        format!(
            "  clients   {} open   {} connecting   {} opened   {refused} refused",
            whole("oneloop_clients"),
            whole("oneloop_handshakes_under_way"),
            per("oneloop_opened_total"),
        ),
        tls,
        format!(
            "  closed    {}   {} slow   {} silent   {} busy so far",
            per("oneloop_closes_total"),
            whole("oneloop_closes_total{code=\"4000\"}"),
            whole("oneloop_closes_total{code=\"4001\"}"),
            whole("oneloop_closes_total{code=\"4003\"}"),
        ),
        format!(
            "  messages  {} in   {} delivered   {} commands",
            per("oneloop_messages_total"),
            per("oneloop_deliveries_total"),
            per("oneloop_commands_total"),
        ),
        format!(
            "  bytes     {} out   {} in   {} waiting   {} held",
            bytes_per("oneloop_sent_bytes_total"),
            bytes_per("oneloop_received_bytes_total"),
            held("oneloop_backlog_bytes"),
            held("oneloop_history_bytes"),
        ),
        format!(
            "  source    {state}   {} commands   {} unanswered so far",
            per("oneloop_requests_total"),
            whole("oneloop_requests_unavailable_total"),
        ),
        format!(
            "  loop      {} turns   {} median   {} p99   {cpu:.0} % CPU",
            per("oneloop_turns_total"),
            turn(0.5),
            turn(0.99),
        ),
        format!("  memory    {} resident   {each}", held("process_resident_memory_bytes")),
        format!(
            "  files     {} open   {} at most\n",
            whole("process_open_fds"),
            whole("process_max_fds"),
        ),
    ];
    let lines = lines.into_iter().filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n") + &loops(before, now, seconds)
}

/// A line for each loop of a server that has several.
fn loops(before: &Scrape, now: &Scrape, seconds: f64) -> String {
    let mut lines = String::new();
    for name in now.labels("oneloop_loop_up", "loop") {
        let of = |metric: &str| format!("oneloop_loop_{metric}{{loop=\"{name}\"}}");
        let value = |scrape: &Scrape, metric: &str| scrape.one(&of(metric)).unwrap_or(0.0);
        let state = match value(now, "up") > 0.0 {
            true => format!("{} restarts", count(value(now, "restarts_total"))),
            false => "silent".to_owned(),
        };
        // A loop that was replaced counts from zero.
        let cpu = (value(now, "cpu_seconds_total") - value(before, "cpu_seconds_total")).max(0.0);
        let label = format!("loop=\"{name}\",");
        let slowest = now.quantile_since(before, "oneloop_loop_turn_seconds", &label, 0.99);
        let _ = writeln!(
            lines,
            "  {name:<9} {} clients   {:.0} %   {}   {} p99   {state}",
            count(value(now, "clients")),
            cpu / seconds * 100.0,
            bytes(value(now, "resident_memory_bytes")),
            turn(slowest),
        );
    }
    lines
}

/// The duration of a turn.
fn turn(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{} ms", seconds * 1000.0))
}

/// The line about TLS, empty at a server without a certificate.
fn tls(before: &Scrape, now: &Scrape, seconds: f64) -> String {
    if now.sum("oneloop_tls_certificate_expiry_time_seconds") <= 0.0 {
        return String::new();
    }
    let rate = |names: &[&str]| {
        let sum = |scrape: &Scrape| names.iter().map(|name| scrape.sum(name)).sum::<f64>();
        count((sum(now) - sum(before)).max(0.0) / seconds)
    };
    format!(
        "  tls       {}/s handshakes   {}/s of them resumed   {}/s failed",
        rate(&["oneloop_tls_handshakes_total"]),
        rate(&[
            "oneloop_tls_handshakes_total{version=\"1.2\",resumed=\"true\"}",
            "oneloop_tls_handshakes_total{version=\"1.3\",resumed=\"true\"}",
        ]),
        rate(&["oneloop_tls_failures_total"]),
    )
}

/// Handshakes that did not become a connection.
fn refused(now: &Scrape, before: &Scrape) -> f64 {
    let refused = |scrape: &Scrape| {
        let opened = scrape.sum("oneloop_handshakes_total{result=\"opened\"}");
        scrape.sum("oneloop_handshakes_total") - opened
    };
    (refused(now) - refused(before)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_told_as_rates() {
        let before = Scrape::parse("oneloop_opened_total 100\noneloop_source_up 1\n");
        let now = Scrape::parse(
            "oneloop_opened_total 130\noneloop_source_up 1\noneloop_clients 1234\n\
             oneloop_closes_total{code=\"4000\"} 2\noneloop_closes_total{code=\"4003\"} 4\n\
             oneloop_handshakes_total{result=\"opened\"} 130\n\
             oneloop_handshakes_total{result=\"refused\"} 6\n\
             oneloop_memory_bytes_per_connection 132.5\n",
        );
        let text = block("h:1", &before, &now, 2.0);
        assert!(!text.contains("tls"), "there is no certificate: {text}");
        for part in [
            "http://h:1\n",
            "1,234 open",
            "15/s opened",
            "3/s refused",
            "closed    3/s   2 slow",
            "source    up",
            "132 B for each client",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let text = line(&before, &now, 2.0);
        assert!(text.starts_with("clients=1234 opened_per_second=15.0 "), "{text}");
        // A server that started anew counts from zero: that is no negative rate.
        assert!(block("h:1", &now, &before, 1.0).contains(" 0/s opened"));
    }

    #[test]
    fn a_busy_server_fits_a_screen() {
        let busy = Scrape::parse(
            "oneloop_clients 100000\noneloop_handshakes_under_way 4096\noneloop_opened_total 9999\n\
             oneloop_handshakes_total{result=\"refused\"} 9999\noneloop_closes_total{code=\"4000\"} 99999\n\
             oneloop_closes_total{code=\"4001\"} 99999\noneloop_closes_total{code=\"4003\"} 99999\n\
             oneloop_messages_total 99999\noneloop_deliveries_total 9999999\noneloop_commands_total 99999\n\
             oneloop_sent_bytes_total 999900000\noneloop_received_bytes_total 999900000\n\
             oneloop_backlog_bytes 999900000\noneloop_history_bytes 999900000\n\
             oneloop_requests_total 99999\noneloop_requests_unavailable_total 9999999\n\
             oneloop_turns_total 99999\nprocess_cpu_seconds_total 1\n\
             oneloop_turn_seconds_bucket{le=\"4.194304\"} 9\noneloop_turn_seconds_bucket{le=\"+Inf\"} 9\n\
             process_resident_memory_bytes 999900000\noneloop_memory_bytes_per_connection 999900\n\
             process_open_fds 100000\nprocess_max_fds 1048576\n\
             oneloop_tls_certificate_expiry_time_seconds{name=\"a.example\"} 9\n\
             oneloop_tls_handshakes_total{version=\"1.2\",resumed=\"true\"} 11111\n\
             oneloop_tls_handshakes_total{version=\"1.3\",resumed=\"true\"} 11111\n\
             oneloop_tls_handshakes_total{version=\"1.3\",resumed=\"false\"} 77777\n\
             oneloop_tls_failures_total{reason=\"decode\"} 9999\n",
        );
        let text = block("127.0.0.1:65535", &Scrape::parse(""), &busy, 1.0);
        assert_eq!(text.lines().count(), 11, "{text}");
        let tls = "99,999/s handshakes   22,222/s of them resumed   9,999/s failed";
        assert!(text.contains(tls), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains(" 0 ") && text.contains("4194.304 ms p99"), "{text}");
    }

    #[test]
    fn each_of_several_loops_has_a_line() {
        let before = Scrape::parse("oneloop_loop_cpu_seconds_total{loop=\"1\"} 8\n");
        let now = Scrape::parse(
            "oneloop_clients 100001\noneloop_loop_up{loop=\"parent\"} 1\n\
             oneloop_loop_up{loop=\"0\"} 0\noneloop_loop_up{loop=\"1\"} 1\n\
             oneloop_loop_clients{loop=\"0\"} 1\noneloop_loop_clients{loop=\"1\"} 100000\n\
             oneloop_loop_cpu_seconds_total{loop=\"0\"} 1\n\
             oneloop_loop_cpu_seconds_total{loop=\"1\"} 8.5\n\
             oneloop_loop_resident_memory_bytes{loop=\"1\"} 999900000\n\
             oneloop_loop_restarts_total{loop=\"1\"} 9999\n\
             oneloop_loop_turn_seconds_bucket{loop=\"0\",le=\"0.002\"} 9\n\
             oneloop_loop_turn_seconds_bucket{loop=\"1\",le=\"4.194304\"} 9\n",
        );
        let text = block("h:1", &before, &now, 1.0);
        for line in [
            "  parent    0 clients   0 %   0 B   - p99   0 restarts\n",
            "  0         1 clients   100 %   0 B   2 ms p99   silent\n",
            "  1         100,000 clients   50 %   999.9 MB   4194.304 ms p99   9,999 restarts\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(text.ends_with("9,999 restarts\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn nothing_of_the_last_screen_stays() {
        assert_eq!(in_place("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
