"""What Prometheus scrapes at /metrics.

In several processes each holds its own numbers; `fclip serve --workers` sets PROMETHEUS_MULTIPROC_DIR, and any of them
then answers for all.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SHARED = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        at = self._registry
        self.requests = Counter("fclip_requests", "Answered.", ["route", "method", "status"], registry=at)
        self.in_flight = Gauge("fclip_requests_in_flight", "Under way.", registry=at, multiprocess_mode="livesum")
        self.index_switches = Counter("fclip_index_switches", "New indexes that took over.", registry=at)
        self.index_refused = Gauge(
            "fclip_index_refused", "1: the index that lies there is not used.", registry=at, multiprocess_mode="livemax"
        )
        self.batch_items = Histogram(
            "fclip_batch_items", "Texts or pictures encoded together.", ["kind"], registry=at, buckets=BATCHES
        )

        def seconds(name: str, what: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"fclip_{name}_seconds", what, labels, registry=at, buckets=SECONDS)

        self.request_seconds = seconds("request", "From the first byte to the last.", ("route",))
        self.encode_seconds = seconds("encode", "Encoding of a batch.", ("kind",))
        self.search_seconds = seconds("search", "Search without encoding.")

    def observe_batch(self, kind: str, items: int, seconds: float) -> None:
        self.batch_items.labels(kind).observe(items)
        self.encode_seconds.labels(kind).observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)
        return generate_latest(everybody)
