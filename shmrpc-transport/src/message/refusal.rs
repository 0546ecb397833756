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
    pub(crate) fn reason(self) -> Box<str> {
        let words = WORDS.try_with(|words| words.take()).unwrap_or_default();
        if words.is_empty() { "no reason was given".into() } else { words.into() }
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
    fn the_words_of_the_latest_refusal_are_told_once() {
        let _older = Refusal::new(fmt::Error);
        let refusal = Refusal::new(std::io::Error::other("too deep")).trace("in field `a`");
        assert_eq!(&*refusal.reason(), "too deep; in field `a`");
        assert_eq!(&*refusal.reason(), "no reason was given");
    }
}
