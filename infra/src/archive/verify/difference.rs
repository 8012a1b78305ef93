use crate::archive::Corrupt;
use serde::Serialize;

/// Where it differs first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which of the two is not as it should be.
    pub side: Side,
    /// What is wrong.
    pub what: What,
    /// The first sequence that it concerns.
    pub seq: u64,
    /// The last one, as far as that is known.
    pub last: u64,
    /// The aggregate's subject, if it is about one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The object of the copy that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The same in words.
    pub detail: String,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The copy.
    Copy,
    /// The log.
    Log,
    /// They differ, and nothing says which one is right.
    Either,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// There is no log.
    LogAbsent,
    /// The log ends before the copy does.
    LogEndsEarly,
    /// The server says that there are messages, and does not have them.
    LogUnreadable,
    /// The log lacks messages that the copy has.
    MissingInLog,
    /// The log lacked messages when they were to be copied: neither has them.
    MissingInBoth,
    /// The log has messages that it did not have when they were to be copied.
    MissingInCopy,
    /// They have different messages at the same sequence.
    Differs,
    /// A page of the manifest is not there.
    MissingPage,
    /// A page of the manifest cannot be read.
    DamagedPage,
    /// A segment is not there.
    MissingSegment,
    /// A segment is not what was written.
    DamagedSegment,
    /// A segment does not go on where the one before it ended.
    BrokenChain,
    /// A page of the ledger of what was purged is not there, or not what was written.
    DamagedLedger,
}

pub(super) fn log_side(what: What, seq: u64, last: u64, detail: String) -> Difference {
    Difference {
        side: Side::Log,
        what,
        seq,
        last,
        subject: None,
        object: None,
        detail,
    }
}

pub(super) fn copy(
    what: What,
    (seq, last): (u64, u64),
    object: String,
    detail: String,
) -> Difference {
    Difference {
        side: Side::Copy,
        what,
        seq,
        last,
        subject: None,
        object: Some(object),
        detail,
    }
}

pub(super) fn damaged(range: (u64, u64), key: String, source: Corrupt) -> Difference {
    let detail = format!("{key} is damaged: {source}");
    copy(What::DamagedSegment, range, key, detail)
}

pub(super) fn absent(seq: u64) -> Difference {
    let detail = "the server does not know the stream EVENTS, of which there is a copy".to_owned();
    log_side(What::LogAbsent, seq, seq, detail)
}
