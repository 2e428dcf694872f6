//! Compiles the discovery protocol with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "proto/linnet/discovery/v1/discovery.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // The controller frames the one stream there is by itself.
        .build_server(false)
        // Shared between messages instead of copied into each.
        .bytes(".linnet.discovery.v1.ControllerMessage.updates")
        .compile_fds(descriptors)?;
    Ok(())
}
