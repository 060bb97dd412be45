//! The program `drop-coordinator`.

fn main() {}
