//! Server-sent events, as far as providers use them: the `data` of each event, whatever pieces the
//! bytes come in (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use super::fault::Fault;
use std::collections::VecDeque;

/// Bytes of one event at most.
const EVENT_BYTES: usize = 1 << 20;

/// Puts events together. What is unfinished when the stream ends is no event.
#[derive(Debug, Default)]
pub(super) struct Sse {
    line: Vec<u8>,
    /// The lines of data of the event that is coming.
    data: Option<String>,
    /// A line feed right after a carriage return ends no further line.
    after_return: bool,
    events: VecDeque<String>,
}

impl Sse {
    /// Takes the next bytes, and says whether a line ends in them.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let mut has_line = false;
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    self.end_line()?;
                    has_line = true;
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > EVENT_BYTES {
                let reason = format!("an event has more than {EVENT_BYTES} bytes");
                return Err(Fault::again(reason));
            }
        }
        Ok(has_line)
    }

    /// The next whole event.
    pub(super) fn next(&mut self) -> Option<String> {
        self.events.pop_front()
    }

    fn end_line(&mut self) -> Result<(), Fault> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.events.extend(self.data.take());
            return Ok(());
        }
        let Some(value) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let value = std::str::from_utf8(value)
            .map_err(|_| Fault::again("an event is not UTF-8".to_owned()))?;
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut sse = Sse::default();
        for piece in pieces {
            sse.push(piece).expect("good bytes");
        }
        std::iter::from_fn(|| sse.next()).collect()
    }

    #[test]
    fn events_come_out_the_same_however_the_bytes_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let lines = [
                ": a comment",
                "",
                "event: message",
                "data: {\"text\":\"größer ☀\"}",
                "id: 7",
                "",
                "data:one",
                "data:  two",
                "",
                "",
                "data: [DONE]",
                "",
                "data: never finished",
            ];
            let bytes: Vec<u8> = lines
                .iter()
                .flat_map(|line| format!("{line}{end}").into_bytes())
                .collect();
            let expected = ["{\"text\":\"größer ☀\"}", "one\n two", "[DONE]"];
            assert_eq!(events([bytes.as_slice()]), expected, "{end:?}");
            assert_eq!(events(bytes.chunks(1)), expected, "{end:?}, byte by byte");
            for cut in 1..bytes.len() {
                let (left, right) = bytes.split_at(cut);
                assert_eq!(events([left, right]), expected, "{end:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_too_long_or_not_utf8_is_a_fault() {
        let mut sse = Sse::default();
        assert!(sse.push(b"data: \xff\n").is_err());
        let mut sse = Sse::default();
        let line = [b"data: ".as_slice(), &[b'a'; 1000], b"\n"].concat();
        let failed = (0..2_000).find(|_| sse.push(&line).is_err());
        assert!(failed.is_some_and(|lines| lines > 1_000), "{failed:?}");
    }
}
