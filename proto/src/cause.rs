//! The words for why an update did not go on, or does not begin, that server and agents must agree on: those for which neither
//! the release nor the host is to blame. Every other cause is the agent's own and means a failure.

/// The host's own trust does not permit the release on its ring.
pub const NOT_PERMITTED: &str = "not-permitted";
/// Enough keys signed its promotion, but not the right people.
pub const NOT_APPROVED: &str = "not-approved";
/// Its promotion lacks what the ring demands: a digest, or a ring that comes before.
pub const NOT_PROVEN: &str = "not-proven";
/// It is below the floor, or its promotion sets a floor above it.
pub const BELOW_FLOOR: &str = "below-floor";
/// The release failed here before.
pub const QUARANTINED: &str = "quarantined";
/// Too many updates of the product failed on the host.
pub const FAILED_TOO_OFTEN: &str = "failed-too-often";
/// The metadata that would permit the release has expired.
pub const METADATA_EXPIRED: &str = "metadata-expired";
/// Content did not come: the network, a mirror or the server.
pub const FETCH_FAILED: &str = "fetch-failed";
/// The server cannot be reached, or answers that it cannot.
pub const SERVER_AWAY: &str = "server-away";
/// The server does not give the leave to begin.
pub const LEASE_DENIED: &str = "lease-denied";
/// Another program holds what the update needs.
pub const BUSY: &str = "busy";
/// What runs on the host is not healthy, and its owner lets no update come then.
pub const RED_BEFORE: &str = "red-before";
/// The backup could not be copied to its second place, and the host's owner wants it there first.
pub const SECOND_PLACE_AWAY: &str = "second-place-away";
/// The server ordered the host to go back.
pub const BACKED_OUT: &str = "backed-out";
/// A person on the host brought a backup back.
pub const RESTORED: &str = "restored";

/// A person paused the rollout of a host's ring.
pub const PAUSED: &str = "paused";
/// The brake stopped it.
pub const HALTED: &str = "halted";
/// The ring is going back.
pub const ROLLED_BACK: &str = "rolled-back";
/// Holds that stop a host also where nobody but its own root orders anything.
pub const STOPS: [&str; 3] = [PAUSED, HALTED, ROLLED_BACK];

/// All causes above: the weather, or an order of ours. A rollout does not count them as failures.
pub const BLAMELESS: [&str; 15] = [
    NOT_PERMITTED,
    NOT_APPROVED,
    NOT_PROVEN,
    BELOW_FLOOR,
    QUARANTINED,
    FAILED_TOO_OFTEN,
    METADATA_EXPIRED,
    FETCH_FAILED,
    SERVER_AWAY,
    LEASE_DENIED,
    BUSY,
    RED_BEFORE,
    SECOND_PLACE_AWAY,
    BACKED_OUT,
    RESTORED,
];
