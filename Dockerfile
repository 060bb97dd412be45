# One build, one image with both programs; the manifest chooses which one runs.
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends protobuf-compiler && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p drop-agent -p drop-coordinator

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/drop-agent /src/target/release/drop-coordinator /
USER 65532:65532
