//! drop-agent: pulls images through the node's CRI socket and says what the runtime holds.
