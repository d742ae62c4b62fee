# The program on its own: no shell, no libraries, no root.
#
#   docker build -t eds .
#   docker run -v eds:/var/data -p 8080:8080 eds server --data-dir /var/data --verbose
#
# Health checks ask the port that PORT names: choose another by -e PORT, not by --port.

FROM --platform=$BUILDPLATFORM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY LICENSE main.go ./
COPY internal internal
COPY packaging/rootfs packaging/rootfs
ARG TARGETOS TARGETARCH VERSION=0.0.0-dev
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
    -ldflags "-s -w -X github.com/shopmonkeyus/eds/internal/cli.version=$VERSION" -o /eds . \
 && packaging/rootfs /rootfs /eds

FROM scratch
COPY --from=build /rootfs/etc /etc
COPY --from=build /rootfs/usr /usr
COPY --from=build --chown=65532:65532 /rootfs/tmp /tmp
COPY --from=build --chown=65532:65532 /rootfs/var/data /var/data

LABEL org.opencontainers.image.title="eds" \
      org.opencontainers.image.description="Keeps a database that you own equal to your Shopmonkey data" \
      org.opencontainers.image.source="https://github.com/shopmonkeyus/eds" \
      org.opencontainers.image.licenses="MIT"

# Upgrades come as another image.
ENV container=oci
USER 65532:65532
# So that the data directory is /var/data for every command, named or not.
WORKDIR /var
VOLUME ["/var/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m --retries=3 CMD ["/usr/bin/eds", "health"]
ENTRYPOINT ["/usr/bin/eds"]
CMD ["server"]
