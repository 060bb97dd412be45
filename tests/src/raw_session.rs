//! A session with the coordinator whose messages are plain bytes: what an agent of another version, or no agent at all, sends.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use drop_proto::{AgentMessage, CoordinatorMessage, Hello, RuntimeState, agent_message};
use hyper::http::uri::PathAndQuery;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::coordinator::TLS_NAME;

/// The only method that the coordinator serves.
pub const SESSION: &str = "/drop.v1.Coordinator/Session";

const PATIENCE: Duration = Duration::from_secs(30);

/// An open stream. Dropped: closed.
#[derive(Debug)]
pub struct RawSession {
    messages: mpsc::Sender<Bytes>,
    answers: Streaming<CoordinatorMessage>,
}

impl RawSession {
    /// Opens a stream to `address` (`127.0.0.1:port`).
    pub async fn open(address: &str) -> Result<Self> {
        Self::open_method(address, SESSION).await?.context("open")
    }

    /// As `open`, by any method; the inner error is the other side's refusal.
    pub async fn open_method(address: &str, method: &'static str) -> Result<Result<Self, Status>> {
        let endpoint = Endpoint::try_from(format!("http://{address}"))?;
        Self::start(endpoint, method, None).await
    }

    /// As an agent of a cluster does it: over TLS, believing these authorities (PEM), with a token. An error: no connection;
    /// the inner one is the coordinator's refusal.
    pub async fn open_secure(
        address: &str,
        authorities: &str,
        token: Option<&str>,
    ) -> Result<Result<Self, Status>> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authorities))
            .domain_name(TLS_NAME);
        let endpoint = Endpoint::try_from(format!("https://{address}"))?.tls_config(tls)?;
        Self::start(endpoint, SESSION, token).await
    }

    async fn start(
        endpoint: Endpoint,
        method: &'static str,
        token: Option<&str>,
    ) -> Result<Result<Self, Status>> {
        let endpoint = endpoint.connect_timeout(PATIENCE);
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("connect to {}", endpoint.uri()))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.context("wait for the connection")?;
        let (messages, outgoing) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse()?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let opened = client
            .streaming(request, PathAndQuery::from_static(method), RawCodec)
            .await;
        Ok(opened.map(|answers| Self {
            messages,
            answers: answers.into_inner(),
        }))
    }

    /// Sends one message. False when the stream is over.
    pub async fn send(&self, message: impl Into<Bytes>) -> bool {
        self.messages.send(message.into()).await.is_ok()
    }

    /// The next message of the coordinator; none at the end, an error when it refuses.
    pub async fn next(&mut self) -> Result<Result<Option<CoordinatorMessage>, Status>> {
        timeout(PATIENCE, self.answers.message())
            .await
            .context("the coordinator says nothing")
    }

    /// The refusal that ends the stream; messages before it are skipped.
    pub async fn refusal(&mut self) -> Result<Status> {
        loop {
            match self.next().await? {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("the session ended without a refusal"),
                Err(status) => return Ok(status),
            }
        }
    }
}

/// A message of this version of the protocol.
#[must_use]
pub fn encoded(kind: agent_message::Kind) -> Vec<u8> {
    AgentMessage { kind: Some(kind) }.encode_to_vec()
}

/// What an agent of `node` says first.
#[must_use]
pub fn hello(node: &str, instance: &str) -> Hello {
    Hello {
        node: node.to_owned(),
        instance: instance.to_owned(),
        version: "0.0.0-test".to_owned(),
        max_parallel_pulls: 1,
        held: Vec::new(),
        runtime: Some(RuntimeState {
            available: true,
            message: String::new(),
            runtime: "containerd 9.9.9".to_owned(),
            platform: crate::images::this_platform(),
        }),
    }
}

/// Appends a number under a field number.
pub fn put_number(message: &mut Vec<u8>, field: u32, value: u64) {
    encode_key(field, WireType::Varint, message);
    encode_varint(value, message);
}

/// Appends bytes (a string, a message) under a field number.
pub fn put_bytes(message: &mut Vec<u8>, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(value.len() as u64, message);
    message.extend_from_slice(value);
}

#[derive(Clone, Copy, Debug)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = CoordinatorMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = CoordinatorMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        CoordinatorMessage::decode(bytes)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
