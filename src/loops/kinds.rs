//! The kinds of frames.

/// The parent's first frame, which comes with the listeners: see [`Hello`](crate::loops::hello::Hello).
pub const HELLO: u8 = 1;

// Input of sources, as the parent handles it.
pub const MESSAGE: u8 = 2;
pub const ENTRY: u8 = 3;
pub const REACHED: u8 = 4;
pub const STREAM_BEGINS: u8 = 5;
pub const PREFILL: u8 = 6;
pub const STREAM_LOST: u8 = 7;
pub const READER: u8 = 8;
pub const SUBSCRIPTION: u8 = 9;

// The state of the parent, from which a worker goes on.
pub const STATE_RECORD: u8 = 10;
pub const STATE_ENTRY: u8 = 11;
pub const STATE_GAP: u8 = 12;
pub const STATE_REVOCATION: u8 = 13;
/// The number of the first record: before all records.
pub const STATE_BEGIN: u8 = 14;
/// Everything else; the last frame of the state.
pub const STATE_END: u8 = 15;

/// The parent's next number: the worker's must be the same.
pub const NEXT: u8 = 16;
/// The parent's answer to a [`PUBLISH`].
pub const ANSWER: u8 = 17;
pub const RELOAD: u8 = 18;
pub const DRAIN: u8 = 19;
/// The parent asks for a page of the admin listener: see [`desk`](crate::loops::desk).
pub const QUESTION: u8 = 25;
/// A user has a newer client at another worker.
pub const ELSEWHERE: u8 = 28;
/// A client that is one too many for its user.
pub const CROWDED: u8 = 29;
/// The connections of an address elsewhere.
pub const ADDRESS_ELSEWHERE: u8 = 52;
/// Connections of an address of which some are too many.
pub const ADDRESS_CROWDED: u8 = 56;
/// A worker's share of `clients_max`.
pub const SHARE: u8 = 53;
/// The number of clients that have their place in the order of all loops now, of those that a worker told of.
pub const ORDERED: u8 = 50;

// Orders of an upgrade: see [`handover`](crate::loops::broker). A socket to the worker's successor comes beside the first one.
pub const PREPARE: u8 = 30;
pub const REST: u8 = 31;
pub const HAND_OVER: u8 = 32;
pub const GO_ON: u8 = 33;

/// A worker has its parts and asks for the state.
pub const ATTACH: u8 = 20;
/// A worker serves clients.
pub const SERVING: u8 = 21;
/// A sign of life, with the number of clients.
pub const PULSE: u8 = 22;
/// The receivers of counted messages.
pub const COUNTS: u8 = 23;
/// A message of a worker's handler, to be published by the parent.
pub const PUBLISH: u8 = 24;
/// A worker's report for such a page.
pub const REPORT: u8 = 26;
/// Clients of users that came to a worker or left it.
pub const USERS: u8 = 27;
/// The same for presence: see [`roster`](crate::loops::roster).
pub const ROSTER: u8 = 40;
/// Members of topics that came to a worker or left it, without any: all that it took over; and its request for a list: see
/// [`members`](crate::loops::members).
pub const MEMBERS: u8 = 42;
pub const MEMBERS_READ: u8 = 43;
/// The parent's list, and topics whose lists have changed.
pub const MEMBERS_LIST: u8 = 44;
pub const MEMBERS_CHANGED: u8 = 45;
/// Deliveries that are counted for receipts: see [`deliveries`](crate::loops::deliveries).
pub const DELIVERIES: u8 = 41;
/// The connections of an address at a worker.
pub const ADDRESS_COUNT: u8 = 54;
/// The part of its share that a worker uses.
pub const SHARE_USE: u8 = 55;
/// A worker tells all of its users anew.
pub const USERS_AGAIN: u8 = 51;
/// A worker has come to rest.
pub const AT_REST: u8 = 35;
