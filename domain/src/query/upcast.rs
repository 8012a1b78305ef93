use crate::upcast::{Data, Upcast};

pub(super) const ALL: &[Upcast] = &[Upcast {
    from: "query.cancelled.v1",
    to: "query.cancelled.v2",
    data: cancelled_v2,
}];

/// Only owners could give their queries up.
fn cancelled_v2(mut data: Data) -> Data {
    data.insert("by".into(), "owner".into());
    data
}

#[cfg(test)]
mod tests {
    use crate::{
        catalogue::Entry,
        commit::decode,
        query::{CancelledBy, Event},
    };

    #[test]
    fn who_cancelled_before_anybody_said_so_was_the_owner() {
        let old = Entry::find("query.cancelled.v1").unwrap().example();
        let commit = format!("[{old}]");
        let events: Vec<Event> = decode("ev", commit.as_bytes()).unwrap();
        let [Event::Cancelled { query, by, at }] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(*by, CancelledBy::Owner);
        assert_eq!(old["data"]["query"], query.to_string());
        assert_eq!(old["data"]["at"], at.to_string());
    }
}
