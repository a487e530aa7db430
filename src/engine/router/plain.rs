//! Plain requests at the clients' listener that are for no file: those of balancers, and those that have lost their way.

use super::Router;
use crate::engine::client::http::{Method, Request, Response};
use crate::engine::handler::Route;
use crate::engine::server::RouteOptions;

/// Told to those who come while it drains: only those who were accepted before, since nobody is any more.
pub(super) const LEAVING: &str = "this server is leaving";

impl Router {
    /// The answer to a balancer that asks whether this server takes clients: by `GET /healthz`, or as HAProxy does by OPTIONS of any
    /// path. A server without room is healthy: its clients, whom some balancers would cut off, would only fill the next one.
    ///
    /// A balancer counts for no address. A handshake at a route called `/healthz` is none of its requests.
    pub(super) fn answer_probe(&self, request: &Request) -> Option<Response> {
        let asks_for_methods = request.method() == Method::Options;
        if !asks_for_methods && (request.path() != "/healthz" || request.is_upgrade()) {
            return None;
        }
        Some(match (self.health.draining, asks_for_methods) {
            (true, _) => Response::text(503, LEAVING).with("Retry-After", "5"),
            (false, true) => Response::options(),
            (false, false) => Response::text(200, "ok"),
        })
    }

    /// The answer where nothing is served.
    pub(super) fn no_such_path(&self) -> Response {
        Response::text(
            404,
            &format!(
                "no such path: WebSockets are at {}",
                paths(&self.routes, &self.server.options)
            ),
        )
    }
}

/// The paths that clients connect to.
pub(super) fn paths(routes: &[Route], options: &[RouteOptions]) -> String {
    let listed = routes.iter().zip(options).filter(|(_, options)| options.is_listed);
    listed.map(|(route, _)| route.path.as_str()).collect::<Vec<_>>().join(", ")
}
