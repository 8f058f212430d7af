"""What a pool counts: plain integers and sums of seconds, only ever added to."""

from pooler.core.pins import REASONS


class Counters:
    """Totals of one pool since it was made; times are in seconds."""

    def __init__(self) -> None:
        self.assignments = 0  # times a client was given a server
        self.queries = 0  # ReadyForQuery passed on: simple queries, Syncs, function calls
        self.transactions = 0  # of these, those that ended outside a transaction block
        self.received = 0  # bytes from clients
        self.sent = 0  # bytes to clients
        self.errors = 0  # ErrorResponses of servers passed on
        self.wait_time = 0.0  # clients waiting for a server
        self.query_time = 0.0  # servers at work on a query
        self.transaction_time = 0.0  # servers linked to a client
        self.connects = 0  # servers logged in to
        self.connect_failures = 0
        self.cancels = 0  # cancels sent to servers
        self.timeouts = 0  # query, transaction and waiting times exceeded
        self.pins = dict.fromkeys(REASONS, 0)  # servers that came to be kept, by reason
        self.questions = 0  # about what a session holds
        self.scans = 0  # of the catalog, for functions that hide session state
        self.changes = 0  # servers set as their next client wants
        self.refusals = 0  # statements refused by policy
        self.logins = 0  # clients that logged in
        self.parses = 0  # Parse messages of clients
        self.server_parses = 0  # of these, those that a server was sent
        self.binds = 0  # Bind messages of clients
        self.leaks = 0  # names of what a session held and should not have
