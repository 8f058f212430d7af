"""The classic: psycopg2's own pool in front of the pooler, with nothing changed but the address.

    DATABASE_URL=postgresql://app:secret@127.0.0.1:6432/app python simple_pool.py

`minconn` and `maxconn` bound this process's connections to the pooler, `min_pool_size` and
`pool_size` the pooler's to PostgreSQL: a hundred such processes need no more than `pool_size`.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from psycopg2.pool import ThreadedConnectionPool

PEOPLE = ["Ada", "Grace", "Edsger", "Barbara", "Donald"]


def main() -> None:
    """Write from several threads, and read what they wrote."""
    pool = ThreadedConnectionPool(minconn=1, maxconn=5, dsn=os.environ["DATABASE_URL"])
    connection = pool.getconn()
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS people (name text PRIMARY KEY, visits int)")
    pool.putconn(connection)

    def visit(name: str) -> None:
        connection = pool.getconn()
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO people VALUES (%s, 1)"
                    " ON CONFLICT (name) DO UPDATE SET visits = people.visits + 1",
                    (name,),
                )
        finally:
            pool.putconn(connection)

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(visit, PEOPLE * 10))

    connection = pool.getconn()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, visits FROM people ORDER BY name")
        for name, visits in cursor:
            print(f"{name}: {visits}")
    pool.putconn(connection)
    pool.closeall()


if __name__ == "__main__":
    main()
