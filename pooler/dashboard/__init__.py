"""The dashboard: a page that shows what the pooler does, live, and the JSON API it is made of."""

from pooler.dashboard.site import Dashboard

__all__ = ["Dashboard"]
