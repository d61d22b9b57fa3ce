# One image with every program of Tiebar, from scratch: one file, and a link for each (local/src/bin/tiebar.rs).
#
#   docker build -t localhost/tiebar:dev .
#   docker build --build-arg COMMIT=$(git rev-parse --short HEAD) …     the commit, for --version and the labels
#
# `make image` does it without a container engine: it compiles on the machine itself and takes the stage `prebuilt`,
# so that no image has to be pulled.

ARG BINARIES=build

FROM docker.io/library/rust:1.95-alpine AS build
RUN apk add --no-cache gcc musl-dev
# The dependencies are written into the file, for syft, trivy, grype and cargo-audit: the software bill of materials travels
# with the program instead of beside it.
RUN cargo install --locked --version 0.7.7 cargo-auditable
WORKDIR /src
COPY . .
ARG COMMIT=""
ENV TIEBAR_COMMIT=$COMMIT
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo auditable build --release --locked -p local --features image --bin tiebar \
    && mkdir -p /binaries/bin && mkdir -m 1777 /binaries/tmp && cp target/release/tiebar /binaries/bin/ \
    && for program in instance loadgen local operator ui upstream; do ln -s tiebar /binaries/bin/tiebar-$program; done

FROM scratch AS prebuilt
COPY target/image /binaries/

FROM ${BINARIES} AS binaries

FROM scratch
ARG VERSION=0.1.0
ARG COMMIT=""
LABEL org.opencontainers.image.title="Tiebar" \
      org.opencontainers.image.description="One circuit breaker shared by every replica of every caller" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$COMMIT
COPY --from=binaries /binaries/ /
# What a pod needs to be reached: probes and scrapes come from outside. A sidecar's traffic stays on loopback.
ENV PATH=/bin \
    TIEBAR_INSTANCE_ADMIN_LISTEN=0.0.0.0:8101 \
    TIEBAR_OPERATOR_LISTEN=0.0.0.0:8081 \
    TIEBAR_UI_LISTEN=0.0.0.0:8080 \
    TIEBAR_UPSTREAM_LISTEN=0.0.0.0:9000
USER 65532:65532
CMD ["tiebar-local"]
