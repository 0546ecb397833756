//! What rkyv says when it refuses something, at no cost to what it does not refuse.
//!
//! An error type that carries words makes every step of validation slower (20 ns of a call of 140, when it was rkyv's
//! boxed error); one that carries none leaves the user without a reason. So the error is empty, and the words wait in
//! a thread-local until they are asked for, on the same thread and at once.

use core::cell::RefCell;
use core::fmt;

use rkyv::rancor::{Source, Trace};

/// Something was refused, on this thread.
#[derive(Debug, Clone, Copy)]
pub struct Refusal(());

thread_local! {
    /// The words of the refusal that is under way.
    static WORDS: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Refusal {
    /// Why. To be asked once, by whoever gets the refusal first.
    #[cold]
    pub fn reason(self) -> Box<str> {
        let words = WORDS.try_with(|words| words.take()).unwrap_or_default();
        if words.is_empty() { "no reason was given".into() } else { without_addresses(words).into() }
    }

    #[cold]
    fn say(words: &dyn fmt::Display, anew: bool) {
        // In the destructors of a thread that ends there may be no place for words any more.
        let _said = WORDS.try_with(|place| {
            let mut place = place.borrow_mut();
            if anew {
                place.clear();
            } else {
                place.push_str("; ");
            }
            place.push_str(&words.to_string());
        });
    }
}

/// The reason goes to the peer, who must not learn where our memory lies: rkyv names places by their address, `0x` and 16
/// digits.
fn without_addresses(mut words: String) -> String {
    const DIGITS: usize = 16;
    let mut from = 0;
    while let Some(at) = words.get(from..).and_then(|rest| rest.find("0x")) {
        from += at + 2;
        let digits = words.bytes().skip(from).take_while(u8::is_ascii_hexdigit).count();
        if digits == DIGITS {
            words.replace_range(from..from + digits, "..");
        }
    }
    words
}

impl Source for Refusal {
    fn new<T: core::error::Error + Send + Sync + 'static>(source: T) -> Self {
        Self::say(&source, true);
        Self(())
    }
}

impl Trace for Refusal {
    fn trace<R: fmt::Debug + fmt::Display + Send + Sync + 'static>(self, trace: R) -> Self {
        Self::say(&trace, false);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("refused")
    }
}

impl core::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_told() {
        let words = "ptr 0x00007b36d0ef8870 size 0x10 in range 0x00007b36d0ef8870..0x00007b36d0ef8880";
        let refusal = Refusal::new(std::io::Error::other(words));
        assert_eq!(&*refusal.reason(), "ptr 0x.. size 0x10 in range 0x....0x..");
        let refusal = rkyv::access::<rkyv::Archived<Vec<u8>>, Refusal>(&rkyv::util::Align([0xff; 64]).0);
        let refusal = refusal.unwrap_err();
        let reason = refusal.reason();
        assert!(reason.contains("0x..") && !reason.contains("0x0"), "{reason}");
    }

    #[test]
    fn the_words_of_the_latest_refusal_are_told_once() {
        let _older = Refusal::new(fmt::Error);
        let refusal = Refusal::new(std::io::Error::other("too deep")).trace("in field `a`");
        assert_eq!(&*refusal.reason(), "too deep; in field `a`");
        assert_eq!(&*refusal.reason(), "no reason was given");
    }
}
