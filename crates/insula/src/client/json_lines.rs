//! Records out of a stream of bytes: JSON lines, or the `data:` lines of server-sent events.

use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde::de::DeserializeOwned;

/// Longest line of a stream, in bytes. The node's lines are far shorter; a longer one ends the stream.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How records lie in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One JSON value a line.
    JsonLines,
    /// `data: JSON` lines between others.
    ServerSentEvents,
}

/// A stream that broke.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection ended in the middle.
    #[error("the node ended the stream")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record is not what this program knows.
    #[error("a record of the stream is not understood; versions of program and node may differ")]
    Unexpected(#[source] serde_json::Error),
    /// A line longer than 4 MiB.
    #[error("a line of the stream is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

/// The records of one answer, in order.
#[derive(Debug)]
pub struct Records<T, B = Incoming> {
    body: B,
    lines: Lines,
    framing: Framing,
    record: PhantomData<T>,
}

impl<T: DeserializeOwned, B> Records<T, B>
where
    B: Body + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Reads `body`.
    pub fn new(body: B, framing: Framing) -> Self {
        Self { body, lines: Lines::default(), framing, record: PhantomData }
    }

    /// The next record; `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// See [`StreamError`]; the stream is of no more use then.
    pub async fn next(&mut self) -> Result<Option<T>, StreamError> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(json) = self.framing.record(&line) {
                    return serde_json::from_slice(json).map(Some).map_err(StreamError::Unexpected);
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(StreamError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(mut data) = frame.into_data() {
                        self.lines.push(&data.copy_to_bytes(data.remaining()))?;
                    }
                }
            }
        }
    }
}

impl Framing {
    /// The record in a line, if there is one.
    fn record(self, line: &[u8]) -> Option<&[u8]> {
        let json = match self {
            Self::JsonLines => line,
            Self::ServerSentEvents => line.strip_prefix(b"data:")?,
        };
        let json = json.trim_ascii();
        (!json.is_empty()).then_some(json)
    }
}

/// Bytes cut at line ends, however they arrive.
#[derive(Debug, Default)]
struct Lines {
    whole: VecDeque<Vec<u8>>,
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut parts = bytes.split(|&byte| byte == b'\n');
        // `split` yields at least one part; the last one has no line end yet.
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            let mut line = std::mem::take(&mut self.rest);
            line.extend_from_slice(part);
            self.whole.push_back(line);
        }
        self.rest.extend_from_slice(last);
        if self.rest.len() > LINE_BYTES_MAX { Err(StreamError::TooLong) } else { Ok(()) }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use proptest::prelude::*;

    fn read(chunks: Vec<Vec<u8>>, framing: Framing) -> Vec<serde_json::Value> {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Frame::data(Bytes::from(chunk))));
        let mut records = Records::new(StreamBody::new(futures_util::stream::iter(frames)), framing);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(record) = records.next().await.unwrap() {
                all.push(record);
            }
            all
        })
    }

    #[test]
    fn events_are_the_data_lines() {
        let text = b": hello\n\nid: 1\ndata: {\"a\":1}\n\ndata:{\"a\":2}\n\n:\n\n";
        assert_eq!(read(vec![text.to_vec()], Framing::ServerSentEvents).len(), 2);
    }

    proptest! {
        #[test]
        fn records_do_not_depend_on_how_the_bytes_arrive(numbers in prop::collection::vec(any::<u32>(), 0..20), cut in 1usize..9) {
            let text: String = numbers.iter().map(|number| format!("{{\"n\":{number}}}\n")).collect();
            let chunks = text.as_bytes().chunks(cut).map(<[u8]>::to_vec).collect();
            let read: Vec<u64> = read(chunks, Framing::JsonLines).iter().map(|value| value["n"].as_u64().unwrap()).collect();
            prop_assert_eq!(read, numbers.into_iter().map(u64::from).collect::<Vec<_>>());
        }
    }
}
