//! Generates the messages and the service from `coordinator.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .skip_debug(["drop.v1.Credential"])
        .compile_protos(&["coordinator.proto"], &["."])?;
    Ok(())
}
