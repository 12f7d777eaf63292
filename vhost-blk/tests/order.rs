//! Every interleaving of what queues do beside each other without a lock, in small: the file under test is the device's
//! own, with atomics that `loom` watches.

use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../src/order.rs"]
#[allow(dead_code, reason = "the file under test is included, not linked")]
mod order;

mod atomics {
    pub use loom::sync::atomic::{AtomicU64, Ordering};
}

use order::{Epoch, Order};

/// A request that waits, and whether it has touched the disk.
#[derive(Default)]
struct Parked {
    waits: Option<u64>,
    touched: bool,
}

/// Queue A decides that its write waits; queue B's request, which no rule looks at, overlaps it.
#[test]
fn a_request_never_overtakes_an_earlier_one_that_waits() {
    loom::model(|| {
        let order = Arc::new(Order::new());
        let gates = Arc::new(Mutex::new(Parked::default()));
        let deciding = {
            let (order, gates) = (order.clone(), gates.clone());
            thread::spawn(move || {
                let mut gates = gates.lock().expect("no panic");
                order.begin_gating();
                gates.waits = Some(order.arrive());
                gates.waits
            })
        };
        let passing = {
            let (order, gates) = (order.clone(), gates.clone());
            thread::spawn(move || {
                let seq = order.arrive();
                if order.is_gating() {
                    let mut gates = gates.lock().expect("no panic");
                    if gates.waits.is_some_and(|waiting| waiting < seq) {
                        gates.touched = true;
                    }
                }
                // Here it touches the disk itself.
                (seq, gates.lock().expect("no panic").touched)
            })
        };
        let waiting = deciding.join().expect("no panic").expect("it waits");
        let (seq, touched_before) = passing.join().expect("no panic");
        assert!(seq < waiting || touched_before, "{seq} overtook {waiting}");
        assert!(order.is_gating() && order.next_seq() == 2);
    });
}

/// A parked request leaves while another arrives: either is looked for while it waits, and nobody is after it has left.
#[test]
fn one_that_has_left_is_looked_for_by_nobody() {
    loom::model(|| {
        let order = Arc::new(Order::new());
        order.begin_gating();
        let seq = order.arrive();
        let leaving = {
            let order = order.clone();
            thread::spawn(move || order.end_gating())
        };
        order.begin_gating();
        let later = order.arrive();
        assert!(order.is_gating() && later > seq);
        order.end_gating();
        leaving.join().expect("no panic");
        assert!(!order.is_gating());
    });
}

/// A verb changes the rules and answers; a request that is sent after the answer meets the new rules.
#[test]
fn after_a_change_has_been_told_every_request_meets_the_new_rules() {
    loom::model(|| {
        let epoch = Arc::new(Epoch::new(0));
        let rules = Arc::new(Mutex::new(0u64));
        let answered = Arc::new(atomics::AtomicU64::new(0));
        let verb = {
            let (epoch, rules, answered) = (epoch.clone(), rules.clone(), answered.clone());
            thread::spawn(move || {
                for generation in 1..=2 {
                    let mut rules = rules.lock().expect("no panic");
                    *rules = generation;
                    assert!(epoch.tell(generation));
                    drop(rules);
                    answered.store(generation, atomics::Ordering::Release);
                }
            })
        };
        let (mut mine, mut copy) = (0, 0);
        for _ in 0..2 {
            let least = answered.load(atomics::Ordering::Acquire);
            if let Some(generation) = epoch.is_other_than(mine) {
                copy = *rules.lock().expect("no panic");
                mine = generation;
            }
            assert!(copy >= least, "it knew of {least} and met {copy}");
            assert!(copy >= mine, "a copy is never older than it is taken for");
        }
        verb.join().expect("no panic");
        assert_eq!(epoch.is_other_than(2), None);
    });
}
