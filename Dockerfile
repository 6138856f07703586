# fclip serve, on a CPU. Not built where this was written: there was no Docker there.
#   docker build -t fclip .
#   docker run -p 8000:8000 -v ./garments-index:/data/index:ro -v ./runs/mine/best:/data/model:ro -e FCLIP_API_KEY=… fclip
FROM python:3.11-slim AS build
RUN python -m venv /opt/fclip
ENV PATH=/opt/fclip/bin:$PATH
# PyTorch for CPUs alone: a tenth of the usual size. Both from one place: a torch of another build breaks torchvision.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision
COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY fclip /src/fclip
COPY stn /src/stn
RUN pip install --no-cache-dir "/src[serve,onnx,heic]"

FROM python:3.11-slim
RUN useradd --create-home --home-dir /var/lib/fclip --uid 10001 fclip && mkdir -p /data /var/lib/fclip/.cache && chown fclip /var/lib/fclip/.cache
COPY --from=build /opt/fclip /opt/fclip
ENV PATH=/opt/fclip/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER fclip
# The graphs of ONNX Runtime are kept here between starts.
VOLUME /var/lib/fclip/.cache
EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=15s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fclip", "serve"]
CMD ["/data/index", "--checkpoint", "/data/model", "--host", "0.0.0.0"]
