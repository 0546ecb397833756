//! The command channel between the report and a process it spawned: lines of text over a socket pair.

use std::{
    io::{BufRead, BufReader, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use crate::error::{Error, Result};

/// One end of a command channel.
pub(crate) struct Channel {
    stream: BufReader<UnixStream>,
}

impl Channel {
    /// A channel over one end of a socket pair.
    pub(crate) fn over(stream: UnixStream) -> Channel {
        Channel { stream: BufReader::new(stream) }
    }

    /// Sends one line.
    pub(crate) fn send(&mut self, line: &str) -> Result<()> {
        let mut bytes = line.replace('\n', " ").into_bytes();
        bytes.push(b'\n');
        Ok(self.stream.get_mut().write_all(&bytes)?)
    }

    /// Receives one line, or none when the other side is gone.
    pub(crate) fn receive(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Ok(None),
            _ => Ok(Some(line.trim_end().to_owned())),
        }
    }

    /// Receives a line that starts with `word` and returns its rest.
    pub(crate) fn expect(&mut self, word: &str) -> Result<String> {
        let line = self.receive()?.ok_or_else(|| Error::Peer("is gone".to_owned()))?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => Err(Error::Peer(line)),
        }
    }

    /// Tells the other side that no further command comes.
    pub(crate) fn close(&self) {
        // Fails only if the other side is gone already, which is what closing is for.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}
