# All images of Tidemill. One target for each program; all are compiled once, in one stage that they share:
#
#   docker build --target cdc-ingest -t tidemill/cdc-ingest .
#
# Targets: cdc-ingest, dwd-cleaner, dim-joiner, pg-sinker, and tidemill-lab (validation and comparison; not a service).
# It wants BuildKit (Docker 23 or newer has it on), for the caches of cargo.

FROM rust:1.95-slim-bookworm AS build
# librdkafka is C and is compiled along.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p cdc-ingest -p dwd-cleaner -p dim-joiner -p pg-sinker -p lab \
    && mkdir /out && cd target/release && cp cdc-ingest dwd-cleaner dim-joiner pg-sinker tidemill-lab /out/ \
    && strip /out/*

# The programs need libc and libgcc only. Nothing is written to disk at run time, so the root may be read-only.
FROM debian:bookworm-slim AS runtime
RUN groupadd --gid 10001 tidemill && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin tidemill
COPY scripts/probe.sh /usr/local/bin/probe
WORKDIR /etc/tidemill
# A number: Kubernetes cannot see that a name is not root.
USER 10001:10001

FROM runtime AS cdc-ingest
COPY config/cdc-ingest.toml ./
COPY --from=build /out/cdc-ingest /usr/local/bin/
# In a container 127.0.0.1 is the container itself.
ENV CDC_INGEST__HTTP__HOST=0.0.0.0
EXPOSE 8081
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["probe", "8081", "useful"]
ENTRYPOINT ["cdc-ingest"]
CMD ["--config", "/etc/tidemill/cdc-ingest.toml"]

FROM runtime AS dwd-cleaner
COPY config/dwd-cleaner.toml config/dwd-cleaner-users.toml ./
COPY --from=build /out/dwd-cleaner /usr/local/bin/
ENV DWD_CLEANER__HTTP__HOST=0.0.0.0
EXPOSE 8082
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["probe", "8082", "ready"]
ENTRYPOINT ["dwd-cleaner"]
CMD ["--config", "/etc/tidemill/dwd-cleaner.toml"]

FROM runtime AS dim-joiner
COPY config/dim-joiner.toml ./
COPY --from=build /out/dim-joiner /usr/local/bin/
ENV DIM_JOINER__HTTP__HOST=0.0.0.0
EXPOSE 8083
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["probe", "8083", "ready"]
ENTRYPOINT ["dim-joiner"]
CMD ["--config", "/etc/tidemill/dim-joiner.toml"]

FROM runtime AS pg-sinker
COPY config/pg-sinker.toml ./
COPY --from=build /out/pg-sinker /usr/local/bin/
ENV PG_SINKER__HTTP__HOST=0.0.0.0
EXPOSE 8084
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["probe", "8084", "ready"]
ENTRYPOINT ["pg-sinker"]
CMD ["--config", "/etc/tidemill/pg-sinker.toml"]

FROM runtime AS tidemill-lab
COPY --from=build /out/tidemill-lab /usr/local/bin/
ENTRYPOINT ["tidemill-lab"]
