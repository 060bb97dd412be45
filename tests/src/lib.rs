//! The testbed: real etcd, API server, containerds and registries on loopback, and the scenarios that run on them.
