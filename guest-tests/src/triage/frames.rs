//! Where in the kernel it complained: the call trace behind the first complaint of a log, as names of functions.
//!
//! A stall (of RCU, a lockup) is no place: its trace shows what happened to be running on a machine that had too much to do.

use super::words::{function, without_time};
use crate::findings::{is_grave, is_stall};

/// So many name the place; those further down are how the thread came to live.
const KEPT: usize = 4;

/// Lines behind a complaint in which its call trace must begin and end.
const REACH: usize = 120;

/// What every complaint passes through on its way to the console, and what every sleeping task ends in.
const EVERYWHERE: &[&str] = &[
    "dump_stack",
    "show_",
    "panic",
    "__warn",
    "report_bug",
    "handle_bug",
    "exc_",
    "asm_",
    "die",
    "__die",
    "oops_",
    "page_fault_oops",
    "do_trap",
    "do_error_trap",
    "__schedule",
    "schedule",
    "io_schedule",
    "__wait_on_bit",
    "out_of_line_wait",
    "wait_for_completion",
    "__rwsem",
    "down_read",
    "down_write",
    "rwsem_",
    "print_",
    "kasan_",
    "lockdep_",
];

/// Functions of the call trace behind the first complaint, innermost first; empty: the log has none.
pub fn of_log(log: &str) -> Vec<String> {
    let complains = |line: &str| is_grave(line) && !is_stall(line);
    let behind = log.lines().map(without_time).skip_while(|line| !complains(line)).take(REACH);
    let mut lines = behind.skip_while(|line| !begins(line));
    let Some(first) = lines.next() else { return Vec::new() };
    let mut frames: Vec<String> = rip(first).into_iter().collect();
    for line in lines.take_while(|line| !line.starts_with("---[ end")) {
        let frame = rip(line).or_else(|| called(line));
        frames.extend(frame.filter(|frame| frames.last() != Some(frame)));
    }
    frames.retain(|frame| !EVERYWHERE.iter().any(|everywhere| frame.starts_with(everywhere)));
    frames.truncate(KEPT);
    frames
}

/// The place of the instruction, or the head of the list of callers.
fn begins(line: &str) -> bool {
    line.starts_with("RIP:") || line.starts_with("Call Trace:")
}

/// `RIP: 0010:ext4_put_io_end+0x11/0x40 [ext4]`. That of the user's program, `RIP: 0033:0x7f…`, is no function.
fn rip(line: &str) -> Option<String> {
    let place = line.strip_prefix("RIP:")?.trim().split_once(':')?.1;
    in_kernel(place)
}

/// A line of the list. What the kernel is not sure of begins with `?`.
fn called(line: &str) -> Option<String> {
    if line.starts_with(['?', '<']) { None } else { in_kernel(line) }
}

/// `function+0xOFFSET/0xSIZE`, and nothing else before it.
fn in_kernel(place: &str) -> Option<String> {
    let first = place.split_whitespace().next()?;
    let (_, offset) = first.split_once('+')?;
    let name = function(first);
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (named && offset.starts_with("0x") && offset.contains('/')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OOPS: &str = "\
[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    5.1] #PF: supervisor read access in kernel mode
[    5.1] CPU: 0 PID: 41 Comm: kworker/u2:1 Not tainted 6.1.0-56-cloud-amd64 #1
[    5.1] RIP: 0010:ext4_put_io_end+0x11/0x40 [ext4]
[    5.1] RAX: 0000000000000000 RBX: ffff888003a4b000
[    5.1] Call Trace:
[    5.1]  <TASK>
[    5.1]  ? __die_body.cold+0x1a/0x1f
[    5.1]  ext4_end_bio.constprop.0+0x91/0x140 [ext4]
[    5.1]  blk_update_request+0x124/0x480
[    5.1]  blk_mq_end_request+0x18/0x30
[    5.1]  virtblk_done+0x6b/0xd0 [virtio_blk]
[    5.1]  </TASK>
[    5.1] ---[ end trace 0000000000000000 ]---
[    5.1] RIP: 0010:other+0x11/0x40";

    #[test]
    fn the_first_trace_says_where_without_numbers() {
        assert_eq!(of_log(OOPS), ["ext4_put_io_end", "ext4_end_bio", "blk_update_request", "blk_mq_end_request"]);
        assert_eq!(of_log("[ 1.0] EXT4-fs (vda): mounted"), [""; 0]);
    }

    #[test]
    fn other_addresses_and_another_compiler_say_the_same() {
        let other = OOPS.replace("0x11/0x40", "0x2f/0x90").replace(".constprop.0", ".isra.0").replace("5.1]", "77.25]");
        assert_eq!(of_log(&other), of_log(OOPS));
    }

    #[test]
    fn a_stall_is_no_place_and_hides_none() {
        let stall = "\
[   20.0] rcu: INFO: rcu_preempt self-detected stall on CPU
[   20.0] Call Trace:
[   20.0]  delay_tsc+0x1/0x2
[   21.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [kworker/0:1:12]
[   21.0] RIP: 0010:pv_native_safe_halt+0xf/0x20\n";
        assert_eq!(of_log(stall), [""; 0]);
        assert_eq!(of_log(&format!("{stall}{OOPS}")), of_log(OOPS));
    }

    #[test]
    fn a_task_that_hangs_is_named_by_who_waits() {
        let log = "\
INFO: task jbd2/vda-8:77 blocked for more than 122 seconds.
Call Trace:
 <TASK>
 __schedule+0x35b/0x9e0
 schedule+0x5d/0xe0
 io_schedule+0x42/0x70
 bit_wait_io+0xd/0x60
 jbd2_journal_commit_transaction+0x11b5/0x19e0 [jbd2]
 kjournald2+0xa9/0x280 [jbd2]";
        assert_eq!(of_log(log), ["bit_wait_io", "jbd2_journal_commit_transaction", "kjournald2"]);
    }
}
