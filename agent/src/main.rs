//! The program `drop-agent`.

fn main() {}
