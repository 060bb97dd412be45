//! The custom resources of drop as Rust types, and `crdgen`, which prints their YAML.
