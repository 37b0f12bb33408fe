# A small image of the broker. Build it with `docker build -t leveret .`; contrib/compose.yaml shows how to run it.
#
#   docker run -p 5672:5672 -p 15672:15672 -p 15692:15692 -v leveret:/var/lib/leveret \
#       -e RABBITMQ_DEFAULT_USER=ops -e RABBITMQ_DEFAULT_PASS=secret leveret

FROM rust:1.91-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The cache keeps what was compiled from one build to the next; the binary has to leave it.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/leveret /leveret

FROM debian:bookworm-slim
# Certificates of authorities: for shovels to other brokers over TLS.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 999 --home-dir /var/lib/leveret --create-home --shell /usr/sbin/nologin leveret \
    && mkdir -p /etc/leveret
COPY --from=build /leveret /usr/local/bin/leveret
COPY broker.toml /usr/share/doc/leveret/broker.toml
# What compose files, probes and hands call.
RUN ln -s leveret /usr/local/bin/rabbitmqctl \
    && ln -s leveret /usr/local/bin/rabbitmq-diagnostics \
    && ln -s leveret /usr/local/bin/rabbitmq-plugins \
    && ln -s leveret /usr/local/bin/rabbitmq-server

USER leveret
WORKDIR /etc/leveret
ENV LEVERET_DATA_DIR=/var/lib/leveret
VOLUME /var/lib/leveret
# AMQP, the API with the page, metrics; the same over TLS, which /etc/leveret/broker.toml may switch on.
EXPOSE 5672 15672 15692 5671 15671 15691
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["leveret", "health", "--quiet"]
STOPSIGNAL SIGTERM
CMD ["leveret"]
