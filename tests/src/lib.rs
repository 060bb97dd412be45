//! The testbed: real etcd, API server, containerds and registries on loopback, and the scenarios that run on them.
//!
//! `Cluster` ties the parts together; each part can be used alone. Everything listens on 127.0.0.1 on free ports, lives in a
//! private directory and ends with its owner, even when a test panics or its process is killed. Nothing here is a mock of a
//! part that exists: only what a real runtime or registry cannot be made to do is scripted (`scripted_cri`,
//! `scripted_registry`).

pub mod agent;
pub mod agent_pod;
pub mod audit;
pub mod cached_image;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod containerd;
pub mod control_plane;
pub mod coordinator;
pub mod cri_client;
pub mod demo;
pub mod dirs;
pub mod forward_proxy;
pub mod guarded;
pub mod history;
pub mod http;
pub mod images;
pub mod kubeconfig;
pub mod kubectl;
pub mod node;
pub mod objects;
pub mod parts;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod raw_session;
pub mod registry;
pub mod registry_client;
pub mod scrape;
pub mod scripted_cri;
pub mod scripted_registry;
pub mod skopeo;
pub mod token_server;
pub mod tokens;
pub mod tunnel;
pub mod wait;
