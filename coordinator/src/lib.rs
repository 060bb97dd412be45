//! drop-coordinator: computes desired images and pacing tokens, and writes status.
