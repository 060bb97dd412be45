# One build, one image with all programs; the manifest chooses which one runs.
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends protobuf-compiler && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p drop-agent -p drop-coordinator -p drop-factory

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/drop-agent /src/target/release/drop-coordinator /src/target/release/image-factory /
USER 65532:65532
