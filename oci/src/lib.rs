//! Image references as registries and runtimes understand them.
