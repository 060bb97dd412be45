//! Generates the messages and the service from `coordinator.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallCodec")
        .skip_debug(["drop.v1.Credential"])
        .compile_protos(&["coordinator.proto"], &["."])?;
    Ok(())
}
