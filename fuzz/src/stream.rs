//! Frames on a stream, in pieces of any size: what a lane's reader makes of them is what a model does that has all bytes at
//! once. No more memory is taken than there is room for.

use shmrpc_transport::message::{Message, Pool};
use shmrpc_transport::slot::{BLOCK_REF, FLAG_BLOCK, HEADER, Header, INLINE};
use shmrpc_transport::stream::{Cut, Pause, Reader};

use crate::input::Input;

/// Bytes of all copies at once.
const ROOM: u64 = 8192;

/// A stream that ends, and the sizes of its pieces.
pub fn stream(data: &[u8]) {
    let mut input = Input(data);
    let max = 1 << input.below(20);
    let sizes: [u8; 4] = input.array();
    let (mut rest, mut coming) = (input.0, input.0);
    let (mut reader, mut message, pool) = (Reader::default(), Message::empty(), Pool::new(ROOM));
    let mut turn = 0;
    loop {
        let read = reader.next(&mut message, max, &pool, |room| {
            assert!(!room.is_empty(), "nothing was asked for");
            turn += 1;
            let size = usize::from(sizes[turn % sizes.len()]) + 1;
            if coming.is_empty() {
                return Err(Pause::Closed);
            }
            if turn % 3 == 0 && turn < 100 {
                return Err(Pause::TimedOut);
            }
            let (now, later) = coming.split_at(size.min(room.len()).min(coming.len()));
            room[..now.len()].copy_from_slice(now);
            coming = later;
            Ok(now.len())
        });
        match (due(&mut rest, max), read) {
            (Due::Frame(header, payload), Ok(found)) => {
                assert_eq!(found, header);
                assert_holds(&message, payload);
            }
            // It goes on where it was.
            (Due::Frame(header, payload), Err(Cut::Pause(Pause::TimedOut))) => {
                rest = rest_before(data, rest, header, payload);
            }
            (_, Err(Cut::Pause(Pause::TimedOut))) => {}
            (Due::End, Err(Cut::Pause(Pause::Closed))) => break,
            (Due::Bad, Err(Cut::Header(_))) => break,
            (Due::TooLarge(length), Err(Cut::TooLarge { length: found, max: limit })) => {
                assert_eq!((found, limit), (length, max));
                break;
            }
            (due, read) => panic!("{due:?} came as {read:?}"),
        }
    }
    crate::memory::assert_bounded();
}

/// What comes next, by all bytes at once.
#[derive(Debug)]
enum Due<'a> {
    Frame(Header, &'a [u8]),
    Bad,
    TooLarge(u32),
    End,
}

fn due<'a>(rest: &mut &'a [u8], max: u64) -> Due<'a> {
    let Some((head, behind)) = rest.split_first_chunk::<HEADER>() else { return Due::End };
    let Ok(header) = Header::from_frame(head) else { return Due::Bad };
    if u64::from(header.length) > max {
        return Due::TooLarge(header.length);
    }
    let length = if header.flags & FLAG_BLOCK != 0 { BLOCK_REF } else { header.length as usize };
    let Some((payload, behind)) = behind.split_at_checked(length) else { return Due::End };
    *rest = behind;
    Due::Frame(header, payload)
}

/// The stream from this frame on.
fn rest_before<'a>(data: &'a [u8], rest: &[u8], _: Header, payload: &[u8]) -> &'a [u8] {
    &data[data.len() - rest.len() - payload.len() - HEADER..]
}

fn assert_holds(message: &Message, payload: &[u8]) {
    if message.len() != payload.len() {
        assert!(message.is_empty() && payload.len() > INLINE, "{message:?}");
        let error = message.decode::<u64>().unwrap_err().to_string();
        assert!(error.contains("room"), "{error}");
        return;
    }
    if let Some(last) = payload.last_chunk().filter(|_| payload.len().is_multiple_of(8)) {
        assert_eq!(message.decode::<u64>().unwrap(), u64::from_le_bytes(*last));
    }
}
