//! One request: what it asks for, and the answer its fate allows.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio_util::sync::CancellationToken;

use crate::connection::Reset;
use crate::faults::{self, Fate};
use crate::handle::Handle;

/// The largest profile accepted; a full one is below 200 bytes.
const PROFILE_BYTES_MAX: usize = 16 * 1024;
const GRPC_UNAVAILABLE: &str = "14";
/// One uncompressed gRPC message of length 0: a valid reply for any protobuf type.
const GRPC_EMPTY_MESSAGE: &[u8] = &[0, 0, 0, 0, 0];

pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;

/// The request ends without an answer; hyper closes the HTTP/1.1 connection, or resets the HTTP/2 stream.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
pub(crate) struct NoAnswer;

/// What a request needs to know of its connection and server.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) reset: Reset,
    pub(crate) draining: CancellationToken,
}

pub(crate) async fn answer(context: Context, request: Request<Incoming>) -> Result<Answer, NoAnswer> {
    match request.uri().path() {
        "/_faults" => faults_endpoint(&context.handle, request).await,
        "/_stats" => Ok(stats_endpoint(&context.handle, request.method())),
        _ => suffer(&context, request).await,
    }
}

async fn faults_endpoint(handle: &Handle, request: Request<Incoming>) -> Result<Answer, NoAnswer> {
    let method = request.method().clone();
    if method == Method::GET || method == Method::HEAD {
        return Ok(json(StatusCode::OK, &handle.faults()));
    }
    if method != Method::PUT && method != Method::PATCH {
        return Ok(not_allowed(&method, "/_faults", "GET, PUT, PATCH"));
    }
    let Ok(body) = Limited::new(request.into_body(), PROFILE_BYTES_MAX).collect().await else {
        return Ok(refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("a profile is at most {PROFILE_BYTES_MAX} bytes"),
        ));
    };
    let body = body.to_bytes();
    let changed = handle.change_faults(|current| {
        if method == Method::PUT {
            faults::replaced(&body)
        } else {
            faults::patched(current, &body)
        }
    });
    Ok(match changed {
        Ok(profile) => json(StatusCode::OK, &profile),
        Err(invalid) => refusal(StatusCode::BAD_REQUEST, &invalid.to_string()),
    })
}

fn stats_endpoint(handle: &Handle, method: &Method) -> Answer {
    match *method {
        Method::GET | Method::HEAD => json(StatusCode::OK, &handle.stats()),
        Method::DELETE => {
            handle.reset_stats();
            json(StatusCode::OK, &handle.stats())
        }
        _ => not_allowed(method, "/_stats", "GET, DELETE"),
    }
}

async fn suffer(context: &Context, request: Request<Incoming>) -> Result<Answer, NoAnswer> {
    let underway = context.handle.arrived();
    let sentence = context.handle.next_sentence();
    let grpc = is_grpc(request.headers());
    discard(request.into_body()).await?;
    if sentence.fate == Fate::Hang {
        underway.hung();
        // The client going away drops this future; a drain must not wait for a client that does not.
        context.draining.cancelled().await;
        return Err(NoAnswer);
    }
    if !sentence.delay.is_zero() {
        tokio::time::sleep(sentence.delay).await;
    }
    if sentence.fate == Fate::Reset {
        underway.reset();
        context.reset.ask();
        // The connection's task drops this future together with the stream.
        return std::future::pending().await;
    }
    let failing = sentence.fate == Fate::Fail;
    let answer = match (grpc, failing) {
        (true, failing) => grpc_answer(failing),
        (false, false) => outcome(StatusCode::OK, "success", sentence.number),
        (false, true) => {
            // In range by validation; the profile's default otherwise.
            let status = StatusCode::from_u16(sentence.error_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            outcome(status, "failure", sentence.number)
        }
    };
    underway.answered(answer.status());
    Ok(answer)
}

/// Reads the request to its end, as a service that does something with it would; otherwise an early answer to a large
/// upload ends in a reset that no profile asked for.
async fn discard(mut body: Incoming) -> Result<(), NoAnswer> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| NoAnswer)?;
    }
    Ok(())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .strip_prefix("application/grpc")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
        })
}

fn grpc_answer(failing: bool) -> Answer {
    let mut trailers = HeaderMap::new();
    let (status, message) = if failing {
        (GRPC_UNAVAILABLE, &[][..])
    } else {
        ("0", GRPC_EMPTY_MESSAGE)
    };
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status));
    if failing {
        trailers.insert(
            HeaderName::from_static("grpc-message"),
            HeaderValue::from_static("failed by fault profile"),
        );
    }
    let message = (!message.is_empty()).then(|| Frame::data(Bytes::from_static(message)));
    // A stream, because a body of known length gets a content-length, which gRPC servers do not send.
    let frames = message.into_iter().chain([Frame::trailers(trailers)]).map(Ok);
    let body = StreamBody::new(futures_util::stream::iter(frames));
    with_content_type(StatusCode::OK, "application/grpc", BoxBody::new(body))
}

fn outcome(status: StatusCode, outcome: &'static str, number: u64) -> Answer {
    #[derive(serde::Serialize)]
    struct Outcome {
        outcome: &'static str,
        status: u16,
        request: u64,
    }
    json(
        status,
        &Outcome {
            outcome,
            status: status.as_u16(),
            request: number,
        },
    )
}

fn refusal(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({ "error": message }))
}

fn not_allowed(method: &Method, path: &str, allowed: &'static str) -> Answer {
    let mut answer = refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{path} has no {method}; it has {allowed}"),
    );
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    // Numbers and short strings always serialize.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    with_content_type(status, "application/json", BoxBody::new(Full::new(Bytes::from(text))))
}

fn with_content_type(status: StatusCode, content_type: &'static str, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
