"""Django in one file, with its own settings as they are for PostgreSQL itself.

    DATABASE_URL=postgresql://app:secret@127.0.0.1:6432/app python django_app.py

Persistent connections (CONN_MAX_AGE), server-side cursors (`iterator()`) and advisory locks work in
transaction mode: no DISABLE_SERVER_SIDE_CURSORS.
"""

import os
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings
from django.db import connection, models, transaction

url = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": url.hostname,
            "PORT": url.port,
            "USER": url.username,
            "PASSWORD": unquote(url.password or ""),
            "NAME": url.path[1:],
            "CONN_MAX_AGE": None,
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()


class City(models.Model):
    """A city and how many live there."""

    name = models.CharField(max_length=100, unique=True)
    people = models.IntegerField()

    class Meta:
        """There is no package that this file is an application of."""

        app_label = "example"


def main() -> None:
    """Make the table, fill it, count, and read it through a cursor of the server's."""
    with connection.schema_editor() as editor:
        editor.create_model(City)
    with transaction.atomic():
        City.objects.bulk_create(City(name=f"city {n}", people=n) for n in range(5000))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(42)")
        total = sum(city.people for city in City.objects.iterator(chunk_size=500))
        cursor.execute("SELECT pg_advisory_unlock(42)")
    print(f"{City.objects.count()} cities, {total} people")
    with connection.schema_editor() as editor:
        editor.delete_model(City)


if __name__ == "__main__":
    main()
