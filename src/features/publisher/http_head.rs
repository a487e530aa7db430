//! The head of a request of HTTP at the publishers' port, and what follows from it (RFC 9112).

use std::borrow::Cow;

use crate::engine::client::http::percent_decoded;
use crate::features::publisher::settings::Terms;

/// The path before a channel.
const PATH: &str = "/publish/";
/// Types of content that a form of any page can send anywhere. For every other type a browser asks first, and gets no leave.
const FORMS: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

/// The reason why a request publishes nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpRefusal {
    pub status: u16,
    /// A sentence that repeats nothing of the request but its length.
    pub text: Cow<'static, str>,
}

impl HttpRefusal {
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> HttpRefusal {
        HttpRefusal { status, text: text.into() }
    }
}

/// The head of a request.
pub struct PublishHead<'a> {
    method: &'a str,
    target: &'a str,
    /// HTTP/1.0.
    is_old: bool,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> PublishHead<'a> {
    /// Parses a head with the empty line at its end; `None` if it is malformed. Folded lines, spaces before a colon and single CRs
    /// are: a proxy may read them in another way.
    pub fn parse(bytes: &'a [u8]) -> Option<PublishHead<'a>> {
        let mut lines = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?.split("\r\n");
        let words: Vec<&str> = lines.next()?.split(' ').collect();
        let [method, target, version] = words[..] else { return None };
        if target.contains(char::is_control) {
            return None;
        }
        let is_old = match version {
            "HTTP/1.1" => false,
            "HTTP/1.0" => true,
            _ => return None,
        };
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_of_name =
                |byte: u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte);
            let is_name = !name.is_empty() && name.bytes().all(is_of_name);
            let is_value = value.bytes().all(|byte| !byte.is_ascii_control() || byte == b'\t');
            (is_name && is_value).then(|| (name, value.trim_matches([' ', '\t'])))
        });
        let headers = headers.collect::<Option<_>>()?;
        Some(PublishHead { method, target, is_old, headers })
    }

    /// Returns whether a browser sends this for a page. Browsers name the page's origin in every POST, and send `Sec-Fetch-Site` with
    /// every request to this machine; node's `fetch` sends `Sec-Fetch-Mode` alone.
    pub fn is_from_page(&self) -> bool {
        let names = ["origin", "sec-fetch-site"];
        names.iter().any(|name| self.values(name).next().is_some())
    }

    /// Returns whether the connection ends behind the answer. HEAD ends it, because its answer would have no content.
    pub fn is_last(&self) -> bool {
        self.is_old || self.method == "HEAD" || self.lists("connection", "close")
    }

    /// Returns whether the peer waits for leave before it sends the content (RFC 9110 section 10.1.1).
    pub fn expects_leave(&self) -> bool {
        !self.is_old && self.lists("expect", "100-continue")
    }

    /// Returns the length of the content.
    ///
    /// # Errors
    /// The end of the request is not known, or a proxy in front may see it elsewhere: nothing behind it can be read.
    pub fn length(&self) -> Result<u64, HttpRefusal> {
        match self.values("host").count() {
            1 => {}
            0 if self.is_old => {}
            _ => return Err(HttpRefusal::new(400, "one Host header is expected")),
        }
        let lengths: Vec<&str> = self.values("content-length").collect();
        let is_chunked = self.values("transfer-encoding").next().is_some();
        match lengths[..] {
            [] if !is_chunked && self.method != "POST" => Ok(0),
            [length] if !is_chunked && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| HttpRefusal::new(400, "Content-Length is no number"))
            }
            [_, ..] => {
                Err(HttpRefusal::new(400, "one Content-Length is expected, and no other length"))
            }
            [] => {
                Err(HttpRefusal::new(411, "Content-Length is expected: chunks are not read here"))
            }
        }
    }

    /// Returns the channel to publish on.
    ///
    /// # Errors
    /// The request has no password or a wrong one, is no request to publish, or its content is too long.
    pub fn channel(&self, length: u64, terms: &Terms) -> Result<String, HttpRefusal> {
        if !terms.accept(self.bearer().as_bytes()) {
            return Err(HttpRefusal::new(401, "Authorization: Bearer PASSWORD is expected"));
        }
        let Some(channel) = self.target.strip_prefix(PATH).filter(|name| !name.is_empty()) else {
            return Err(HttpRefusal::new(404, "no such path: POST /publish/CHANNEL publishes"));
        };
        if self.method != "POST" {
            return Err(HttpRefusal::new(405, "no such method: POST publishes"));
        }
        let is_form = |value: &str| {
            let name = value.split(';').next().unwrap_or_default().trim();
            FORMS.iter().any(|form| form.eq_ignore_ascii_case(name))
        };
        if self.values("content-type").any(is_form) {
            let why = "forms of pages have this type: send Content-Type: application/json with any payload";
            return Err(HttpRefusal::new(415, why));
        }
        let bytes_max = terms.payload_bytes_max;
        if length > bytes_max as u64 {
            let why = format!("payload is {length} bytes, payload_bytes_max is {bytes_max}");
            return Err(HttpRefusal::new(413, why));
        }
        let channel = percent_decoded(channel);
        let channel = channel.ok_or_else(|| HttpRefusal::new(400, "the channel is not UTF-8"))?;
        Ok(channel.into_owned())
    }

    /// Returns the password (RFC 6750 section 2.1), or nothing.
    fn bearer(&self) -> &str {
        let credentials = self.values("authorization").filter_map(|value| value.split_once(' '));
        let mut bearers = credentials.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        bearers.next().map_or("", |(_, password)| password.trim_start())
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(one, _)| one.eq_ignore_ascii_case(name));
        named.map(|(_, value)| *value)
    }

    /// Returns whether a header has this entry.
    fn lists(&self, name: &str, entry: &str) -> bool {
        let mut entries = self.values(name).flat_map(|value| value.split(','));
        entries.any(|one| one.trim().eq_ignore_ascii_case(entry))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::features::publisher::PublisherBounds;

    fn judge(lines: &str, password: Option<&str>) -> Result<String, u16> {
        let terms = Terms {
            bounds: PublisherBounds::default(),
            password: password.map(|password| Rc::from(password.as_bytes())),
            payload_bytes_max: 100,
            auth_millis: 5000,
        };
        let head = lines.replace('\n', "\r\n") + "\r\n\r\n";
        let head = PublishHead::parse(head.as_bytes()).ok_or(0_u16)?;
        let status = |refusal: HttpRefusal| refusal.status;
        head.length().and_then(|length| head.channel(length, &terms)).map_err(status)
    }

    #[test]
    fn a_head_names_its_channel_or_the_status_of_its_refusal() {
        let post = "POST /publish/pub.news HTTP/1.1\nHost: h\nContent-Length: 2";
        let with = |line: &str| format!("{post}\n{line}");
        for (lines, expected) in [
            (post.to_owned(), Ok("pub.news")),
            (post.replace("pub.news", "pub.a%3Ab%2fc/d"), Ok("pub.a:b/c/d")),
            (post.replace("1.1\nHost: h", "1.0"), Ok("pub.news")),
            (with("content-TYPE: application/json"), Ok("pub.news")),
            (with("Authorization: Bearer any"), Ok("pub.news")),
            (post.replace("Length: 2", "Length: 100"), Ok("pub.news")),
            (post.replace("Length: 2", "Length: 101"), Err(413)),
            (post.replace("Length: 2", "Length: 18446744073709551616"), Err(400)),
            (post.replace("Length: 2", "Length: +2"), Err(400)),
            (post.replace("Length: 2", "Length:"), Err(400)),
            (with("Content-Length: 2"), Err(400)),
            (with("Transfer-Encoding: chunked"), Err(400)),
            (post.replace("Content-Length: 2", "Transfer-Encoding: chunked"), Err(411)),
            (post.replace("\nContent-Length: 2", ""), Err(411)),
            (with("Host: h"), Err(400)),
            (post.replace("\nHost: h", ""), Err(400)),
            (post.replace("POST", "PUT"), Err(405)),
            (post.replace("POST", "OPTIONS"), Err(405)),
            ("GET /publish/pub.news HTTP/1.1\nHost: h".to_owned(), Err(405)),
            ("GET / HTTP/1.1\nHost: h".to_owned(), Err(404)),
            (post.replace("pub.news", ""), Err(404)),
            (post.replace("/publish/pub.news", "http://h/publish/pub.news"), Err(404)),
            (post.replace("pub.news", "%ff"), Err(400)),
            (with("Content-Type: text/plain"), Err(415)),
            (with("Content-Type: Multipart/Form-Data; boundary=x"), Err(415)),
            (with("Content-Type: application/x-www-form-urlencoded"), Err(415)),
            (post.replace("pub.news", "pub.\rnews"), Err(0)),
            (with("A: b\rc"), Err(0)),
            (with("A : b"), Err(0)),
            (with("A: b\n c"), Err(0)),
            (with("A: b\u{1}"), Err(0)),
            (with("no colon"), Err(0)),
            (post.replace("HTTP/1.1", "HTTP/2.0"), Err(0)),
            (post.replace(" HTTP", "  HTTP"), Err(0)),
        ] {
            assert_eq!(judge(&lines, None), expected.map(str::to_owned), "{lines}");
        }
    }

    #[test]
    fn the_password_comes_before_all_that_it_could_tell() {
        let post = "POST /publish/pub.news HTTP/1.1\nHost: h\nContent-Length: 2";
        for (line, expected) in [
            ("A: b", Err(401)),
            ("Authorization: Bearer", Err(401)),
            ("Authorization: Bearer wrong", Err(401)),
            ("Authorization: Basic correct horse", Err(401)),
            ("Authorization: bearer  correct horse ", Ok("pub.news".to_owned())),
        ] {
            let lines = format!("{post}\n{line}");
            assert_eq!(judge(&lines, Some("correct horse")), expected, "{line}");
        }
        assert_eq!(judge("GET / HTTP/1.1\nHost: h", Some("x")), Err(401));
        assert_eq!(judge(&post.replace("Length: 2", "Length: 999"), Some("x")), Err(401));
    }
}
