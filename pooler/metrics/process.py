"""What a process uses, as the kernel and Python tell it through prometheus-client.

The names are the standard ones, so that every dashboard knows them. Of several processes they are
added up; beside that, the most important ones are given for each of them.
"""

from typing import Any, Final

from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.registry import CollectorRegistry

from pooler.metrics.families import PROCESS

Values = dict[str, Any]

_REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=_REGISTRY)
GCCollector(registry=_REGISTRY)

SUPERVISOR: Final = "supervisor"

EACH: Final = {
    "process_cpu_seconds_total": "cpu_by_process",
    "process_resident_memory_bytes": "memory_by_process",
    "process_open_fds": "files_by_process",
}
"""What is given for each process, and its key."""


def usage(process: str) -> Values:
    """Return what this process uses; `process` is its name among several, "" if it is alone."""
    keys = {family.key: family for family in PROCESS}
    values: Values = {}
    for metric in _REGISTRY.collect():
        for sample in metric.samples:
            family = keys.get(sample.name)
            if family is None:
                continue
            if family.labels:
                generation = sample.labels[family.labels[0]]
                values.setdefault(sample.name, {})[generation] = sample.value
            else:
                values[sample.name] = sample.value
    for name, key in EACH.items():
        if process and name in values:
            values[key] = {process: values[name]}
    return values
