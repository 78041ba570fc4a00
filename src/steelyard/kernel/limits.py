"""Every bound of the program by name, units last. A queue, retry, body or loop without a line here is a defect."""

# HTTP
BODY_BYTES_MAX = 10 * 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024
MESSAGES_MAX = 10_000
JSON_DEPTH_MAX = 64
SEQUENCES_MAX = 16  # `n` of one request
STOP_SEQUENCES_MAX = 16
KEEP_ALIVE_S = 75
DRAIN_S = 20  # running streams get this long after SIGTERM

# the worker
SLOTS_PER_WORKER = 1024  # requests in flight in one worker; more answer 429
CONNECTIONS_PER_UPSTREAM_MAX = 256
UPSTREAM_CONNECT_S = 5
UPSTREAM_FIRST_BYTE_S = 600
UPSTREAM_READ_BYTES = 256 * 1024
TELLER_REPLY_S = 5
RETRY_AFTER_S = 1

# the journal
SEGMENT_BYTES = 64 * 1024 * 1024
FRAME_BYTES_MAX = 64 * 1024
SYNC_INTERVAL_MS = 5
CLOSED_FRAME_BYTES_MAX = 256  # room kept in a segment for the close of each open request
JOURNAL_READ_BYTES = 1024 * 1024
JOURNAL_LOCK_TRIES = 20  # 5 ms apart: a reader's probe may hold the lock for a moment

# the books
POST_BATCH_MAX = 1000
POST_INTERVAL_MS = 50
SOCKET_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
ACCOUNT_NAME_CHARACTERS_MAX = 200

# pages and tables
PAGE_ROWS = 50
PAGE_ROWS_MAX = 1000
NAME_CHARACTERS_MAX = 64

# the console
FORM_BYTES_MAX = 256 * 1024
SESSION_S = 12 * 3600  # a console session ends after this, used or not
WRONG_KEYS_MAX = 10  # per address within WRONG_KEYS_WINDOW_S; more answer 429
WRONG_KEYS_WINDOW_S = 60
WRONG_KEYS_ADDRESSES_MAX = 1024
PLAYGROUND_TURNS_MAX = 40  # messages of one playground conversation
PLAYGROUND_ANSWER_TOKENS_MAX = 32_768
OVERVIEW_ROWS = 5

# supervision
START_S = 60  # a child that has not said `ready` by then is given up
RECOVERY_START_S = 600  # the books may replay journals first
STOP_MARGIN_S = 5  # beyond the drain time, before SIGKILL
FORCED_STOP_S = 2  # what the books get when a second Ctrl-C forces the rest
HEALTH_INTERVAL_S = 3
HEALTH_REPLY_S = 5
HEALTH_FAILURES_MAX = 3  # failed checks in a row; then the child is killed and restarted
RESTART_DELAYS_MS = (100, 300, 1000, 3000, 10_000, 30_000)  # the last one repeats
RESTART_FORGIVEN_S = 60  # a child that lived this long starts again with the first delay
LOG_BYTES_MAX = 16 * 1024 * 1024  # of a child's log; a larger one is set aside at the next start
LOG_LINE_BYTES_MAX = 64 * 1024
OLD_LOCK_S = 10  # how long a dead supervisor's books may take to let go of the data directory
FREE_BYTES_MIN = 64 * 1024 * 1024  # beside the pre-allocated journal segments
