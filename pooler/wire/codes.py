"""Names of the protocol's numbers: message kinds, request codes, limits, SQLSTATEs.

Source: PostgreSQL documentation, "Frontend/Backend Protocol" and "PostgreSQL Error Codes";
`src/include/libpq/protocol.h`, `pqcomm.h` and `src/backend/tcop/postgres.c` for the limits.
"""

from typing import Final

# From the client.
QUERY: Final = 0x51  # Q
PARSE: Final = 0x50  # P
BIND: Final = 0x42  # B
DESCRIBE: Final = 0x44  # D
EXECUTE: Final = 0x45  # E
CLOSE: Final = 0x43  # C
SYNC: Final = 0x53  # S
FLUSH: Final = 0x48  # H
FUNCTION_CALL: Final = 0x46  # F
PASSWORD: Final = 0x70  # p
TERMINATE: Final = 0x58  # X

# From either side.
COPY_DATA: Final = 0x64  # d
COPY_DONE: Final = 0x63  # c
COPY_FAIL: Final = 0x66  # f

# From the server.
AUTHENTICATION: Final = 0x52  # R
PARAMETER_STATUS: Final = 0x53  # S
BACKEND_KEY_DATA: Final = 0x4B  # K
NEGOTIATE_PROTOCOL_VERSION: Final = 0x76  # v
READY_FOR_QUERY: Final = 0x5A  # Z
ERROR_RESPONSE: Final = 0x45  # E
NOTICE_RESPONSE: Final = 0x4E  # N
NOTIFICATION_RESPONSE: Final = 0x41  # A
PARSE_COMPLETE: Final = 0x31  # 1
BIND_COMPLETE: Final = 0x32  # 2
CLOSE_COMPLETE: Final = 0x33  # 3
COMMAND_COMPLETE: Final = 0x43  # C
EMPTY_QUERY_RESPONSE: Final = 0x49  # I
PORTAL_SUSPENDED: Final = 0x73  # s
ROW_DESCRIPTION: Final = 0x54  # T
NO_DATA: Final = 0x6E  # n
PARAMETER_DESCRIPTION: Final = 0x74  # t
DATA_ROW: Final = 0x44  # D
FUNCTION_CALL_RESPONSE: Final = 0x56  # V
COPY_IN_RESPONSE: Final = 0x47  # G
COPY_OUT_RESPONSE: Final = 0x48  # H
COPY_BOTH_RESPONSE: Final = 0x57  # W

# Transaction status, the one byte of a ReadyForQuery's body.
IDLE: Final = 0x49  # I
IN_TRANSACTION: Final = 0x54  # T
FAILED_TRANSACTION: Final = 0x45  # E

# The first packet has no kind, but a number where its body starts.
PROTOCOL_3_0: Final = 3 << 16
PROTOCOL_3_2: Final = 3 << 16 | 2
NEWEST_MINOR: Final = 2
RESERVED_MINOR: Final = 1  # never released: PgBouncer answered it with 3.0 for years
CANCEL_REQUEST: Final = 1234 << 16 | 5678
SSL_REQUEST: Final = 1234 << 16 | 5679
GSSENC_REQUEST: Final = 1234 << 16 | 5680

HEADER: Final = 5  # bytes: the kind, and a length that counts itself but not the kind
STARTUP_LIMIT: Final = 10_000  # MAX_STARTUP_PACKET_LENGTH
AUTH_LIMIT: Final = 65_535  # PG_MAX_AUTH_TOKEN_LENGTH
SMALL_LIMIT: Final = 10_000  # PQ_SMALL_MESSAGE_LIMIT
LARGE_LIMIT: Final = 0x3FFFFFFE  # PQ_LARGE_MESSAGE_LIMIT, MaxAllocSize - 1

# Authentication requests, the first four bytes of an Authentication's body.
AUTH_OK: Final = 0
AUTH_CLEARTEXT: Final = 3
AUTH_MD5: Final = 5
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12

# SQLSTATEs that we give ourselves.
SUCCESSFUL_COMPLETION: Final = "00000"  # as PostgreSQL's NOTICEs
CONNECTION_FAILURE: Final = "08006"
UNABLE_TO_CONNECT: Final = "08001"
PROTOCOL_VIOLATION: Final = "08P01"
FEATURE_NOT_SUPPORTED: Final = "0A000"
INVALID_AUTHORIZATION: Final = "28000"
INVALID_PASSWORD: Final = "28P01"
IDLE_IN_TRANSACTION_TIMEOUT: Final = "25P03"
TRANSACTION_TIMEOUT: Final = "25P04"
INVALID_DATABASE: Final = "3D000"
DATATYPE_MISMATCH: Final = "42804"
TOO_MANY_CONNECTIONS: Final = "53300"
PROGRAM_LIMIT_EXCEEDED: Final = "54000"
QUERY_CANCELED: Final = "57014"
ADMIN_SHUTDOWN: Final = "57P01"
CANNOT_CONNECT_NOW: Final = "57P03"
OBJECT_NOT_IN_PREREQUISITE_STATE: Final = "55000"
IDLE_SESSION_TIMEOUT: Final = "57P05"
UNDEFINED_STATEMENT: Final = "26000"
INVALID_CURSOR_NAME: Final = "34000"
INSUFFICIENT_PRIVILEGE: Final = "42501"
SYNTAX_ERROR: Final = "42601"
NAME_TOO_LONG: Final = "42622"
UNDEFINED_OBJECT: Final = "42704"
INVALID_PARAMETER: Final = "22023"
NOT_IN_STATE: Final = "55000"
CONFIG_FILE_ERROR: Final = "F0000"
INTERNAL_ERROR: Final = "XX000"
