//! Talking to the node: HTTP/1.1 over its unix socket, one connection that is kept.
//!
//! Requests go out one after the other; work on several containers at once takes one [`Client`] each. Standard
//! streams do not pass through here: see [`crate::foreground`].

mod json_lines;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use insula_api::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub use json_lines::{Framing, Records, StreamError};

/// Largest answer that is held in memory, in bytes; streams are not bounded by it.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A connection that lay idle for longer is not used again: the node may be about to close it.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// A body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A node's API.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    connection: Option<(SendRequest<RequestBody>, Instant)>,
}

/// A request that got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or the caller may not connect.
    #[error("no node answers at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("{method} {path}: the node ended the connection")]
    Connection {
        /// Method of the request.
        method: Method,
        /// Path of the request.
        path: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The request contains what HTTP cannot carry.
    #[error("{method} {path}: no such request can be made")]
    Request {
        /// Method of the request.
        method: Method,
        /// Path of the request.
        path: String,
        /// Why.
        #[source]
        source: hyper::http::Error,
    },
    /// The node refused, and said why.
    #[error(transparent)]
    Refused(Box<Problem>),
    /// An answer that is not of the API.
    #[error("{method} {path}: the answer has status {status} and is not of this API: `{beginning}`")]
    Foreign {
        /// Method of the request.
        method: Method,
        /// Path of the request.
        path: String,
        /// Status of the answer.
        status: StatusCode,
        /// Its first characters.
        beginning: String,
    },
    /// An answer whose fields are not those this program knows.
    #[error("{method} {path}: the answer is not understood; versions of program and node may differ")]
    Unexpected {
        /// Method of the request.
        method: Method,
        /// Path of the request.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than 256 MiB.
    #[error("{method} {path}: the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge {
        /// Method of the request.
        method: Method,
        /// Path of the request.
        path: String,
    },
}

impl Client {
    /// A node that listens at `socket`. Nothing is connected before the first request.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), connection: None }
    }

    /// The same node over another connection.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(&self.socket)
    }

    /// Where the node listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path`, answered with a `T`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `Refused` is the node's own answer.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// `POST path` with `body`, answered with a `T`.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn post<B: Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Any request whose answer is a `T`; an empty answer is read as `null`.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|source| unexpected(&method, path, source))?,
            None => Vec::new(),
        };
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let response = self.send(method.clone(), path, "application/json", body).await?;
        let bytes = collect(&method, path, response).await?;
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|source| unexpected(&method, path, source))
    }

    /// `GET path`, answered with a stream of bytes.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn stream(&mut self, path: &str) -> Result<Incoming, ClientError> {
        let nothing = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let response = self.send(Method::GET, path, "application/json", nothing).await?;
        Ok(response.into_body())
    }

    /// `PUT path` with a body of `media_type`; the answer's body is dropped.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn upload(&mut self, path: &str, media_type: &str, body: RequestBody) -> Result<(), ClientError> {
        let response = self.send(Method::PUT, path, media_type, body).await?;
        collect(&Method::PUT, path, response).await.map(drop)
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        media_type: &str,
        body: RequestBody,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, "insula")
            .header(ACCEPT, "*/*")
            .header(CONTENT_TYPE, media_type)
            .body(body)
            .map_err(|source| ClientError::Request { method: method.clone(), path: path.to_owned(), source })?;
        let broken = |source| ClientError::Connection { method: method.clone(), path: path.to_owned(), source };
        let mut sender = self.connect().await?;
        sender.ready().await.map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        self.connection = Some((sender, Instant::now()));
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(&method, path, response).await?;
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) => Err(ClientError::Foreign {
                method,
                path: path.to_owned(),
                status,
                beginning: String::from_utf8_lossy(&bytes).chars().take(200).collect(),
            }),
        }
    }

    /// The kept connection if it is fresh, or a new one.
    async fn connect(&mut self) -> Result<SendRequest<RequestBody>, ClientError> {
        if let Some((sender, used)) = self.connection.take()
            && used.elapsed() < IDLE_MAX
            && !sender.is_closed()
        {
            return Ok(sender);
        }
        let wrap = |source| ClientError::Connect { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(wrap)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)
            .map_err(wrap)?;
        // Its end is seen by whoever waits for an answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

fn unexpected(method: &Method, path: &str, source: serde_json::Error) -> ClientError {
    ClientError::Unexpected { method: method.clone(), path: path.to_owned(), source }
}

async fn collect(method: &Method, path: &str, response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let mut body = response.into_body();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Connection {
            method: method.clone(),
            path: path.to_owned(),
            source,
        })?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLarge { method: method.clone(), path: path.to_owned() });
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.into())
}

/// `text` as one segment of a path or one value of a query: all but letters, digits and `-._~` as `%XX`.
#[must_use]
pub fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `path` with a query of those `pairs` that have a value.
#[must_use]
pub fn with_query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (key, value) in pairs {
        if let Some(value) = value {
            out.push(separator);
            out.push_str(key);
            out.push('=');
            out.push_str(&encoded(value));
            separator = '&';
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_leave_its_place_in_a_path() {
        assert_eq!(encoded("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(encoded("../x?y=z#\u{e9} %"), "..%2Fx%3Fy%3Dz%23%C3%A9%20%25");
    }

    #[test]
    fn absent_values_are_left_out_of_a_query() {
        let pairs = [("a", None), ("b", Some("1 2".to_owned())), ("c", Some("x".to_owned()))];
        assert_eq!(with_query("/p", &pairs), "/p?b=1%202&c=x");
        assert_eq!(with_query("/p", &pairs[..1]), "/p");
    }
}
