# Two stages: the first has pip, the second has what pip installed and nothing else of ours.
FROM python:3.14-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv --without-pip /opt/sse-broadcast
RUN pip --python /opt/sse-broadcast/bin/python install --no-cache-dir '.[fast,jwt]'

FROM python:3.14-slim
COPY --from=build /opt/sse-broadcast /opt/sse-broadcast
# An empty folder, which is its user's: what a volume needs that keeps the history.
COPY --from=build --chown=10001:10001 /srv /var/lib/sse-broadcast
# A container is reached from outside it; what may reach the container is its network's to say.
ENV PATH=/opt/sse-broadcast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SSE_BROADCAST_HOST=0.0.0.0
# A number, so that Kubernetes can see that it is not root's. Nothing is written to a disk but the file of a backend.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["sse-broadcast", "health"]
ENTRYPOINT ["sse-broadcast", "serve"]
