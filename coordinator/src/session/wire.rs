//! A session's messages on the wire: gRPC's framing (a byte that says whether it is compressed, four for its length, protobuf) over
//! HTTP/2, and its end as trailers.
//!
//! tonic's own streams keep a buffer for each direction that is as long as the longest message that the session ever carried,
//! which is a Desired or an Inventory of all images of a node. Over thousands of sessions that was most of the coordinator's
//! memory; here memory lasts as long as a message. Decides nothing.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use drop_proto::{AgentMessage, CoordinatorMessage, MAX_AGENT_MESSAGE_BYTES, MAX_MESSAGE_BYTES};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::lease::term::Term;
use crate::session::message::Message;
use crate::session::refusal::Refusal;

/// Messages that wait together are sent together, up to so many bytes.
const BATCH: usize = 16 * 1024;
/// What comes before each message.
const HEAD: usize = 5;

/// What an agent says.
#[derive(Debug)]
pub struct Incoming {
    body: Body,
    /// Of messages that are not complete yet.
    partial: BytesMut,
}

impl Incoming {
    /// Reads the body of a request.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self {
            body,
            partial: BytesMut::new(),
        }
    }

    /// The next message; `None`: the agent says no more. Dropping the wait loses nothing.
    pub async fn message(&mut self) -> Result<Option<AgentMessage>, Status> {
        loop {
            if let Some(message) = take(&mut self.partial)? {
                return Ok(Some(message));
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                // The agent took its request back, which is an end like any other.
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.partial.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ends within a message")),
            };
            if let Ok(data) = frame.into_data() {
                self.partial.extend_from_slice(&data);
            }
        }
    }
}

/// Takes the first message out of what has come in, if all of it has.
fn take(partial: &mut BytesMut) -> Result<Option<AgentMessage>, Status> {
    let Some((&[compressed, ref length @ ..], rest)) = partial.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    if compressed != 0 {
        let text = "a compressed message, and no compression was agreed on";
        return Err(Status::unimplemented(text));
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_AGENT_MESSAGE_BYTES {
        return Err(too_long(length, MAX_AGENT_MESSAGE_BYTES));
    }
    let Some(bytes) = rest.get(..length) else {
        return Ok(None);
    };
    let message = AgentMessage::decode(bytes).map_err(|e| Status::internal(e.to_string()))?;
    partial.advance(HEAD + length);
    if partial.is_empty() {
        // Advanced or not, it would keep its memory.
        *partial = BytesMut::new();
    }
    Ok(Some(message))
}

fn too_long(length: usize, limit: usize) -> Status {
    Status::out_of_range(format!(
        "a message of {length} bytes, at most {limit} are taken"
    ))
}

/// The queue of messages to one agent. An error, or the end of the queue, ends the stream.
pub type Queue = mpsc::Receiver<Result<Box<Message>, Status>>;

/// What goes to an agent.
#[derive(Debug)]
pub struct Outgoing {
    term: Term,
    queue: Queue,
    /// How it ended; to be said in trailers.
    end: Option<Status>,
    is_over: bool,
}

impl Outgoing {
    /// Sends what comes in the queue, for as long as the term is on.
    #[must_use]
    pub fn new(term: Term, queue: Queue) -> Self {
        Self {
            term,
            queue,
            end: None,
            is_over: false,
        }
    }

    /// Adds a message to what is sent next. The last look before it goes out: what was decided under a term that is over is not
    /// said any more.
    fn pack(&self, batch: &mut BytesMut, message: Message) -> Result<(), Status> {
        if !self.term.is_on() {
            return Err(Status::from(&Refusal::no_more()));
        }
        let message = CoordinatorMessage::from(message);
        let length = message.encoded_len();
        let size = u32::try_from(length).unwrap_or(u32::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(too_long(length, MAX_MESSAGE_BYTES));
        }
        batch.reserve(HEAD + length);
        batch.extend_from_slice(&[0]);
        batch.extend_from_slice(&size.to_be_bytes());
        message
            .encode(batch)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut batch = BytesMut::new();
        while self.end.is_none() && batch.len() < BATCH {
            match self.queue.poll_recv(context) {
                Poll::Ready(Some(Ok(message))) => self.end = self.pack(&mut batch, *message).err(),
                Poll::Ready(Some(Err(status))) => self.end = Some(status),
                Poll::Ready(None) => self.end = Some(Status::ok("")),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !batch.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(batch.freeze()))));
        }
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        let said = self.end.take().unwrap_or_else(|| Status::ok(""));
        Poll::Ready(Some(
            said.add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}

#[cfg(test)]
mod tests;
