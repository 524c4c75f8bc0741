# mathsft for a CPU, or with --build-arg HARDWARE=cuda for CUDA devices. Studies, models and caches lie in the volume /work.
#   docker build -t mathsft .
#   docker run --rm --init -v mathsft:/work mathsft study --trials 20
#   docker run --rm --init -v mathsft:/work mathsft final --from-best
# With CUDA devices add --gpus all; to work in a folder of your own: --user "$(id -u)" -v "$PWD:/work".
FROM python:3.11-slim-bookworm

ARG HARDWARE=cpu
# vLLM's CPU build needs libnuma. Triton compiles when the CUDA build runs; this image's Python has the headers for that.
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
RUN make install HARDWARE="$HARDWARE" MANAGED= && rm -rf .uv /root/.cache

RUN useradd --create-home --home-dir /work --skel /dev/null mathsft
USER mathsft
WORKDIR /work
VOLUME /work
# Named, so that any user id will do: torch asks for a name and a home.
ENV HOME=/work USER=mathsft PATH=/opt/mathsft/.venv/bin:$PATH
ENTRYPOINT ["mathsft"]
CMD ["--help"]
