//! The figures that the contract fixes, in one place.

/// Longest query text, in characters after trimming (contract §5).
pub const QUERY_CHARS: usize = 32_000;
/// Most files that one query may name.
pub const QUERY_FILES: usize = 5;
/// Longest name of an operation, in characters.
pub const OPERATION_CHARS: usize = 32;
/// Shortest and longest password, in characters (contract §2).
pub const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=128;
/// Longest e-mail address, in bytes (RFC 5321, section 4.5.3.1.3, less the angle brackets).
pub const EMAIL_BYTES: usize = 254;
/// Longest display name, in characters.
pub const NAME_CHARS: usize = 200;
/// Longest `Idempotency-Key`, client reference, device id and device name, in characters.
pub const KEY_CHARS: usize = 128;
/// Life of an access token in seconds.
pub const ACCESS_TOKEN_SECS: i64 = 900;
/// Life of a refresh token in seconds.
pub const REFRESH_TOKEN_SECS: i64 = 2_592_000;
/// A refresh token that comes again later than this after its rotation ends its session.
pub const REFRESH_REUSE_GRACE_MILLIS: u64 = 60_000;
/// How long a REST call waits for the end of its query, in milliseconds.
pub const QUERY_WAIT_MILLIS: u64 = 120_000;
/// How long a query may take from being asked to its end, in milliseconds; then it is failed.
pub const QUERY_LIFE_MILLIS: i64 = 900_000;
/// How long the token stream of a query can be replayed, in milliseconds (contract §15).
pub const TOKENS_LIFE_MILLIS: u64 = 86_400_000;
/// How long a read waits for the projection to reach the caller's last write, in milliseconds.
pub const READ_WAIT_MILLIS: u64 = 2_000;
/// An identical query by REST within this time gets the first one back, in milliseconds.
pub const DUPLICATE_QUERY_MILLIS: u64 = 10_000;
/// A socket may claim a query that its user posted by REST within this time, in milliseconds.
pub const CLAIM_QUERY_MILLIS: u64 = 120_000;
/// Largest JSON body of a request, in bytes.
pub const JSON_BODY_BYTES: usize = 1024 * 1024;
/// Largest frame that a client may send on a socket, in bytes.
pub const SOCKET_FRAME_BYTES: usize = 64 * 1024;
/// A socket that falls this many messages behind is closed with 1013.
pub const SOCKET_BACKLOG_FRAMES: usize = 1024;
/// Most sockets of one user.
pub const SOCKETS_PER_USER: usize = 20;
/// Most messages per second that one socket may send.
pub const SOCKET_MESSAGES_PER_SECOND: u32 = 50;
/// Most API keys of one person that live.
pub const API_KEYS: usize = 50;
/// Revoked API keys that a person's keys remember by id; older ones count as unknown.
pub const REVOKED_API_KEYS: usize = 128;
/// Longest name of an API key, in characters.
pub const API_KEY_NAME_CHARS: usize = 100;
/// Largest conversation that one query may bring, in bytes of its messages as JSON.
pub const CONVERSATION_BYTES: usize = 256 * 1024;
/// Recent command ids that an aggregate remembers, to recognise a retry.
pub const RECENT_COMMANDS: usize = 128;
/// Superseded refresh ids that a session remembers by name; older ones count as long superseded.
pub const SUPERSEDED_REFRESH_IDS: usize = 16;
