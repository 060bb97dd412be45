//! What both daemons share: logging, admin HTTP, signals, task supervision.
