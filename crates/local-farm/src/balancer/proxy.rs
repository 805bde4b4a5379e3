//! One request: to the session's own instance while that is healthy, else to another, else a clear refusal.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, RETRY_AFTER, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::backends::Backends;
use crate::http::{HttpError, send};
use crate::paths::ENTRIES;
use crate::serve::plain;
use crate::vault::NOT_ADMITTED_HEADER;

/// The cookie that keeps a session on its instance.
const COOKIE_NAME: &str = "vault-instance";

/// How long an instance may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Answers a request through one of the instances.
pub(super) async fn forward(backends: &Backends, request: Request<Bytes>) -> Response<Bytes> {
    // What controls an instance is for its own machine, not for clients.
    if !request.uri().path().starts_with(ENTRIES) {
        return plain(StatusCode::NOT_FOUND, "there is no such path");
    }
    let home = home(request.headers());
    for number in backends.candidates(home) {
        let address = backends.address(number);
        let mut copy = request.clone();
        copy.headers_mut().remove(CONNECTION);
        copy.headers_mut().remove(TRANSFER_ENCODING);
        let host = HeaderValue::from_str(&address.to_string()).expect("an address is a valid header");
        copy.headers_mut().insert(HOST, host);
        match send(address, copy, ANSWER_LIMIT).await {
            // It drains, and did nothing with the request: another may have it.
            Ok(response) if response.headers().contains_key(NOT_ADMITTED_HEADER) => backends.mark_unhealthy(number),
            Ok(response) => return settle(response, number, home),
            Err(error @ HttpError::Connect(..)) => {
                tracing::warn!(%error, "an instance is gone");
                backends.mark_unhealthy(number);
            }
            // It may have acted upon the request, so nobody else is asked.
            Err(error @ HttpError::Broken(..)) => {
                tracing::warn!(%error, "an instance broke off");
                return plain(StatusCode::BAD_GATEWAY, "the instance broke off in the middle of the request");
            }
        }
    }
    let mut refusal = plain(StatusCode::SERVICE_UNAVAILABLE, "no instance is online; try again in a moment");
    refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    refusal
}

/// The number of the instance that the session is at home on.
fn home(headers: &HeaderMap) -> Option<usize> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('=')?.parse().ok())
}

/// The instance's answer, with a cookie when the session has found a new home.
fn settle(mut response: Response<Bytes>, number: usize, home: Option<usize>) -> Response<Bytes> {
    response.headers_mut().remove(CONNECTION);
    response.headers_mut().remove(TRANSFER_ENCODING);
    if home != Some(number) {
        let cookie = format!("{COOKIE_NAME}={number}; Path=/; HttpOnly; SameSite=Strict");
        let cookie = HeaderValue::from_str(&cookie).expect("a number and plain words are a valid header");
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
