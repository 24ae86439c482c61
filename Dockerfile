# docker build --tag afina .                            the server; mount a folder with a model.onnx at /models
# docker build --tag afina-model --target with-model .  the same with the model inside
# Where the package index is not the public one: --secret id=pip,src=$HOME/.config/pip/pip.conf
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip wheel --quiet --no-deps --wheel-dir dist .
# Without pip in it: the server installs nothing.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --quiet --constraint constraints.txt "$(echo dist/*.whl)[serve]"

FROM ${PYTHON_IMAGE} AS server
LABEL org.opencontainers.image.title="afina" \
      org.opencontainers.image.description="Text classification from one model.onnx over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 afina \
    && useradd --system --uid 10001 --gid afina --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin afina
COPY --from=build /opt/venv /opt/venv
# onnxruntime's packages send data about their use to Microsoft unless told not to.
ENV ORT_DISABLE_TELEMETRY=1 \
    PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /models
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client asks no proxy, whatever the environment says.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["afina"]
CMD ["serve", "/models/model.onnx", "--host", "0.0.0.0", "--port", "8000"]

FROM server AS with-model
ARG MODEL=models/onnx/model.onnx
ARG MODEL_CARD=models/onnx/README.md
COPY --chmod=0444 ${MODEL} /models/model.onnx
COPY --chmod=0444 ${MODEL_CARD} /models/README.md

# The last stage is what a build without --target makes.
FROM server
