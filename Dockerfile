# All images of Tidemill. One target for each program; all are compiled once, in one stage that they share:
#
#   docker build --target cdc-ingest -t tidemill/cdc-ingest .
#
# Targets: cdc-ingest, dwd-cleaner, dim-joiner, pg-sinker, and tidemill-lab (validation and comparison; not a service).
# It wants BuildKit (Docker 23 or newer has it on), for the caches of cargo.

FROM rust:1.95-slim-bookworm AS build
# librdkafka and jemalloc are C and are compiled along, jemalloc on ARM for the largest pages that a kernel has; OpenSSL is linked in, so that the images need none (docs/adr/0012-tls.md).
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev libssl-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/* && ln -s "/usr/lib/$(gcc -print-multiarch)" /usr/lib/of-this-machine
ENV OPENSSL_STATIC=1 OPENSSL_INCLUDE_DIR=/usr/include OPENSSL_LIB_DIR=/usr/lib/of-this-machine
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi; \
    cargo build --release --locked -p cdc-ingest -p dwd-cleaner -p dim-joiner -p pg-sinker -p lab \
    && mkdir /out && cd target/release && cp cdc-ingest dwd-cleaner dim-joiner pg-sinker tidemill-lab /out/ \
    && strip /out/*

# The root of all images: the libraries that the programs are linked with, the certificates of public authorities, a user. No shell, no
# package manager, nothing else that could be run.
FROM build AS root
RUN mkdir -p /root-of-images/etc/ssl/certs /root-of-images/tmp && cd /root-of-images \
    && ldd /out/* | grep -o '/[^ :]*' | grep -v '^/out/' | sort -u | xargs -I FILE cp --parents --dereference FILE . \
    && cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ \
    && echo 'tidemill:x:10001:10001::/:/none' > etc/passwd && echo 'tidemill:x:10001:' > etc/group \
    && echo 'hosts: files dns' > etc/nsswitch.conf && chmod 1777 tmp

# Nothing is written to disk at run time, so the root may be read-only.
FROM scratch AS runtime
COPY --from=root /root-of-images /
ENV PATH=/usr/local/bin
WORKDIR /etc/tidemill
# A number: Kubernetes cannot see that a name is not root.
USER 10001:10001

FROM runtime AS cdc-ingest
COPY config/cdc-ingest.toml ./
COPY --from=build /out/cdc-ingest /usr/local/bin/
# In a container 127.0.0.1 is the container itself. The file is named by a variable, so that the health check asks by the same one.
ENV CDC_INGEST__HTTP__HOST=0.0.0.0 CDC_INGEST_CONFIG=/etc/tidemill/cdc-ingest.toml
EXPOSE 8081
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["cdc-ingest", "health", "useful"]
ENTRYPOINT ["cdc-ingest"]

FROM runtime AS dwd-cleaner
COPY config/dwd-cleaner.toml config/dwd-cleaner-users.toml ./
COPY --from=build /out/dwd-cleaner /usr/local/bin/
ENV DWD_CLEANER__HTTP__HOST=0.0.0.0 DWD_CLEANER_CONFIG=/etc/tidemill/dwd-cleaner.toml
EXPOSE 8082
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["dwd-cleaner", "health", "ready"]
ENTRYPOINT ["dwd-cleaner"]

FROM runtime AS dim-joiner
COPY config/dim-joiner.toml ./
COPY --from=build /out/dim-joiner /usr/local/bin/
ENV DIM_JOINER__HTTP__HOST=0.0.0.0 DIM_JOINER_CONFIG=/etc/tidemill/dim-joiner.toml
EXPOSE 8083
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["dim-joiner", "health", "ready"]
ENTRYPOINT ["dim-joiner"]

FROM runtime AS pg-sinker
COPY config/pg-sinker.toml ./
COPY --from=build /out/pg-sinker /usr/local/bin/
ENV PG_SINKER__HTTP__HOST=0.0.0.0 PG_SINKER_CONFIG=/etc/tidemill/pg-sinker.toml
EXPOSE 8084
HEALTHCHECK --interval=3s --timeout=6s --start-period=120s CMD ["pg-sinker", "health", "ready"]
ENTRYPOINT ["pg-sinker"]

# For tests and questions by hand: it may stay idle, and has a shell. Compose has it before the pages, too.
FROM debian:bookworm-slim AS tidemill-lab
USER 10001:10001
COPY --from=build /out/tidemill-lab /usr/local/bin/
ENTRYPOINT ["tidemill-lab"]
