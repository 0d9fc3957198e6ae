"""Every bound on what crosses a wire, in one place: what it limits, its unit, and the formulas that tie bounds to
each other.

Names end in their unit: ``_BYTES_MAX`` and ``_COUNT_MAX`` are inclusive limits, ``_S`` are seconds. What is over a
bound is refused before memory is set aside for it. The assertions at the end of each section hold the formulas at
import.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- links: the handshake
# -------------------------------------------------------------------------------------------------------------

LINK_VERSIONS: Final = (1, 1)
"""Oldest and newest version of the link protocol that is spoken here: this one and the one before, once there is
one."""
HELLO_BYTES_MAX: Final = 16 * KIB
"""The one frame that somebody unverified may send: a hello with its certificate."""
JOIN_BYTES_MAX: Final = 8 * KIB
"""A request to join."""
INFO_DEPTH_MAX: Final = 6
"""Nesting of what a peer says about itself in its hello."""
INFO_COUNT_MAX: Final = 256
"""Entries of any one list or map in a hello."""
REFUSAL_BYTES_MAX: Final = 512
"""Text of a refusal or goodbye."""
HANDSHAKE_TIMEOUT_S: Final = 5.0
"""From the connection to the verified hello; after it the connection is cut."""
UNVERIFIED_COUNT_MAX: Final = 256
"""Connections at a listener that have not shown a good certificate yet."""
CONNECTIONS_PER_S_MAX: Final = 200.0
"""New connections that one address may open, on average; bursts of `CONNECTIONS_BURST_MAX`."""
CONNECTIONS_BURST_MAX: Final = 400
REFUSALS_REPORTED_PER_S_MAX: Final = 50.0
"""Refusals handed to the handler one by one; those above it are summed up in the next one's facts."""

# -- links: messages and frames
# -------------------------------------------------------------------------------------------------------

MESSAGE_BYTES_MAX: Final = 32 * MIB
"""One message; what is larger travels as a blob."""
SMALL_BYTES_MAX: Final = 32 * KIB
"""Messages up to this size are copied together into one frame; larger ones go by themselves, uncopied."""
BATCH_BYTES_MAX: Final = 256 * KIB
"""A frame of several messages is closed when it holds this much."""
BATCH_COUNT_MAX: Final = 4096
"""Messages in one frame."""
FRAME_HEAD_BYTES_MAX: Final = 32 + 4 * BATCH_COUNT_MAX
"""Header and column of lengths of a frame."""
FRAME_BYTES_MAX: Final = FRAME_HEAD_BYTES_MAX + max(MESSAGE_BYTES_MAX, BATCH_BYTES_MAX + SMALL_BYTES_MAX)
"""A whole frame on the wire."""
PART_BYTES_MAX: Final = MIB
"""Large messages cross ZeroMQ in parts of this size, so that no part is set aside for that is larger than this."""
COPIED_BYTES_MAX: Final = 64 * KIB
"""Buffers up to this size are joined with their neighbours on the way to ZeroMQ; larger ones are handed over
uncopied."""
PARTS_COUNT_MAX: Final = 2 * (MESSAGE_BYTES_MAX // COPIED_BYTES_MAX) + MESSAGE_BYTES_MAX // PART_BYTES_MAX + 2
"""Parts of one message on ZeroMQ: at worst, large and small buffers take turns."""
TURN_COUNT_MAX: Final = 32
"""Messages that are handed at once to a user of links who sorts them. After each so many it is looked whether the turn is over."""
TURN_S: Final = 0.002
"""For so long messages of one link are handed over to it before the loop, and with it all other links, has its turn."""
DRAIN_COUNT_MAX: Final = 256
"""Frames read from one socket before the loop gets another turn."""

# -- links: credit and liveness
# -------------------------------------------------------------------------------------------------------

WINDOW_BYTES: Final = 8 * MIB
"""What may be sent and not yet consumed by the peer, before a link is congested; a single larger message may exceed
it."""
WINDOW_COUNT: Final = 16384
OUTSTANDING_BYTES_MAX: Final = 128 * MIB
"""The hard bound on what waits here and what the peer has not consumed, together; beyond it `send` raises
LinkOverflow."""
OUTSTANDING_COUNT_MAX: Final = 1 << 18
SOCKET_FRAMES_MAX: Final = 2 * WINDOW_COUNT
"""ZeroMQ's own queue for sending (frames). Never reached, since the window stops a sender before."""
SOCKET_FRAMES_IN_MAX: Final = 512
"""ZeroMQ's own queue for receiving (messages); beyond it TCP slows the sender down."""
KEEPALIVE_IDLE_S: Final = 1.0
"""A link that heard nothing for so long asks."""
KEEPALIVE_SILENCE_S: Final = 4.0
"""A link that heard nothing for so long is down."""
KEEPALIVE_TICK_S: Final = 0.25
HEARTBEAT_INTERVAL_S: Final = 0.5
"""ZeroMQ's own heartbeats, which its I/O thread answers even while the loop is busy."""
HEARTBEAT_TIMEOUT_S: Final = 2.0
LINGER_S: Final = 0.5
"""How long what was sent may take to leave after a link or a node closed."""
RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MAX_S: Final = 5.0

assert LINK_VERSIONS[0] <= LINK_VERSIONS[1] <= LINK_VERSIONS[0] + 1, "this version and the one before"
assert SMALL_BYTES_MAX <= BATCH_BYTES_MAX <= PART_BYTES_MAX
assert MESSAGE_BYTES_MAX < OUTSTANDING_BYTES_MAX
assert WINDOW_BYTES + MESSAGE_BYTES_MAX <= OUTSTANDING_BYTES_MAX, "an uncongested link takes any message"
assert WINDOW_COUNT + 1024 < SOCKET_FRAMES_MAX, (
    "the window stops a sender before ZeroMQ does; 1024 frames of control are spare"
)
assert KEEPALIVE_TICK_S <= KEEPALIVE_IDLE_S / 4, "a revoked peer is cut within the second"
assert KEEPALIVE_IDLE_S + KEEPALIVE_TICK_S < KEEPALIVE_SILENCE_S
assert HEARTBEAT_INTERVAL_S < HEARTBEAT_TIMEOUT_S <= KEEPALIVE_SILENCE_S

# -- identity: what admins sign, and the files of a home ---------------------------------------------------------------

CERTIFICATE_BYTES_MAX: Final = 1024
NAME_BYTES_MAX: Final = 63
"""Name of a node, client, fleet or admin: what a DNS label may have."""
GRANTS_COUNT_MAX: Final = 16
GRANT_BYTES_MAX: Final = 16
REVOCATION_BYTES_MAX: Final = 512
REVOCATION_REASON_BYTES_MAX: Final = 120
REVOCATIONS_COUNT_MAX: Final = 16_384
"""In the life of a fleet: they are kept for ever, 250 bytes each as a rule."""
ADMINS_COUNT_MAX: Final = 8
"""Admin keys of a fleet at one time, retired ones included."""
ADMINS_BYTES_MAX: Final = 1280
"""One signed set of admins."""
ADMIN_CHANGES_COUNT_MAX: Final = 32
"""Changes of the set of admins in the life of a fleet: a joiner is shown them all."""
SIGNED_ITEMS_COUNT_MAX: Final = 32
"""Members of any one list or map in a signed document."""
CERTIFICATES_CACHED_COUNT_MAX: Final = 4096
CLOCK_LEEWAY_S: Final = 300.0
"""How far a clock may be behind that of the admin who issued a certificate just now."""
WALL_SECONDS_END: Final = 253_402_300_800
"""No instant in a certificate reaches the year 10000."""
CERTIFICATE_LIFE_S: Final = 365 * 86400.0
CERTIFICATE_RENEW_PART: Final = 0.25
"""A certificate is renewed when less than this part of its life is left."""
PRIVATE_FILE_BYTES_MAX: Final = 16 * MIB
FILE_LOCK_TIMEOUT_S: Final = 10.0
JOIN_APPLICANTS_COUNT_MAX: Final = 4
"""Certificates that one use of a token brings (a node and the clients beside it)."""
JOIN_REPLY_BYTES_MAX: Final = 64 * KIB
TOKENS_COUNT_MAX: Final = 256
"""Join tokens that one issuer keeps, the expired ones of the last day included."""
TOKEN_USES_COUNT_MAX: Final = 1024
TOKEN_ENDPOINTS_COUNT_MAX: Final = 8
TOKEN_CHARACTERS_MAX: Final = 1024
TOKEN_KEPT_S: Final = 86400.0
"""How long after its end a token is still known, so that "expired" can be told from "unknown"."""

assert 480 + NAME_BYTES_MAX + GRANTS_COUNT_MAX * (GRANT_BYTES_MAX + 1) <= CERTIFICATE_BYTES_MAX
assert 300 + ADMINS_COUNT_MAX * (34 + NAME_BYTES_MAX + 2 + 10) <= ADMINS_BYTES_MAX
assert 300 + REVOCATION_REASON_BYTES_MAX <= REVOCATION_BYTES_MAX
assert max(GRANTS_COUNT_MAX, ADMINS_COUNT_MAX) <= SIGNED_ITEMS_COUNT_MAX
ADMIN_CHAIN_BYTES_MAX: Final = ADMIN_CHANGES_COUNT_MAX * (ADMINS_BYTES_MAX + 3)
assert REVOCATIONS_COUNT_MAX * (REVOCATION_BYTES_MAX + 3) + ADMIN_CHAIN_BYTES_MAX < PRIVATE_FILE_BYTES_MAX
assert ADMIN_CHAIN_BYTES_MAX + JOIN_APPLICANTS_COUNT_MAX * CERTIFICATE_BYTES_MAX + 16 * REVOCATION_BYTES_MAX + KIB <= (
    JOIN_REPLY_BYTES_MAX
)
assert JOIN_APPLICANTS_COUNT_MAX * (400 + NAME_BYTES_MAX) + 512 <= JOIN_BYTES_MAX

# -- the bulk lane
# -------------------------------------------------------------------------------------------------------

TLS_CERTIFICATE_BYTES_MAX: Final = KIB
"""The short-lived X.509 certificate of a process; ours take about 300 bytes."""
TLS_ANNOUNCEMENT_BYTES_MAX: Final = TLS_CERTIFICATE_BYTES_MAX + 64 + 16
"""It, with the identity's signature over it."""
TLS_CERTIFICATE_LIFE_S: Final = 2 * 86400.0
TLS_CERTIFICATE_RENEW_S: Final = 86400.0
"""A process makes itself another key and certificate when less than this is left of the old one's life."""
BULK_INLINE_BYTES_MAX: Final = 256 * KIB
"""A blob up to this size comes with the answer on the control link: shorter than another connection would take."""
BULK_PORTION_BYTES: Final = 256 * KIB
"""What is read, hashed and sent, or received, hashed and kept, at a time: what the processor's cache holds. After each
portion a transfer looks whether it is still wanted."""
BULK_PIECE_BYTES_MAX: Final = 16 * MIB
"""What one request asks for. After each piece the connection goes to the next transfer that waits for that peer."""
BULK_CONNECTIONS_PER_PEER_MAX: Final = 2
"""Connections that one process opens to one peer."""
BULK_SERVED_PER_PEER_MAX: Final = 8
"""Connections that a listener serves of one peer: that many pieces at a time, and as many threads."""
BULK_SERVED_COUNT_MAX: Final = 256
"""Connections that a listener serves, of all peers."""
BULK_UNPROVEN_COUNT_MAX: Final = 64
"""Connections at a listener that have not shown a ticket and proven their key yet."""
BULK_TICKETS_PER_PEER_MAX: Final = 256
"""Transfers that one peer may have open at a listener."""
BULK_WAITING_PER_PEER_MAX: Final = 1024
"""Transfers that wait for the connections to one peer."""
BULK_TICKET_LIFE_S: Final = 60.0
"""A transfer that nobody asked for in so long is given up by the side that listens."""
BULK_DOOR_LIFE_S: Final = 30.0
"""How long a connection may be opened after it was announced on the control link."""
BULK_HANDSHAKE_TIMEOUT_S: Final = 5.0
BULK_DIAL_TIMEOUT_S: Final = 2.0
"""For one address; the peer may be reached by another one, or by the control link."""
BULK_SHUT_S: Final = 30.0
"""For how long no other connection is tried to a peer that was not reached: a firewall lets only the control port in."""
BULK_STALL_TIMEOUT_S: Final = 15.0
"""A transfer in which not a byte moves for so long is cut."""
BULK_IDLE_S: Final = 20.0
"""The side that dialled closes a connection that nothing was asked on for so long."""
BULK_IDLE_SERVED_S: Final = 60.0
"""The side that listened does, should the other one not."""

assert 300 + 64 < TLS_ANNOUNCEMENT_BYTES_MAX < HELLO_BYTES_MAX
assert TLS_CERTIFICATE_RENEW_S < TLS_CERTIFICATE_LIFE_S
assert BULK_PORTION_BYTES <= BULK_PIECE_BYTES_MAX
assert BULK_INLINE_BYTES_MAX < MESSAGE_BYTES_MAX
assert BULK_CONNECTIONS_PER_PEER_MAX < BULK_SERVED_PER_PEER_MAX <= BULK_SERVED_COUNT_MAX
assert BULK_IDLE_S < BULK_IDLE_SERVED_S, "who dialled closes first, so that no request meets a closing door"
assert BULK_STALL_TIMEOUT_S < BULK_TICKET_LIFE_S, "a transfer that was cut finds its ticket when it comes back"

# -- payloads and workers
# -------------------------------------------------------------------------------------------------------------

OUT_OF_BAND_BYTES: Final = 64 * KIB
"""Buffers, pickles and plain values larger than this leave the payload and travel as blobs."""
INLINE_BYTES_MAX: Final = MIB
"""One payload, blobs not counted."""
PAYLOAD_BUFFERS_MAX: Final = 65_536
"""Out-of-band buffers of one payload."""
CHUNK_BYTES_MAX: Final = 512 * KIB
"""Arguments of one chunk of `map`, packed together; one item may pass it by OUT_OF_BAND_BYTES."""
CODE_BYTES_MAX: Final = 16 * MIB
"""A callable by value."""
WORKER_FRAME_BYTES_MAX: Final = 256 * MIB
"""One frame between a node and its worker."""
WORKER_CODE_COUNT_MAX: Final = 256
"""Callables by value that a worker keeps."""
WORKER_SPECS_COUNT_MAX: Final = 1024
"""Specs that a worker keeps; the node sends a spec again when it has sent so many others since."""
WORKER_STREAM_WINDOW_COUNT: Final = 16
"""Items of one stream that were sent and are not yet acknowledged."""
WORKER_COROUTINES_COUNT_MAX: Final = 64
"""Coroutines that run in one worker at once."""
WORKER_OUTCOMES_COUNT_MAX: Final = 512
"""Outcomes that a worker collects before it reports them."""
WORKER_OUTCOMES_AGE_S: Final = 0.001
"""How old an outcome may get before it is reported, when another task is about to start."""
INPUT_WINDOW_BYTES: Final = 4 * MIB
"""Input of one command that is on its way and not taken by it."""
INPUT_CHUNK_BYTES: Final = 64 * KIB
"""Input in one message."""
INPUT_REPORT_BYTES: Final = INPUT_WINDOW_BYTES // 4
"""Input that a command takes before the client is told, so that it need not wait."""
INPUT_WAITING_BYTES_MAX: Final = 8 * MIB
"""Input that waits in a worker, whoever sent it; beyond this the worker reads nothing from its node until the command
takes some."""
OUTPUT_WINDOW_BYTES: Final = 4 * MIB
"""Output of one command that its client has not consumed; beyond this nothing more is read from the command. The worker
keeps it, to send it again."""
OUTPUT_REPORT_BYTES: Final = OUTPUT_WINDOW_BYTES // 4
"""Output that a client consumes before it says so."""
INPUT_KEPT_BYTES: Final = 16 * MIB
"""Input of one command that a client keeps, to be given to another attempt."""
FAILURE_TEXT_CHARACTERS_MAX: Final = 16 * KIB
"""The message, and the traceback, of a failure."""

assert OUT_OF_BAND_BYTES < INLINE_BYTES_MAX <= MESSAGE_BYTES_MAX
assert INPUT_REPORT_BYTES + INPUT_CHUNK_BYTES < INPUT_WINDOW_BYTES, "credit comes before it is used up"
assert INPUT_WINDOW_BYTES + INPUT_CHUNK_BYTES < INPUT_WAITING_BYTES_MAX, (
    "a client with manners never stops a worker's ear"
)
assert INPUT_WINDOW_BYTES <= INPUT_KEPT_BYTES
assert OUTPUT_REPORT_BYTES + 2 * INPUT_CHUNK_BYTES < OUTPUT_WINDOW_BYTES
assert CHUNK_BYTES_MAX + OUT_OF_BAND_BYTES + KIB <= INLINE_BYTES_MAX, "a chunk is one payload"
assert CODE_BYTES_MAX <= MESSAGE_BYTES_MAX < WORKER_FRAME_BYTES_MAX

# -- datagrams and discovery ---------------------------------------------------------------

DATAGRAM_BYTES_MAX: Final = 1200
"""On the wire, so that none is ever fragmented: IPv6 guarantees 1280 with its headers, and QUIC's choice is the same
(RFC 9000, 14)."""
DATAGRAM_OUTER_BYTES: Final = 24 + 16
"""Nonce and authenticator of the fleet's layer."""
DATAGRAM_HEAD_BYTES: Final = 16 + 1 + 8 + 8
"""Sender's id, form, boot, counter."""
DATAGRAM_SEAL_BYTES: Final = 64
"""The larger of the two inner layers: an Ed25519 signature; a box takes 16."""
DATAGRAM_PAYLOAD_BYTES_MAX: Final = (
    DATAGRAM_BYTES_MAX - DATAGRAM_OUTER_BYTES - DATAGRAM_HEAD_BYTES - DATAGRAM_SEAL_BYTES
)
"""What one datagram carries for the layer above, whoever it is for."""
DATAGRAM_DRAIN_COUNT_MAX: Final = 32
"""Read from one socket before the loop gets another turn."""
DATAGRAM_PEERS_COUNT_MAX: Final = 4096
"""Peers whose keys are kept; those that nobody asked to keep go first, the longest silent first."""
DATAGRAM_WINDOW_COUNT: Final = 256
"""How far a datagram may be overtaken by later ones of its sender and still be taken."""
DATAGRAM_SILENCE_S: Final = 10.0
"""A sender silent for so long may come back with an earlier boot: its clock was set back."""
DATAGRAM_INTRODUCE_S: Final = 2.0
"""A peer that sealed nothing for us for so long may have forgotten our certificate; it goes along until the peer
does."""
DATAGRAM_SOCKET_BYTES: Final = 512 * KIB
"""What the kernel is asked to buffer in each direction."""

HINT_ADDRESSES_COUNT_MAX: Final = 8
"""Addresses of one peer that are announced, remembered or tried."""
ANNOUNCED_PEERS_COUNT_MAX: Final = 1024
"""Names heard by mDNS that are followed at one time; a LAN can be flooded with names by anyone on it."""
ANNOUNCEMENT_QUERIES_COUNT_MAX: Final = 32
"""Questions about incomplete announcements under way at one time."""
SEEDS_COUNT_MAX: Final = 64
SEED_FIRST_S: Final = 0.25
SEED_MAX_S: Final = 30.0
CACHED_PEERS_COUNT_MAX: Final = 512
CACHED_PEERS_BYTES_MAX: Final = 512 * KIB
CACHED_PEER_LIFE_S: Final = 30 * 86400.0
"""A peer not heard of for so long is forgotten."""
PRESENCE_BYTES_MAX: Final = 4 * KIB
PRESENCE_COUNT_MAX: Final = 64
"""Nodes of one home on one machine."""
INTERFACES_POLL_S: Final = 2.0
"""How soon a change of addresses (another Wi-Fi, a laptop woken) is seen."""

assert (
    DATAGRAM_OUTER_BYTES + DATAGRAM_HEAD_BYTES + 2 + CERTIFICATE_BYTES_MAX + DATAGRAM_SEAL_BYTES <= DATAGRAM_BYTES_MAX
)
assert CACHED_PEERS_COUNT_MAX * 800 <= CACHED_PEERS_BYTES_MAX
assert SEED_FIRST_S < SEED_MAX_S

# -- lanes between processes -------------------------------------------------------------------

LANE_LINES_MAX: Final = 1 << 20
"""64-byte lines of one ring: 64 MiB, taken when it is made."""
