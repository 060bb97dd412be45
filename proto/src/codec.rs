//! How messages are put on the wire: protobuf as everywhere, with small buffers.
//!
//! A coordinator keeps a session with each node of the cluster, so what a session costs while nothing is said counts thousands
//! of times. Buffers grow for long messages.

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that each direction of a session begins with; most messages are shorter. tonic's own default is 8 KiB.
const BUFFER: usize = 512;
/// Messages that wait together are sent together, up to so many bytes.
const BATCH: usize = 16 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SmallCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, BATCH))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, BATCH))
    }
}
