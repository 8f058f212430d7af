"""What is exported to Prometheus, in four steps that know only the one before.

`snapshot` reads the router's counters into plain data, `merge` makes one of several processes',
`families` says what there is and what it means, `text` writes it down. A tally counts what belongs
to no pool.
"""

from pooler.metrics.snapshot import Snapshot, merge, snapshot
from pooler.metrics.tally import Tally
from pooler.metrics.text import CONTENT_TYPE, exposition

__all__ = ["CONTENT_TYPE", "Snapshot", "Tally", "exposition", "merge", "snapshot"]
