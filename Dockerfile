# syntax=docker/dockerfile:1
# The web page and the HTTP API at port 8000; any other command of linearsr runs as well:
#   docker compose up            (see compose.yaml; or as the next lines)
#   docker build -t linearsr .
#   docker run --rm -p 8000:8000 -v linearsr:/data linearsr
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -w /work linearsr upscale photo.jpg
# For NVIDIA GPUs: docker build --target cuda, docker run --gpus all.
# For another base: --build-arg BASE=python:3.13-slim
ARG BASE=python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${BASE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE} AS base
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --create-home linearsr && install -d -o 1000 /data
COPY --from=wheel /wheels /wheels
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:8000/healthz')"]
ENTRYPOINT ["linearsr"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data"]

FROM base AS cuda
RUN pip install "$(echo /wheels/*.whl)[serve,batch,large,full]"
USER 1000

FROM base AS cpu
# first, so that the next line does not fetch the one for CUDA
RUN pip install --index-url https://download.pytorch.org/whl/cpu "torch>=2.6,<2.14"
RUN pip install "$(echo /wheels/*.whl)[serve,batch,large,full]"
USER 1000
