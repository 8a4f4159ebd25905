# docker build -t posterior-bench .
# docker build -t posterior-bench:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .
# docker run --rm -v "$PWD/runs:/data/runs" posterior-bench solver=dps
#
# BASE is any Debian or Ubuntu with Python 3.11 to 3.13. The wheels of torch hold the CUDA libraries;
# a CUDA base adds what the container runtime needs to hand in a GPU (docker run --gpus all).
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes wheels of torch without CUDA, 4 GB smaller
ARG TORCH_INDEX=""
ARG EXTRAS="ray,slurm,metrics,tune"
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# git: the package records the commit that it was built from
RUN apt-get update \
    && apt-get install -y --no-install-recommends git \
        $(python3 -c 'import ensurepip' 2> /dev/null || echo python3 python3-venv) \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/bench
ENV PATH=/opt/bench/bin:$PATH

COPY . /src
# exact versions first, then the package with its extras at those versions
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --index-url "$TORCH_INDEX" \
            $(grep -E '^(torch|torchvision)==' /src/requirements.lock); \
    fi \
    && pip install --constraint /src/requirements.lock "/src[$EXTRAS]" \
    && rm -rf /src

# results and caches lie in a folder that any user of the host may own
WORKDIR /data
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["bench"]
CMD ["--help"]
