//! The figures that every whole report has, by name. Programs read them from the JSON.

use crate::{figures::Figures, work::SIZES};

/// `{a,b}` stands for each of them, SIZE for each size of a payload in bytes.
const PROMISED: [&str; 22] = [
    "limit.{spin,futex,uds,tcp}_ns",
    "limit.{handoff,handoff_copy}.SIZE_ns",
    "limit.ring.64_per_s",
    "call.shm.{awake,asleep,untrusted,default}_ns",
    "call.shm.asleep.slept_share",
    "call.{uds,tcp,tls,inproc}_ns",
    "ratio.call.shm.{awake,untrusted,asleep}",
    "ratio.call.{uds,tcp}",
    "payload.shm.SIZE.{inplace,copied}_ns",
    "payload.{uds,tcp}.SIZE_ns",
    "payload.{shm,uds}.SIZE.blob_ns",
    "view.shm.SIZE_ns",
    "ratio.payload.shm.SIZE.{inplace,copied}",
    "ratio.blob.1048576",
    "ratio.memfd.16777216",
    "lane.shm.64_per_s",
    "contended.{shm,uds}.4.{total_per_s,slowest_per_s,p99_ns}",
    "ratio.contended.{total,slowest}",
    "connect.{shm,uds,tcp}_us",
    "idle.{wakeups_per_s,cpu_ms_per_s}",
    "memory.per_connection_kib",
    "survive.{crash_points,kills,fuzz_execs,evil_seconds}",
];

/// Those that a whole report should have and this one has not, or not as a number.
pub(crate) fn missing(figures: &Figures) -> Vec<String> {
    let sizes = SIZES.map(|size| size.to_string()).join(",");
    let promised = PROMISED.iter().flat_map(|names| each(&names.replace("SIZE", &format!("{{{sizes}}}"))));
    promised.filter(|key| !figures.has(key)).collect()
}

/// All that a text with `{a,b}` in it stands for.
fn each(names: &str) -> Vec<String> {
    let Some((before, rest)) = names.split_once('{') else { return vec![names.to_owned()] };
    let Some((choice, after)) = rest.split_once('}') else { return vec![names.to_owned()] };
    let ends = each(after);
    choice.split(',').flat_map(|one| ends.iter().map(move |end| format!("{before}{one}{end}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Goal;

    #[test]
    fn braces_stand_for_each() {
        assert_eq!(each("a.{b,c}.{1,2}_ns"), ["a.b.1_ns", "a.b.2_ns", "a.c.1_ns", "a.c.2_ns"]);
        assert_eq!(each("a"), ["a"]);
    }

    #[test]
    fn what_was_not_measured_is_missing() {
        let mut figures = Figures::default();
        let all = missing(&figures);
        assert!(all.contains(&"payload.uds.16777216_ns".to_owned()), "{all:?}");
        assert!(all.iter().all(|key| !key.contains(['{', '}', ' ']) && !key.contains("SIZE")), "{all:?}");
        for key in &all {
            let values: &[f64] = if key == "limit.uds_ns" { &[] } else { &[1.0] };
            figures.add(key.as_str(), "", values, Goal::None);
        }
        assert_eq!(missing(&figures), ["limit.uds_ns"]);
    }
}
