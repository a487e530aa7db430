//! Plain requests at the clients' listener for no file: health checks of load balancers, and unknown paths.

use crate::engine::client::http::{Method, Request, Response};
use crate::engine::handler::Route;
use crate::engine::server::RouteOptions;

/// The response during a drain, to connections accepted before it: no others come.
pub(super) const LEAVING: &str = "this server is leaving";

/// The response to a load balancer's health check: `GET /healthz`, or OPTIONS of any path as HAProxy sends it. A full server
/// is healthy: some balancers would cut its clients off, which would then only fill the next server.
///
/// A balancer counts for no address. A handshake at a route called `/healthz` is not a health check.
pub(super) fn answer_probe(is_draining: bool, request: &Request) -> Option<Response> {
    let asks_for_methods = request.method() == Method::Options;
    if !asks_for_methods && (request.path() != "/healthz" || request.is_upgrade()) {
        return None;
    }
    Some(match (is_draining, asks_for_methods) {
        (true, _) => Response::text(503, LEAVING).with("Retry-After", "5"),
        (false, true) => Response::options(),
        (false, false) => Response::text(200, "ok"),
    })
}

/// The response at an unknown path.
pub(super) fn no_such_path(routes: &[Route], options: &[RouteOptions]) -> Response {
    Response::text(404, &format!("no such path: WebSockets are at {}", paths(routes, options)))
}

/// The paths of the listed routes.
pub(super) fn paths(routes: &[Route], options: &[RouteOptions]) -> String {
    let listed = routes.iter().zip(options).filter(|(_, options)| options.is_listed);
    listed.map(|(route, _)| route.path.as_str()).collect::<Vec<_>>().join(", ")
}
