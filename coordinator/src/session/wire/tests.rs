use drop_proto::{Ask, Started, agent_message};
use http_body_util::StreamBody;

use super::*;
use crate::clock::Clock;

fn started(token: u64) -> AgentMessage {
    let kind = Some(agent_message::Kind::Started(Started { token }));
    AgentMessage { kind }
}

fn framed(message: &AgentMessage) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &body].concat()
}

/// A request whose bytes come in these pieces.
fn incoming(pieces: Vec<Vec<u8>>) -> Incoming {
    let frames = pieces
        .into_iter()
        .map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
    Incoming::new(Body::new(StreamBody::new(futures::stream::iter(frames))))
}

#[tokio::test]
async fn messages_are_read_however_their_bytes_are_cut() {
    let ask = Ask {
        references: (0..50).map(|n| format!("registry/app:{n}")).collect(),
        withdrawn: Vec::new(),
    };
    let ask = AgentMessage {
        kind: Some(agent_message::Kind::Ask(ask)),
    };
    let all = [started(1), ask, started(2)];
    let bytes: Vec<u8> = all.iter().flat_map(framed).collect();
    for size in [1, 4, 5, 6, 100, bytes.len()] {
        let pieces = bytes.chunks(size).map(<[u8]>::to_vec).collect();
        let mut incoming = incoming(pieces);
        for expected in &all {
            let message = incoming.message().await.unwrap();
            assert_eq!(message.as_ref(), Some(expected), "in pieces of {size}");
        }
        assert_eq!(incoming.message().await.unwrap(), None);
        assert_eq!(incoming.partial.capacity(), 0, "no memory is kept");
    }
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream_with_a_reason() {
    let message = framed(&started(1));
    let compressed = [&[1], &message[1..]].concat();
    let too_long = [0, 0xff, 0xff, 0xff, 0xff].to_vec();
    let no_protobuf = [0, 0, 0, 0, 1, 0xff].to_vec();
    let cut = message[..message.len() - 1].to_vec();
    for (bytes, code) in [
        (compressed, Code::Unimplemented),
        (too_long, Code::OutOfRange),
        (no_protobuf, Code::Internal),
        (cut, Code::Internal),
    ] {
        let status = incoming(vec![bytes]).message().await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
}

fn revoke(token: u64) -> Message {
    Message::Revoke { token }
}

#[tokio::test]
async fn what_waits_goes_out_together_and_the_end_comes_last() {
    let (sender, queue) = mpsc::channel(8);
    let mut outgoing = Outgoing::new(Term::for_ever(Clock::start()), queue);
    let enough = Err(Status::aborted("enough"));
    for message in [Ok(Box::new(revoke(1))), Ok(Box::new(revoke(2))), enough] {
        sender.try_send(message).unwrap();
    }
    let data = outgoing.frame().await.unwrap().unwrap();
    let data = data.into_data().unwrap();
    let one = CoordinatorMessage::from(revoke(1)).encoded_len();
    assert_eq!(data.len(), 2 * (HEAD + one));
    let end = outgoing.frame().await.unwrap().unwrap();
    let trailers = end.into_trailers().unwrap();
    let status = Status::from_header_map(&trailers).unwrap();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "enough"));
    assert!(outgoing.frame().await.is_none());
}

#[tokio::test]
async fn nothing_is_said_once_the_term_is_over() {
    let (sender, queue) = mpsc::channel(8);
    let term = Term::for_ever(Clock::start());
    let mut outgoing = Outgoing::new(term.clone(), queue);
    sender.try_send(Ok(Box::new(revoke(1)))).unwrap();
    term.end();
    let end = outgoing.frame().await.unwrap().unwrap();
    let status = Status::from_header_map(&end.into_trailers().unwrap()).unwrap();
    assert_eq!(status.code(), Code::Unavailable);
}
