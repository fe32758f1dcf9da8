# Stand-ins for the images that deploy/compose.yaml takes from a registry, made of Debian's packages
# under the same names: only for machines that reach no registry (tests/stack/images.sh).
FROM debian:bookworm-20260824-slim AS rust
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /usr/local/cargo /var/cache/kubeedge-rs /var/cache/kubeedge-target
ENV CARGO_HOME=/usr/local/cargo

FROM debian:bookworm-20260824-slim AS mosquitto
RUN apt-get update \
 && apt-get install -y --no-install-recommends mosquitto mosquitto-clients \
 && rm -rf /var/lib/apt/lists/* \
 && groupmod -g 1883 mosquitto && usermod -u 1883 -g 1883 mosquitto \
 && install -d -o mosquitto -g mosquitto /mosquitto /mosquitto/config /mosquitto/data /mosquitto/log
CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]

FROM debian:bookworm-20260824-slim AS prometheus
RUN apt-get update \
 && apt-get install -y --no-install-recommends prometheus wget \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o nobody -g nogroup /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]

# No Grafana can be had: our own page, which reads the same boards and asks the same Prometheus.
FROM debian:bookworm-20260824-slim AS grafana
RUN apt-get update \
 && apt-get install -y --no-install-recommends nodejs wget \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 472 -g 0 /var/lib/grafana
COPY tests/boards /usr/share/boards
USER 472:0
CMD ["node", "/usr/share/boards/serve.mjs", "--prometheus", "http://prometheus:9090", "--dashboards", "/etc/grafana/dashboards", "--host", "0.0.0.0", "--scrape", "5"]
