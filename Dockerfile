# mathsft for a CPU, or with --build-arg HARDWARE=cuda for CUDA devices. Studies, models and caches lie in the volume /work.
#   docker build -t mathsft .
#   docker run --rm --init -v mathsft:/work mathsft study --trials 20
#   docker run --rm --init -v mathsft:/work mathsft final --from-best
# With CUDA devices add --gpus all --ipc host, and --user, -v "$PWD:/work" where files of your own are used.
FROM python:3.11-slim-bookworm

ARG HARDWARE=cpu
# vLLM's CPU build needs libnuma. Triton compiles when the CUDA build runs, with an interpreter of uv's that has headers.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make $(if [ "$HARDWARE" = cuda ]; then echo gcc libc6-dev; else echo libnuma1; fi) \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mathsft
COPY LICENSE Makefile README.md pyproject.toml ./
COPY tools/preflight.sh tools/
COPY experiments experiments
COPY studies studies
COPY mathsft mathsft
# Find-links: a folder or page of wheels that has the CPU build of torch; without it, it comes from PyTorch's own index.
ARG PIP_FIND_LINKS=
RUN UV_PYTHON_INSTALL_DIR=/opt/python UV_CACHE_DIR=/opt/cache make install HARDWARE="$HARDWARE" \
    && rm -rf .uv /opt/cache /root/.cache

RUN useradd --create-home mathsft && install --directory --owner=mathsft /work
USER mathsft
WORKDIR /work
VOLUME /work
ENV PATH=/opt/mathsft/.venv/bin:$PATH XDG_CACHE_HOME=/work/.cache
ENTRYPOINT ["mathsft"]
CMD ["--help"]
