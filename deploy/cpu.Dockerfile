# A laptop's image: the default study without a GPU.   docker build -f deploy/cpu.Dockerfile -t grit-cpu .
#   docker run --rm --shm-size 2g -v "$PWD/results:/results" grit-cpu --preset embedded --output /results/study
# The index's own torch brings CUDA, some gigabytes that a CPU does not need: name an index of CPU builds with
#   --build-arg TORCH_INDEX=...    (Not built here: no registry was at hand.)
FROM python:3.11-slim
ARG TORCH_INDEX=
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 grit && mkdir /results && chown grit /results
WORKDIR /opt/grit
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY grit grit
COPY ray_jobs ray_jobs
COPY sweeps sweeps
COPY analysis analysis
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--index-url $TORCH_INDEX} "torch==2.13.0" \
    && python -m pip install --no-cache-dir --constraint constraints.txt . \
    && rm -rf /opt/grit
USER grit
WORKDIR /home/grit
ENV HF_HUB_OFFLINE=1
ENTRYPOINT ["grit-sweep"]
CMD ["--help"]
