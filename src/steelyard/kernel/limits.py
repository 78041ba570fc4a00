"""Every bound of the program by name, units last. A queue, retry, body or loop without a line here is a defect."""

# HTTP
BODY_BYTES_MAX = 10 * 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024
MESSAGES_MAX = 10_000
JSON_DEPTH_MAX = 64
JSON_BRACKETS_MAX = 250_000  # lists and objects of one body; 10,000 messages of many parts have fewer
SEQUENCES_MAX = 16  # `n` of one request
STOP_SEQUENCES_MAX = 16
EMBEDDING_INPUTS_MAX = 2048  # of one request, as OpenAI bounds them
RERANK_DOCUMENTS_MAX = 2048
MODERATION_INPUTS_MAX = 256
DIMENSIONS_MAX = 65_536
PROMPTS_TIMES_N_MAX = 64  # sequences of one completion request: each is called and metered by itself
TOOLS_MAX = 1024  # OpenAI takes 128, Anthropic names no bound; agents with some MCP servers send more than 128
TOOL_CALLS_MAX = 8  # of one answer, where we bound them ourselves
PART_TOKENS_MAX = 16_384  # an image, a recording or a file in a prompt counts as this much in the worst case
CALL_MARK_BYTES = 128  # what is written around a tool call or its result in a prompt
PIPELINED_MAX = 64  # requests of one connection that wait for their turn
HEADS_LEARNT_MAX = 4  # of one connection: a client whose heads always differ is not learnt from for ever
CHATS_KNOWN_MAX = 1024  # of one worker: chats that differ from an earlier one in their messages only
BODY_COPIED_BYTES = 16_384  # a longer body is looked at where it was read, and not written anew where that is the same
CHAT_KNOWN_BYTES_MAX = 2048  # beside the messages; what has more is read whole each time
KEEP_ALIVE_S = 75
CLIENT_HEAD_S = 60  # a connection is hung up on whose head of a request takes longer, however it drips
CLIENT_SWEEP_S = 5  # how often connections are looked at for that
CLIENT_SILENCE_S = 120  # one who sends no more of a request, or takes no more of an answer, is hung up on after this
DRAIN_S = 20  # running streams get this long after SIGTERM

# the worker
WORKERS_MAX = 64
COUNTS_AT_ONCE_MAX = 16  # prompts being counted for nothing in one worker; more answer 429
COUNT_BYTES_PER_TOKEN_MAX = 64  # a prompt with more bytes for each token of the context is not counted at all
SLOTS_PER_WORKER = 4096  # requests in flight in one worker; more answer 429
BODIES_BYTES_MAX = 256 * 1024 * 1024  # of the prompts in flight in one worker; more answer 429
LOOP_LATE_MS_MAX = 1000  # a worker that is later than this, twice in a row, answers 503 to new requests
OVERLOADED_RETRY_AFTER_S_MAX = 10
CONNECTIONS_PER_UPSTREAM_MAX = 4096  # of one worker: a held stream has one of its own
CONNECTIONS_PER_ENGINE_MAX = 256  # of one worker to an engine, which has a thread for each; see ENGINE_HTTP_THREADS
CONNECTIONS_OPENING_MAX = 64  # of one worker to one upstream at the same time: handshakes of a burst follow each other
FILES_MAX = 65_536  # open files of a worker, if the system lets it have as many
MARKUP_PERCENT_MAX = 10_000
TURN_DAYS_MAX = 15  # how far the next change of a price by the clock is looked for
VENDOR_KEY_CHARACTERS_MAX = 4096
VENDOR_TOKEN_CHARACTERS_MAX = 8192  # the same key, sealed
SHOWN_CHARACTERS_MAX = 8  # of a key of a vendor, with its ellipsis
MASTER_CHARACTERS_MIN = 32
TOKENS_TOLD_MAX = 2**26 - 1  # of one kind and answer (67 million); an upstream that tells of more has lost count
UPSTREAM_CONNECT_S = 5
UPSTREAM_FIRST_BYTE_S = 600
UPSTREAM_READ_BYTES = 256 * 1024  # unread answer bytes of one connection before its upstream has to wait
UPSTREAM_WAITERS_MAX = 1024  # requests waiting for a free connection to one upstream
UPSTREAM_STALE_S = 10  # a kept connection that is lost later than this behind a request has carried it there
UPSTREAM_SILENCE_S = 120  # between two reads of an answer; engines send signs of life: ENGINE_ALIVE_S, llama.cpp 30 s
UPSTREAM_INTERIMS_MAX = 8192  # before an answer: one every 15 s for as long as a batch may take, and some
UPSTREAM_IDLE_S = 4  # an idle connection is closed before the engine (5 s) does it
UPSTREAM_END_S = 1  # a connection whose answer is over has this long to say so, or is not used again
UPSTREAM_TLS_IDLE_S = 30  # a handshake costs more, and vendors keep connections for minutes
UPSTREAM_SWEEP_S = 1  # how often each connection is looked at
UPSTREAM_DNS_S = 30  # addresses older than this are asked for anew, in the background
UPSTREAM_PLACES_MAX = 8  # addresses of one host that are tried in turn
UPSTREAM_NEXT_PLACE_S = 1  # an address has this long to accept a connection while there is another one to try
UPSTREAM_STREAMS_MAX = 256  # of one HTTP/2 connection, if its upstream allows as many
UPSTREAM_LOOKS_LEARNT_MAX = 8  # times a connection learns what heads of its answers look like
UPSTREAM_HEADS_KNOWN_MAX = 1024  # request heads that are kept, one for each model API in use
ADDRESSES_KNOWN_MAX = 1024  # read once and kept
ADDRESS_CHARACTERS_MAX = 256
UPSTREAM_RETRY_AFTER_S_MAX = 60  # how long a customer is told to wait, however long the upstream wants to be left alone
UPSTREAM_ERROR_BYTES_MAX = 64 * 1024
WHOLE_ANSWER_BYTES_MAX = 16 * 1024 * 1024  # of an answer that came in one piece
READING_ANSWER_BYTES_MAX = 96 * 1024 * 1024  # 2048 vectors of 3072 numbers as text
UPSTREAM_PROPS_BYTES_MAX = 4 * 1024 * 1024  # what an engine says about its model, the chat template included
TOKEN_BYTES_MAX = 128  # of text in one token, on average over a prompt; the longest in any known vocabulary
ENGINE_SEQUENCES_MAX = 512  # connections that wait to be accepted by an engine with our own listener
ENGINE_BODY_BYTES_MAX = 16 * 1024 * 1024
ENGINE_FORM_BYTES_MAX = 32 * 1024  # of a JSON schema; compiling one holds up every answer
ENGINE_FORM_REPEATS_MAX = 4096  # of a bound in a schema: a million took 7 s to compile
ENGINE_FORMS_KEPT = 256
ENGINE_REASON_CHARACTERS_MAX = 300
ENGINE_LISTENS = 4  # turns of the loop between two steps: to accept, to read, to answer, and one more
ENGINE_ALIVE_S = 15  # between signs of life, in answers and to those who wait for their turn
ENGINE_HTTP_THREADS = 520  # more than two workers can keep busy: a health check never queues behind answers
SSE_EVENT_BYTES_MAX = 1024 * 1024
WEIGHTS_FETCH_S = 3600
GGUF_TEXT_BYTES_MAX = 1024 * 1024  # one text in a model file's metadata; chat templates are the longest
TELLER_REPLY_S = 5
KEY_TABLE_SLOTS_MIN = 1024  # room for keys, beside twice as many as there are
FREED_KEPT_BYTES = 16 * 1024 * 1024  # of a worker's memory that nobody uses stay its own
MAPPED_BYTES_MIN = 4 * 1024 * 1024  # what is at least so large is given back at once, whatever else is free
CALLERS_SEEN_MAX = 8192  # of one worker: keys that were just used are looked up in half the time
SNAPSHOT_PART_ENTRIES = 50  # models or tariffs that travel together; a worker reads as many at once (0.5 ms)
SNAPSHOT_KNOWN_S = 1  # a command waits this long for every worker to know what it changed
UNTOLD_S = 24 * 3600  # keys that ended within so long are told again after a commit whose answer was lost
ERRAND_S = 5  # a worker answers a command that was passed on to it within this
RETRY_AFTER_S = 1

# routing
ATTEMPTS_MAX = 4  # offers that one request is tried at
WHOLE_TOKENS_MAX = 8192  # of an answer that may be asked for in one piece: longer ones are heard as they are made
WHOLE_TOKEN_MS = 50  # ... which has so much longer to begin, for each token that it may have
FIRST_TOKEN_S = 30  # an offer that has said nothing by then is left for another, where there is one
RETRY_PERCENT = 20  # of the requests may be tried again where others have failed
RETRIES_BURST = 10
RETRY_PARTS = 100  # in which the budget is counted
RETRY_PAUSE_MS = 50  # before the third offer is called, at most; twice as long before each one after it
BREAKER_FAILURES = 5  # in a row open it
FAILED_BEHIND_S = 10  # an offer that failed stands behind those that work for so long, then its score counts again
ERRORS_HALVE_S = 30  # so long without another one, and errors count half in an offer's score
BREAKER_OPEN_S_MAX = 60  # 1 s at first, twice as long each time the probe fails
COOL_DOWN_S_MAX = 3600  # however long an offer that is busy wants to be left alone
DISABLED_S = 600  # an upstream whose account is empty or whose key is wrong is left alone, unless it is all there is
SPEED_TOKENS_MIN = 8  # a shorter answer says little about the time per token
OFFERS_WATCHED_MAX = 4096
OFFER_WEIGHT_MAX = 10_000  # 100 is nothing special
TARIFFS_READY_MAX = 4096  # kept by the estimator of one worker, and by rating
PACE_PARTS = 6  # of a minute: how much of its calls or tokens an offer may be asked for at once
CHOICES_KEPT = 256  # of one worker, so that people can ask why
OUTPUT_EXPECTED = 256  # tokens of an answer of an offer that has not served yet
LATENCY_KEPT_S = 600  # what was measured longer ago is not known any more
FALLBACKS_MAX = 4  # models that may answer in the place of the one asked for
PINNED_MAX = 16

# prefix affinity, in each worker
PREFIX_BYTES_MAX = 128 * 1024  # of a prompt that are hashed; what is beyond counts as new
PREFIX_BLOCKS_PER_OFFER_MAX = 10_000
PREFIX_BLOCKS_MAX = 160_000  # of all offers
PREFIX_OFFERS_MAX = 1024
PREFIX_SESSIONS_MAX = 16_384
SESSION_BYTES_MAX = 1024  # of a session's name that tell it from others
PREFIX_EXCESS_REQUESTS = 16  # an offer that has done so much more than its share has to be asked no more
PREFIX_HALF_LIFE_S = 1800  # what was done so long ago counts half
WEIGHED_KEPT_MAX = 8  # offers of one choice that the journal keeps
PREFIX_HOME_SHARE = 0.5  # of a prompt no offer is known for, that another worker may have sent to its home

# the line in front of an engine
WISHES_WAITING_MAX = 1024  # of each lane; more answer 429
WISHES_PER_TENANT_MAX = 512  # of each lane
WISH_WAIT_S_MAX = 60  # one who would wait longer, by the pace of late, is told so at once
PACE_KEPT_S = 30  # what ended longer ago than twice that says nothing of the pace
LEADER_AWAITED_MS = 10_000  # for the first token of another one that begins alike
LEADER_GAIN_BLOCKS_MIN = 2  # of 256 bytes, that are saved by waiting for a leader; less is computed sooner
BATCH_URGENT_S = 600  # before its deadline a line of a batch is no batch any more
BATCH_BESIDE_PARTS = 8  # of the places: one in so many is left to a batch beside answers that are waited for
BATCH_RETURNS_MS = 1000  # after nobody was waited for any more, the others come back
SLOT_LIKENESS_PARTS = 4  # a slot is taken for a prompt that it holds a quarter of, or else the one unused for longest
TENANTS_SERVED_KEPT_MAX = 4096

# the journal
SEGMENT_BYTES = 64 * 1024 * 1024
FRAME_BYTES_MAX = 64 * 1024
SYNC_INTERVAL_MS = 5
SLOTS_SYNC_INTERVAL_MS = 100  # how old the counts of requests in flight may be after a power loss
CLOSED_FRAME_BYTES_MAX = 256  # room kept in a segment for the close of each open request
JOURNAL_READ_BYTES = 1024 * 1024
JOURNAL_LOCK_TRIES = 20  # 5 ms apart: a reader's probe may hold the lock for a moment

# the books
POST_BATCH_MAX = 1000
POST_INTERVAL_MS = 100  # between passes while somebody is away: a worker that may be dead, the database
POST_REST_MS = 500  # ... while nobody is: closes are announced, so only grants that expire wait for a pass
POST_PAUSE_MS = 80  # between passes that nobody waits for: a batch costs 2 ms of CPU however small it is
SOCKET_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
SOCKET_HEARD_AT_ONCE_BYTES = 64 * 1024  # of messages in one turn of the loop: two or three parts of a snapshot
ACCOUNT_NAME_CHARACTERS_MAX = 200
TELLER_CONNECT_S = 30  # a worker that has not met the books by then does not start
COMMAND_REPLY_S = 120  # `verify` reads every row
COMMANDS_PENDING_MAX = 256  # per connection; more answer 429
RECONNECT_DELAYS_MS = (10, 20, 50, 100, 200)  # the last one repeats
CLOSED_AWAITED_MS = 250  # a short wallet waits this long for closes announced but not yet synced
HELD_AWAITED_MS = 2000  # before a wallet is refused whose money other requests hold at the moment
WORKERS_AWAITED_MS = 5000  # after a restart, no hold is given before the living workers have told theirs
BOOKS_RETRY_MS = (50, 200, 1000, 5000)  # database locked or disk full; the last one repeats
DATABASE_CONNECT_S = 5
WRITER_AWAITED_MS = 5000  # PostgreSQL: how long the session of a writer before may take to be over
DATABASE_LOOK_S = 1  # how often books that have nothing to post see whether their database is there
READERS_MAX = 30  # PostgreSQL: connections of one process's pages beyond the two that stay open
BOOKS_SEGMENT_BYTES = 1024 * 1024  # the books' own journal holds closes of recovered requests only


# leases
LEASE_WALLET_WORST_CASES_MIN = 100  # a wallet worth less is held request by request
LEASE_WALLET_PARTS = 16  # a lease is at most such a part of what is available
LEASE_WORST_CASES_MAX = 64  # ... and no more than so many worst cases
LEASE_ROUND_TRIPS_MIN = 32  # holds of a tenant in one worker and second before it asks for a lease
LEASE_QUIET_S = 1  # a worker whose lease was refused or called back asks again after this
LEASE_IDLE_S = 2  # what a worker has free goes back when a tenant has not asked for so long
CLOSED_TOLD_MS = 5  # a worker tells of the requests it has closed together, or with its next question
LEASE_RECALLED_MS = 250  # a short hold waits this long for leases to come back

# sub-limits
RATE_WINDOW_S = 60  # of requests and tokens per minute
BUDGET_WINDOWS_KEPT = 16  # of one budget, in memory
RATE_MAX = 10**12  # of requests, tokens or requests at a time that a sub-limit may allow
REASON_CHARACTERS_MAX = 500

# idempotency
IDEMPOTENCY_KEY_CHARACTERS_MAX = 255
IDEMPOTENT_WAIT_S = 30  # a repeat waits this long for the first request to end
IDEMPOTENT_WAITERS_MAX = 128  # repeats waiting in all; one more is told to come back
IDEMPOTENT_RETRY_AFTER_S = 5
ANSWER_KEPT_S = 24 * 3600
ANSWER_BYTES_MAX = 1024 * 1024  # a longer answer is not kept, only that it was given
ANSWERS_BYTES_PER_TENANT_MAX = 64 * 1024 * 1024  # the oldest bodies give way
ANSWERS_PER_TENANT_MAX = 100_000  # keys remembered; more answer 429
ANSWER_SWEEP_S = 60
ANSWERS_SWEPT_MAX = 1000  # in one transaction
ANSWER_REPORTS_MAX = 256  # answers of one worker that the books have not taken yet; further ones are told without body
ANSWER_REPORT_WAIT_S = 1  # the end of an answer waits this long for the books to keep it
ANSWER_PIECE_BYTES = 64 * 1024  # of a replayed answer

# the answer cache, in each worker
ANSWER_CACHED_S = 3600  # how old an answer may be where nobody says otherwise
ANSWER_CACHED_S_MAX = 24 * 3600
ANSWER_CACHED_BYTES_MAX = 1024 * 1024  # of one answer
ANSWER_CACHE_BYTES_MAX = 64 * 1024 * 1024
ANSWER_CACHE_BYTES_PER_TENANT_MAX = 16 * 1024 * 1024
ANSWER_CACHE_ENTRIES_MAX = 50_000

# files
FILE_BYTES_MAX = 200 * 1024 * 1024
FILE_BLOCK_BYTES = 1024 * 1024  # of an upload, written at once
FILE_NAME_CHARACTERS_MAX = 255
FILE_KEPT_S = 30 * 24 * 3600  # what a batch reads and writes, unless its owner says otherwise; and the most he can say
FILE_KEPT_S_MIN = 3600
FILES_PER_TENANT_MAX = 10_000
FILES_BYTES_PER_TENANT_MAX = 10 * 1024 * 1024 * 1024
FILES_PAGE_MAX = 10_000
FILES_FREE_BYTES_MIN = 256 * 1024 * 1024  # an upload or an answer of a batch leaves the journals this much of the disk
FILES_SWEEP_S = 60
FILES_SWEPT_MAX = 1000  # in one transaction
FILE_UNKNOWN_S = 24 * 3600  # content that no row names is deleted when it has not changed for so long
UPLOADS_AT_ONCE_MAX = 16  # in one worker; more answer 429
UPLOAD_FIELDS_MAX = 16  # parts of one form
UPLOAD_FIELD_BYTES_MAX = 4096
UPLOAD_PART_HEADER_BYTES_MAX = 8192

# batches
BATCH_LINES_MAX = 50_000
BATCH_WINDOW_S = 24 * 3600
BATCH_PROBLEMS_MAX = 100  # that are told of a file that is no batch
BATCH_METADATA_MAX = 16
BATCH_METADATA_KEY_CHARACTERS_MAX = 64
BATCH_METADATA_VALUE_CHARACTERS_MAX = 512
BATCH_CUSTOM_ID_CHARACTERS_MAX = 512
BATCHES_OPEN_PER_TENANT_MAX = 100  # not ended yet; more answer 429
BATCHES_PAGE = 20
BATCHES_PAGE_MAX = 100
JOB_LOOK_S = 1  # how often a worker asks for work, and says how far it is
JOBS_PER_WORKER_MAX = 4
MODEL_LOOKS_MAX = 10  # JOB_LOOK_S apart: an engine that is just starting has not offered its model yet
JOB_RETRY_S = 5  # before a worker asks again for a job that it could not go on with
LINES_IN_DOUBT_MAX = 1024  # the last answers that a dead worker kept, looked up in the books; it ran fewer at once
LINES_LEFT_OUT_AT_ONCE = 256  # that share one sync
LINE_TRIES_MAX = 3  # of a line whose upstream failed; one that may wait is tried until the deadline
LINE_WAIT_S = (1, 2, 5, 10, 30)  # between two tries; the last one repeats

# stored responses
STORE_DAYS = 30  # where no setting says otherwise
RESPONSE_BYTES_MAX = 16 * 1024 * 1024  # one with its input; more than a body and the longest answer
RESPONSES_BYTES_PER_TENANT_MAX = 256 * 1024 * 1024  # the oldest give way
RESPONSES_PENDING_BYTES_MAX = 64 * 1024 * 1024  # taken by the books and not yet written; more answer 429
RESPONSES_UNKEPT_BYTES_MAX = 64 * 1024 * 1024  # of one worker that the books have not written; further ones are lost
RESPONSES_BROUGHT_AT_ONCE_MAX = 64  # by one worker; the books' line has room for other commands beside
RESPONSES_GATHERED_MS = 5  # before a group is written
RESPONSES_WRITTEN_MAX = 256  # in one transaction
RESPONSES_SWEPT_MAX = 1000  # in one transaction
RESPONSES_SWEEP_S = 60
RESPONSES_DROPPED_MAX = 1000  # deleted ones remembered, so that a late write does not bring them back
RESPONSE_TAKEN_WAIT_S = 1  # the end of an answer waits this long for the books to have it
RESPONSE_CHAIN_MAX = 1000  # responses one can go on from, the earlier ones of its conversation included
RESPONSE_CHAIN_BYTES_MAX = 16 * 1024 * 1024
RESPONSE_REFERENCES_MAX = 1000  # different stored responses whose items a request refers to
INPUT_ITEMS_PAGE_MAX = 100

# re-rating
RERATED_AFTER_S = 60  # a period must have ended this long ago, so that all of it is posted
CORRECTIONS_MAX = 100_000  # tenants × models of one correction

# money operations
GRANTS_PER_BATCH_MAX = 500
OPERATION_KEY_CHARACTERS_MAX = 128
RATE_CHARACTERS_MAX = 40

# exported receipts
EXPORT_LINKS_MAX = 1000  # batches behind the receipt's own that a customer is shown
EXPORT_LINE_BYTES_MAX = 4 * 1024 * 1024

# pages and tables
PAGE_ROWS = 50
PAGE_ROWS_MAX = 1000
NAME_CHARACTERS_MAX = 64

# the price book
PRICE_FILE_BYTES_MAX = 4 * 1024 * 1024
PRICE_FILE_COMPLAINTS_MAX = 20
VARIANTS_MAX = 32  # of one entry: a bit each of an int64
HOURS_MAX = 16  # windows a day of one variant
PRICE_PER_CALL_MAX = 10_000  # currency units
PRICE_PER_TOKEN_MAX = 100  # currency units; a mistaken `per` shows, and a worst case fits int64
WATTS_PER_CORE_MAX = 1000
WATTS_PER_GPU_MAX = 5000
FX_RATE_MAX = 1_000_000  # units of a currency for one of another
BILL_BYTES_MAX = 256 * 1024 * 1024  # a vendor's bill
BILL_LINES_MAX = 1_000_000
SUBJECT_CHARACTERS_MAX = 128  # names of models and upstreams

# bringing over what others have
IMPORT_FILE_BYTES_MAX = 64 * 1024 * 1024
IMPORT_STEPS_MAX = 20_000  # of one transaction
IMPORT_STEPS_AT_ONCE = 200  # the command line sends as many, and never parts what belongs together
IMPORT_ROWS_MAX = 1_000_000  # of one table of another's database

# the console
FORM_BYTES_MAX = 256 * 1024
SESSION_S = 12 * 3600  # a console session ends after this, used or not
WRONG_KEYS_MAX = 10  # per address within WRONG_KEYS_WINDOW_S; more answer 429
WRONG_KEYS_WINDOW_S = 60
WRONG_KEYS_ADDRESSES_MAX = 1024
PLAYGROUND_TURNS_MAX = 40  # messages of one playground conversation
PLAYGROUND_ANSWER_TOKENS_MAX = 32_768
PLAYGROUND_PAYERS_MAX = 500  # projects to choose from
OVERVIEW_ROWS = 5

# supervision
START_S = 60  # a child that has not said `ready` by then is given up
RECOVERY_START_S = 600  # the books may replay journals first
STOP_MARGIN_S = 5  # beyond the drain time, before SIGKILL
FORCED_STOP_S = 2  # what the books get when a second Ctrl-C forces the rest
HEALTH_INTERVAL_S = 3
HEALTH_REPLY_S = 5
ENGINE_HEALTH_REPLY_S = 20  # it listens between two steps, and a step takes a second where others want the cores too
HEALTH_FAILURES_MAX = 3  # failed checks in a row; then the child is killed and restarted
RESTART_DELAYS_MS = (100, 300, 1000, 3000, 10_000, 30_000)  # the last one repeats
RESTART_FORGIVEN_S = 60  # a child that lived this long starts again with the first delay
LOG_BYTES_MAX = 16 * 1024 * 1024  # of a child's log; a larger one is set aside
LOG_LOOK_S = 30  # how often the log of a running child is looked at
LOG_LINE_BYTES_MAX = 64 * 1024
OLD_LOCK_S = 10  # how long a dead supervisor's books may take to let go of the data directory
FREE_BYTES_MIN = 64 * 1024 * 1024  # beside the pre-allocated journal segments

# GPU engines
ENGINE_START_S = 1800  # large weights are read from a network for minutes, and compiled for more
ENGINE_TICK_MS = 250  # between two looks at an engine's metrics: busy time is counted in such steps
ENGINE_REPLY_S = 5  # an engine that does not tell its metrics within this has failed a look
ENGINE_FAILURES_MAX = 12  # looks in vain, one after the other; then it is started anew
ENGINE_METRICS_BYTES_MAX = 8 * 1024 * 1024
ENGINE_LOOK_S = 1  # how often the platform sees whether something else is wanted of an engine
ENGINE_SEEN_MS = 500  # how often a keeper writes down what it saw
ENGINE_SEEN_REST_S = 1  # ... and an engine of ours, while nothing runs in it
ENGINE_SILENT_S = 10  # one that has not written down anything for so long is called silent where people look
ENGINE_STOP_S = 20  # from SIGTERM to SIGKILL; its answers have ended by then
ENGINE_DRAIN_S = 600  # running answers of an engine that is drained get this long
ENGINES_MAX = 64

# the proof
PROVE_KILLS_MAX = 100_000
PROVE_RESTART_DELAYS_MS = (10,)  # no back-off: that a child dies again and again is the point
PROVE_KILL_PAUSE_MS = (40, 400)  # between two kills, drawn evenly
PROVE_SERVED_PER_KILL = 2  # on average, before the next one: a busy machine is waited for
PROVE_KILL_S_MAX = 5  # per kill: a campaign that takes longer on average has stopped moving
PROVE_SETTLE_S = 60  # after the last request everything must be in the books
PROVE_ANSWER_S = 60  # a customer gives one answer up after this
PROVE_RETRY_MS = 100

# vendor emulators
EMULATOR_HEARD_MAX = 256  # requests that one remembers
EMULATOR_OUTPUT_TOKENS_MAX = 4096  # of one answer, whatever is asked
