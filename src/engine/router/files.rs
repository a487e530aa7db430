//! Files served besides WebSockets: a page for this machine, and public files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::engine::client::http::{Request, Response};

#[derive(Default)]
pub struct Files {
    page: Option<Page>,
    public: Vec<File>,
}

/// The page at `/`.
pub struct Page {
    pub html: Vec<u8>,
    /// Serve it to everyone: it contains no secret. Otherwise only browsers on this machine get it.
    pub is_public: bool,
}

/// A file that pages of every origin may load.
pub struct File {
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
    /// The entity tag, which changes with the bytes (RFC 9110 section 8.8.3).
    tag: String,
}

impl File {
    /// A file at `path`.
    pub fn new(path: &str, content_type: &'static str, body: Vec<u8>) -> File {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        File { path: path.to_owned(), content_type, body, tag }
    }

    /// The file, or 304 if the client's copy is current. Clients ask each time: an old copy never hides a newer server's file,
    /// and asking costs one small response.
    fn answer(&self, request: &Request) -> Response {
        let is_known = request.list("if-none-match").any(|tag| tag == "*" || self.is(tag));
        let (status, body) = if is_known { (304, Vec::new()) } else { (200, self.body.clone()) };
        Response::new(status, self.content_type, body)
            .with("Cache-Control", "no-cache")
            .with("ETag", self.tag.clone())
            .with("Access-Control-Allow-Origin", "*")
    }

    /// Returns whether `tag` is this file's. A proxy that compresses makes tags weak.
    fn is(&self, tag: &str) -> bool {
        tag.strip_prefix("W/").unwrap_or(tag) == self.tag
    }
}

impl Files {
    pub fn set_page(&mut self, page: Page) {
        self.page = Some(page);
    }

    /// Returns whether this request's host may see the page.
    pub fn has_page_for(&self, request: &Request) -> bool {
        self.page.as_ref().is_some_and(|page| page.is_for(request))
    }

    pub fn add(&mut self, file: File) {
        self.public.push(file);
    }

    /// The response to a request for a page or file; `None` if there is none at this path for this client.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        if let Some(file) = self.public.iter().find(|file| file.path == request.path()) {
            return Some(file.answer(request));
        }
        let page = self.page.as_ref().filter(|page| request.path() == "/" && page.is_for(request));
        page.map(|page| Response::html(page.html.clone()))
    }
}

impl Page {
    fn is_for(&self, request: &Request) -> bool {
        self.is_public || is_from_this_machine(request)
    }
}

/// Headers by which a proxy, or a tunnel that ends on this machine, reveals a remote client.
const FORWARDING: [&str; 4] = ["x-forwarded-for", "forwarded", "x-real-ip", "via"];

/// Returns whether a browser on this machine asks: from loopback, by a loopback name, and apparently not through a proxy. Only
/// proxies speak HTTP/1.0.
pub fn is_from_this_machine(request: &Request) -> bool {
    request.address().is_loopback()
        && is_loopback_name(request.header("host"))
        && !request.is_old()
        && FORWARDING.iter().all(|name| request.count(name) == 0)
}

/// Returns whether a name points to this machine alone. A page of another site whose name was pointed here (DNS rebinding) sends
/// its own name, and must not get the page with its token.
fn is_loopback_name(host: Option<&str>) -> bool {
    let Some(name) = host.map(without_port) else { return false };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns whether nobody can point this name elsewhere: an IP address, or `localhost`.
pub(super) fn is_address(host: Option<&str>) -> bool {
    let Some(name) = host.map(without_port) else { return false };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// A host without its port and its brackets.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;

    fn asked(path: &str, lines: &str) -> Request {
        let head = format!("GET {path} HTTP/1.1\r\nHost: 10.0.0.1\r\n{lines}\r\n");
        http::parse(head.as_bytes(), 8192).unwrap().unwrap().0
    }

    #[test]
    fn only_loopback_names_get_the_page() {
        for (host, loopback) in [
            ("localhost", true),
            ("LOCALHOST:8099", true),
            ("127.0.0.1:8099", true),
            ("[::1]:8099", true),
            ("[::1]", true),
            ("evil.example:8099", false),
            ("localhost.evil.example", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_name(Some(host)), loopback, "{host}");
            let is_number = host == "10.0.0.1";
            assert_eq!(is_address(Some(host)), loopback || is_number, "{host}");
        }
    }

    #[test]
    fn a_file_is_sent_once_to_whoever_keeps_it() {
        let mut files = Files::default();
        files.add(File::new("/a.js", "text/javascript", b"let a;".to_vec()));
        let first = files.answer(&asked("/a.js", "")).unwrap();
        assert_eq!((first.status, &first.body[..]), (200, &b"let a;"[..]));
        let tag = &first.headers.iter().find(|(name, _)| *name == "ETag").unwrap().1;
        for (line, status) in [
            (format!("If-None-Match: {tag}\r\n"), 304),
            (format!("If-None-Match: \"other\", W/{tag}\r\n"), 304),
            ("If-None-Match: *\r\n".to_owned(), 304),
            ("If-None-Match: \"other\"\r\n".to_owned(), 200),
        ] {
            let answer = files.answer(&asked("/a.js", &line)).unwrap();
            assert_eq!((answer.status, answer.body.is_empty()), (status, status == 304), "{line}");
        }
        let other = File::new("/a.js", "text/javascript", b"let b;".to_vec());
        assert!(!other.is(tag), "other bytes, another tag");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let mut files = Files::default();
        files.add(File::new("/a.js", "text/javascript", Vec::new()));
        files.set_page(Page { html: b"page".to_vec(), is_public: false });
        for path in ["/", "/a.j", "/a.js/", "/A.js"] {
            assert_eq!(files.answer(&asked(path, "")), None, "{path}");
        }
        files.set_page(Page { html: b"page".to_vec(), is_public: true });
        assert_eq!(files.answer(&asked("/", "")).unwrap().body, b"page");
    }
}
