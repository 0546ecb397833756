use std::io::{PipeReader, Read};
use std::os::unix::net::UnixStream;

use super::*;
use crate::peers::PeerCredentials;
use crate::slot::DESCRIPTORS_MAX;

fn pair() -> (Stream, Stream) {
    let (near, far) = UnixStream::pair().unwrap();
    let [near, far] = [near, far].map(|end| Stream::socket(end.into(), true).unwrap());
    far.comes_from(Party::new(&PeerCredentials::own(), None));
    (near, far)
}

/// Sends some bytes with so many writing ends of a pipe, whose reading end is returned.
fn send(to: &Stream, count: usize) -> PipeReader {
    let (reader, writer) = io::pipe().unwrap();
    let mut descriptors = (0..count).map(|_| writer.try_clone().unwrap().into()).collect();
    to.send_with(b"bytes", Some(&mut descriptors), &mut Until::never()).unwrap();
    reader
}

fn receive(from: &Stream) -> Result<usize, Pause> {
    from.receive(&mut [0; 5], &mut Until::never())
}

fn is_closed(mut reader: PipeReader) -> bool {
    reader.read(&mut [0]).unwrap() == 0
}

#[test]
fn descriptors_come_with_their_bytes_and_exactly_as_many() {
    let (near, far) = pair();
    for count in [0, 1, DESCRIPTORS_MAX] {
        let reader = send(&near, count);
        assert_eq!(receive(&far).unwrap(), 5);
        assert_eq!(far.claim(count, false).unwrap().len(), count);
        assert!(is_closed(reader));
    }
    let _reader = send(&near, 1);
    receive(&far).unwrap();
    let fewer = far.claim(2, false).unwrap_err();
    assert!(matches!(fewer, BadDescriptors::Number { found: 1, announced: 2 }), "{fewer}");
    let reader = send(&near, 3);
    receive(&far).unwrap();
    assert!(matches!(far.claim(2, false), Err(BadDescriptors::Unwanted)));
    assert!(is_closed(reader));
    // The next frame has begun.
    let reader = send(&near, 3);
    receive(&far).unwrap();
    assert_eq!(far.claim(2, true).unwrap().len(), 2);
    assert_eq!(far.claim(1, false).unwrap().len(), 1);
    assert!(is_closed(reader));
}

#[test]
fn more_than_a_message_has_are_refused_and_closed() {
    for count in [DESCRIPTORS_MAX + 1, 100, 253] {
        let (near, far) = pair();
        let reader = send(&near, count);
        let refused = receive(&far).unwrap_err();
        assert!(matches!(refused, Pause::Descriptors(BadDescriptors::Unwanted)), "{count}: {refused}");
        assert!(is_closed(reader), "{count}");
    }
}

#[test]
fn a_pipe_inside_the_process_moves_them() {
    let (near, far) = Pipe::pair();
    let (near, far) = (Stream::pipe(near), Stream::pipe(far));
    let reader = send(&near, 2);
    receive(&far).unwrap();
    assert_eq!(far.claim(2, false).unwrap().len(), 2);
    assert!(is_closed(reader));
    let reader = send(&near, 2);
    drop((near, far));
    assert!(is_closed(reader));
}

/// Where nobody asks for urgent bytes the kernel skips them, and closes what is beside them.
#[test]
fn urgent_bytes_are_skipped_no_more_than_others() {
    let (near, far) = pair();
    let (mut reader, writer) = io::pipe().unwrap();
    let fds = [writer.as_raw_fd()];
    let beside = [ControlMessage::ScmRights(&fds)];
    let socket = near.as_socket().unwrap().as_raw_fd();
    sendmsg::<()>(socket, &[IoSlice::new(b"x")], &beside, MsgFlags::MSG_OOB, None).unwrap();
    drop(writer);
    near.send(b"more", &mut Until::never()).unwrap();
    assert_eq!(receive(&far).unwrap(), 1);
    let came = far.claim(1, true).unwrap();
    assert_eq!(receive(&far).unwrap(), 4);
    drop(came);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}
